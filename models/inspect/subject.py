"""The checkpoint that is looked at: configuration, weights, tokenizer."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from models.loading import load_classifier, tokenizer_folder

# Where nobody gives texts: short and long, plain and not.
TEXTS = (
    "A wonderful surprise, funny and moving.",
    "not good at all",
    "The meeting is on Tuesday.",
    "The food was great but the service ruined the evening.",
    "LOVED IT",
    "I have waited for three weeks and nobody answers my mails, so please do not order here.",
    "It comes in a box of twelve.",
    "Better than the first part, though it takes an hour until anything happens at all.",
)
MOST_TOKENS = 512


@dataclass(frozen=True)
class Subject:
    """`model` in float32 on the CPU, in evaluation mode, with padded input."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def batch(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` (B, L) of texts, cut at the model's limit."""
        rows = [row[: self.longest] for row in self.tokenizer(list(texts))["input_ids"]]
        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id or 0
        return {
            "input_ids": torch.tensor([row + [pad] * (width - len(row)) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        }

    @property
    def longest(self) -> int:
        """The most tokens that are tried at once."""
        limit = getattr(self.model.config, "max_position_embeddings", None) or MOST_TOKENS
        return min(limit, self.tokenizer.model_max_length, MOST_TOKENS)


def load_subject(folder: Path, *, tokenizer: Path | None = None) -> Subject:
    """ValueError or OSError where a file is missing or broken, or does not fit."""
    try:
        model = load_classifier(folder, dtype=torch.float32)
    except StrictDataclassError as error:
        raise ValueError(f"{folder / 'config.json'}: {str(error).strip().splitlines()[-1].strip()}") from error
    loaded = AutoTokenizer.from_pretrained(tokenizer or tokenizer_folder(folder, model), trust_remote_code=False)
    return Subject(folder, model.eval(), loaded)


def pattern(name: str) -> str:
    """A parameter's or module's name with a star for each number: layers of one kind share it.

    >>> pattern("encoder.layer.11.output.dense.weight"), pattern("lstm.weight_hh_l0")
    ('encoder.layer.*.output.dense.weight', 'lstm.weight_hh_l0')
    """
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)
