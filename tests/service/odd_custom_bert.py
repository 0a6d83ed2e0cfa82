"""A reader's own BERT, whose `model_type` is one of this project's. Importing this module registers it in that name.

It stands apart from `odd_architectures`, since a process that has imported it knows another "custom_bert".

Shapes: `B` batch, `L` length, `D` width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from models.tiny.checkpoints import draw
from models.tiny.configs import LABELS
from models.tiny.vocabularies import own_tokenizer

MAX_LENGTH = 64


class ReaderBertConfig(PreTrainedConfig):
    """The fields that a textbook gives."""

    model_type = "custom_bert"

    def __init__(
        self, vocab_size: int = 400, hidden_size: int = 32, num_hidden_layers: int = 2, num_attention_heads: int = 4,
        intermediate_size: int = 48, max_position_embeddings: int = MAX_LENGTH, pad_token_id: int = 0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.max_position_embeddings = max_position_embeddings


class ReaderBert(PreTrainedModel):
    """torch's own encoder layers over words, places and types."""

    config_class = ReaderBertConfig
    base_model_prefix = "bert"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.places = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.types = nn.Embedding(2, config.hidden_size)
        sizes = (config.hidden_size, config.num_attention_heads, config.intermediate_size)
        layer = nn.TransformerEncoderLayer(*sizes, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)
        self.register_buffer("position_ids", torch.arange(config.max_position_embeddings).unsqueeze(0), persistent=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            module.weight.data.normal_(mean=0.0, std=0.02)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, token_type_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The state of the first token (B, D)."""
        types_BL = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        embedded_BLD = self.words(input_ids) + self.places(self.position_ids[:, : input_ids.shape[1]]) + self.types(types_BL)
        padding = None if attention_mask is None else attention_mask == 0
        return self.encoder(embedded_BLD, src_key_padding_mask=padding)[:, 0]


class ReaderBertForSequenceClassification(PreTrainedModel):
    config_class = ReaderBertConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.bert = ReaderBert(config)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=0.02)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        pooled_BD = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(pooled_BD)))


def save(folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint of three labels."""
    tokenizer = own_tokenizer("BertTokenizer")
    tokenizer.model_max_length = MAX_LENGTH
    torch.manual_seed(seed)
    labels = {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    model = ReaderBertForSequenceClassification(ReaderBertConfig(vocab_size=len(tokenizer), **labels))
    with torch.no_grad():
        draw(model, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


AutoConfig.register(ReaderBertConfig.model_type, ReaderBertConfig, exist_ok=True)
AutoModel.register(ReaderBertConfig, ReaderBert, exist_ok=True)
AutoModelForSequenceClassification.register(ReaderBertConfig, ReaderBertForSequenceClassification, exist_ok=True)
