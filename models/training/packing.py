"""Training batches without padding: the texts one after another, in the form that models/README.md describes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

PACKED = "packed"


def collate_packs(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor | int]:
    """A pack of rows with input_ids, labels and perhaps teacher_logits, shortest text first: on the CPU texts of one length share
    a call of the attention.

    Labels stand first, since the Trainer counts a batch's rows by its first tensor.
    """
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    lengths = [len(row["input_ids"]) for row in rows]
    bounds = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    batch: dict[str, torch.Tensor | int] = {
        name: torch.tensor([row[name] for row in rows]) for name in ("labels", "teacher_logits") if name in rows[0]
    }
    return batch | {
        "input_ids": torch.tensor([token for row in rows for token in row["input_ids"]]).unsqueeze(0),
        "position_ids": torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": lengths[-1],
        "max_length_k": lengths[-1],
    }


def takes_packs(model: PreTrainedModel) -> bool:
    """Whether the class declares that it does."""
    return bool(getattr(model, "_supports_packed", False))


def choose_attention(model: PreTrainedModel, implementation: str) -> None:
    """Sets the attention backend of an architecture that has a choice."""
    if getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(implementation)
