"""The gradient of one batch, layer by layer: which layers learn nothing, and which would be thrown about.

A layer's figure is the root mean square of its gradient over the entries that the batch could reach: all of a matrix, of an
embedding the rows of its tokens. Layers are held against the median of those that have one, since the loss's scale says nothing:

    dead        exactly 0, or less than a thousandth of the median
    exploding   not a number or infinite, or more than a thousand times the median
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from models.inspect.report import Cell, Section
from models.inspect.subject import TEXTS, Subject

FAR = 1e3


def gradients(subject: Subject, *, texts: Sequence[str] = TEXTS, labels: Sequence[int] | None = None) -> Section:
    """Of `texts` as one batch, dropout off. `labels`: their classes; unless given, all classes in turn, so that most are wrong
    and a trained model has something to learn. ValueError for a label that there is not."""
    model = subject.model
    targets = targets_of(model, labels if labels is not None else list(range(len(texts))), wrap=labels is None)
    norms = gradient_rms(model, subject.batch(texts) | {"labels": targets})
    middle = statistics.median([rms for rms, _ in norms.values() if 0 < rms < math.inf] or [0.0])
    rows: list[tuple[Cell, ...]] = [
        (name, type(model.get_submodule(name)).__name__, rms, rms / middle if middle else None, norm, verdict(rms, middle))
        for name, (rms, norm) in norms.items()
    ]
    flagged = sum(bool(row[-1]) for row in rows)
    notes = [
        f"{len(texts)} texts, {'labels as given' if labels is not None else 'each class in turn as label'}. {flagged or 'No'} of "
        f"{len(rows)} layers flagged.",
        f"dead: 0, or below the median by a factor of {FAR:,.0f}; exploding: not finite, or above it by that factor.",
    ]
    return Section("gradients", ("layer", "class", "rms", "of median", "norm", "flag"), rows, notes)


def gradient_rms(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> dict[str, tuple[float, float]]:
    """For each module that owns parameters: its gradient's root mean square, and norm. The model is left without gradients."""
    model.zero_grad()
    try:
        model(**batch).loss.backward()
        return {
            name: _rms(list(module.parameters(recurse=False)), is_table=isinstance(module, nn.Embedding))
            for name, module in model.named_modules()
            if next(module.parameters(recurse=False), None) is not None
        }
    finally:
        model.zero_grad()


def _rms(parameters: Sequence[nn.Parameter], *, is_table: bool) -> tuple[float, float]:
    reached = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    if is_table:  # the rows of tokens that are not in the batch have no gradient, and say nothing
        reached = [grad[grad.any(dim=1)] for grad in reached]
    flat = torch.cat([grad.flatten() for grad in reached]).double()
    return (float(flat.square().mean().sqrt()), float(flat.norm())) if len(flat) else (0.0, 0.0)


def verdict(rms: float, median: float) -> str:
    """
    >>> verdict(0.0, 1.0), verdict(2.0, 1.0), verdict(math.nan, 1.0)
    ('dead', '', 'exploding')
    """
    if not math.isfinite(rms) or rms > FAR * median > 0:
        return "exploding"
    return "dead" if rms == 0 or rms < median / FAR else ""


def targets_of(model: PreTrainedModel, labels: Sequence[int], *, wrap: bool) -> torch.Tensor:
    """As the loss of the model's `problem_type` takes them."""
    count = model.config.num_labels
    if not wrap and not all(0 <= label < count for label in labels):
        raise ValueError(f"labels must be numbers from 0 to {count - 1}; found {sorted(set(labels))}")
    classes = torch.tensor([label % count for label in labels])
    problem = model.config.problem_type
    if problem == "multi_label_classification":
        return nn.functional.one_hot(classes, count).float()
    if problem == "regression" or (problem is None and count == 1):
        return torch.tensor(labels, dtype=torch.float32)
    return classes
