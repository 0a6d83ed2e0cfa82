"""A classifier of a user's own: embeddings, a weight for each token, the weighted mean, a linear layer.

It lives outside `models/` and declares no `_supports_packed`, so the service gives it padded batches. Importing this module
registers it with transformers' Auto classes.

Shapes: `B` batch, `L` length, `D` width.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import can_return_tuple


@strict
class KeywordPoolingConfig(PreTrainedConfig):
    """`max_position_embeddings` is the length that the service truncates to; the model itself has no limit."""

    model_type = "keyword_pooling"

    vocab_size: int = 1000
    hidden_size: int = 32
    initializer_range: float = 0.1
    max_position_embeddings: int = 128
    pad_token_id: int | None = 0


class KeywordPoolingForSequenceClassification(PreTrainedModel):
    """Scores each token, and classifies the mean of the embeddings under the softmax of the scores.

    A text "not good" whose tokens score 1 and 2 is classified by 0.27 * "not" + 0.73 * "good".
    """

    config: KeywordPoolingConfig
    base_model_prefix = "keyword_pooling"

    def __init__(self, config: KeywordPoolingConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.score = nn.Linear(config.hidden_size, 1)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: object,
    ) -> SequenceClassifierOutput:
        """Logits (B, labels) of ids (B, L); `attention_mask` is 1 for a token and 0 for padding."""
        embeddings_BLD = self.embeddings(input_ids)
        scores_BL = self.score(embeddings_BLD).squeeze(-1)
        if attention_mask is not None:
            scores_BL = scores_BL.masked_fill(attention_mask == 0, torch.finfo(scores_BL.dtype).min)
        weights_B1L = scores_BL.softmax(-1).unsqueeze(1)
        pooled_BD = (weights_B1L @ embeddings_BLD).squeeze(1)
        logits = self.classifier(pooled_BD)
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


AutoConfig.register(KeywordPoolingConfig.model_type, KeywordPoolingConfig, exist_ok=True)
AutoModelForSequenceClassification.register(KeywordPoolingConfig, KeywordPoolingForSequenceClassification, exist_ok=True)
