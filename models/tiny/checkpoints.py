"""A tiny checkpoint of an architecture: its configuration, random weights, and a tokenizer beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from models.tiny.configs import MAX_LENGTH, tiny_config
from models.tiny.vocabularies import SENTENCES, tokenizer_for

ARCHITECTURES = tuple(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
# Standard deviation of a weight. Wider ones follow until the logits of two texts differ by so much.
SPREADS, LEAST_DIFFERENCE = (0.2, 0.5, 1.0), 0.1
# State space models take exponentials of these; their own start is kept.
KEPT = ("A_log", "dt_", "x_proj", ".D")

NOT_MADE = {
    "mra": "its attention is a CUDA kernel from the hub, and nothing without it",
    "tapas": "it takes the rows and columns of a table with each token",
}


@dataclass(frozen=True)
class Made:
    """`difference`: between the logits of two texts, the largest of the trial texts."""

    model_type: str
    tokenizer: str
    parameters: int
    difference: float


def make(model_type: str, folder: Path, *, seed: int = 0, **fields: Any) -> Made:
    """Writes the checkpoint, its configuration's `fields` as given.

    The seed fixes the weights. Where the trainer of a tokenizer finds two pieces equally good, it may number them otherwise the
    next time. Raises what transformers raises where the architecture can't be built, or fails on a text.
    """
    if model_type in NOT_MADE:
        raise ValueError(NOT_MADE[model_type])
    tokenizer, kind = tokenizer_for(model_type, max_length=MAX_LENGTH)
    config = tiny_config(model_type, tokenizer, **fields)
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    difference = spread(model, AutoTokenizer.from_pretrained(folder))
    model.save_pretrained(folder)
    return Made(model_type, kind, sum(parameter.numel() for parameter in model.parameters()), difference)


@torch.no_grad()
def spread(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Draws the weights so wide that logits differ between texts, and scales the head so that they stay small."""
    for deviation in SPREADS:
        draw(model, deviation)
        logits = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in SENTENCES])
        largest = float(logits.abs().max())
        if largest > 0 and torch.isfinite(logits).all():
            scale_head(model, 2 / largest)
            difference = float((logits.max(dim=0).values - logits.min(dim=0).values).max()) * 2 / largest
            if difference >= LEAST_DIFFERENCE:
                return difference
    raise ValueError(f"logits of all texts are alike, or not finite, with weights of any width: {logits[0].tolist()}")


def draw(model: PreTrainedModel, deviation: float) -> None:
    """Matrices as wide as asked; rows beside them, which are ones and zeros by default, with a little noise."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in KEPT):
            continue
        if parameter.ndim > 1:
            parameter.normal_(0, deviation)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


def scale_head(model: PreTrainedModel, factor: float) -> None:
    """The last layer is what has a row for each label."""
    for parameter in model.parameters():
        if parameter.shape[:1] == (model.config.num_labels,) and parameter.ndim <= 2:
            parameter.mul_(factor)
