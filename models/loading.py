"""A checkpoint folder's classifier and tokenizer, and where the shipped ones lie."""

from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

CHECKPOINTS = Path(__file__).parent / "checkpoints"
TOKENIZERS = Path(__file__).parent.parent / "tokenizers_store"


def load_classifier(checkpoint: Path, *, dtype: torch.dtype | Literal["auto"] = "auto") -> PreTrainedModel:
    """The classifier; "auto" keeps the precision of the weights on disk.

    Raises ValueError where the folder lacks a weight or has one of another shape, which transformers would draw at random, and
    OSError where a file is missing.
    """
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint / 'config.json'}: no such file; name a checkpoint folder")
    model, found = AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    wrong = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if wrong:
        raise ValueError(
            f"{checkpoint}: {len(wrong)} weights are missing or have another shape than config.json says: {wrong[0]}"
        )
    return model


def tokenizer_folder(checkpoint: Path, model: PreTrainedModel) -> Path:
    """Where the service looks for the tokenizer: in the checkpoint, else in `tokenizers_store` under the name in its config."""
    name = getattr(model.config, "tokenizer_name", None)
    return checkpoint if (checkpoint / "tokenizer.json").is_file() or name is None else TOKENIZERS / name
