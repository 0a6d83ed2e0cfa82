"""A classifier that misbehaves on purpose: it raises where a text holds one token, and takes its time where it holds another.

Importing this module registers it. It declares no `_supports_packed`, so the service pads its batches.
"""

import time
from pathlib import Path

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


@strict
class FailingConfig(PreTrainedConfig):
    """`failing_token_id` makes the forward raise ValueError; `slow_token_id` makes it take `slow_s` seconds; `huge` makes
    it ask for more memory than there is."""

    model_type = "failing"

    vocab_size: int = 100
    hidden_size: int = 8
    max_position_embeddings: int = 32
    pad_token_id: int | None = 0
    failing_token_id: int = -1
    slow_token_id: int = -1
    slow_s: float = 1.5
    huge: bool = False


class FailingForSequenceClassification(PreTrainedModel):
    """The mean of the embeddings, and a linear layer."""

    config: FailingConfig
    base_model_prefix = "failing"

    def __init__(self, config: FailingConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **kwargs: object) -> SequenceClassifierOutput:
        """Logits (B, labels) of ids (B, L)."""
        if bool((input_ids == self.config.failing_token_id).any()):
            raise ValueError("a token that this model can't bear")
        if self.config.huge:
            torch.empty(1 << 50)
        if bool((input_ids == self.config.slow_token_id).any()):
            time.sleep(self.config.slow_s)
        mask_BL1 = attention_mask.unsqueeze(-1)
        pooled_BD = (self.embeddings(input_ids) * mask_BL1).sum(1) / mask_BL1.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(pooled_BD))


def make_checkpoint(folder: Path, texts: tuple[str, ...]) -> None:
    """A folder in the Hub's form; "poison" makes the model raise and "slow" makes it slow."""
    from tokenizers_store.training import train_tokenizer

    tokenizer = train_tokenizer(texts, kind="wordpiece", vocab_size=2000, max_length=32, show_progress=False)
    failing, slow = tokenizer.convert_tokens_to_ids(["poison", "slow"])
    assert tokenizer.unk_token_id not in (failing, slow)
    torch.manual_seed(0)
    config = FailingConfig(
        vocab_size=len(tokenizer),
        failing_token_id=failing,
        slow_token_id=slow,
        id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )
    FailingForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


AutoConfig.register(FailingConfig.model_type, FailingConfig, exist_ok=True)
AutoModelForSequenceClassification.register(FailingConfig, FailingForSequenceClassification, exist_ok=True)
