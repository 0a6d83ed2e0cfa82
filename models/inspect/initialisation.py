"""What the weights were before they learnt anything, against what the configuration asks, and how far they have come since.

A fresh model is made from the configuration, with seed 0. Asked of it:

    linear, embedding and convolution weights   mean 0, standard deviation `initializer_range`
    a bias                                      0
    LayerNorm                                   weight 1, bias 0
    an embedding's row of padding               0
    nn.LSTM                                     input weights by Xavier (Glorot & Bengio 2010), recurrent ones orthogonal for each
                                                gate; biases 0, of the forget gate 1 in sum

transformers' base class does all but the last. In an nn.LSTM it draws recurrent weights by Xavier too, and sets all biases to 0.

An architecture may have reasons for something else: a difference is told, not condemned. `moved` is how far the trained weights
are from what was asked: the root mean square of their distance to its mean, as a multiple of its spread, or of 1 where it has
none. So a tensor that is still as it was drawn has 1 in the first case and 0 in the second.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from models.inspect.report import Cell, Section
from models.inspect.subject import Subject, pattern

# A drawn spread may miss the one asked for by this many of its own standard errors. By chance none of a hundred tensors does.
ERRORS = 5.0
EXACT = 1e-5
OWN = "own rule"


@dataclass(frozen=True)
class Part:
    """A tensor or a piece of one, and what is asked of it: a mean and a spread, or orthogonal gates. `mean` None: no rule."""

    name: str
    values: torch.Tensor
    mean: float | None = None
    spread: float = 0.0
    orthogonal: bool = False

    @property
    def asked(self) -> str:
        if self.orthogonal:
            return "orthogonal"
        if self.mean is None:
            return OWN
        return f"{self.mean:g} ± {self.spread:.3g}" if self.spread else f"{self.mean:g}"


def initialisation(subject: Subject) -> Section:
    """One row for the like tensors of all layers: the fresh spread's mean over them, the trained one's, and a verdict."""
    fresh = fresh_model(subject.model.config)
    trained = {part.name: part for part in parts(subject.model)}
    kinds: dict[tuple[str, str], list[Part]] = {}
    for part in parts(fresh):
        kinds.setdefault((pattern(part.name), part.asked), []).append(part)
    rows = [_row(name, asked, found, [trained[one.name] for one in found]) for (name, asked), found in kinds.items()]
    differing = sum(str(row[-1]).startswith("differs") for row in rows)
    named = getattr(subject.model.config, "initializer_range", None)
    notes = [
        f"initializer_range is {named}. {differing or 'No'} of {len(rows)} kinds of tensor start otherwise than asked; "
        f"{sum(row[-1] == OWN for row in rows)} have a rule of the architecture's own.",
        "fresh, trained: root mean square of the distance to the mean that is asked; for orthogonal, of W W' to the identity.",
    ]
    return Section("initialisation", ("tensor", "count", "asked", "fresh", "trained", "moved", "verdict"), rows, notes)


def fresh_model(config: PreTrainedConfig) -> PreTrainedModel:
    """As training begins, in float32; the random generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def parts(model: PreTrainedModel) -> Iterator[Part]:
    """Every parameter, those cut in pieces of which different things are asked."""
    spread = getattr(model.config, "initializer_range", None)
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            yield from _parts_of(module, f"{name}.{own}".lstrip("."), own, parameter.detach(), spread)


def _parts_of(module: nn.Module, name: str, own: str, values: torch.Tensor, spread: float | None) -> Iterator[Part]:
    if isinstance(module, nn.LSTM):
        yield from _lstm_parts(name, own, values)
    elif isinstance(module, nn.Embedding) and module.padding_idx is not None:
        rows = torch.arange(len(values)) != module.padding_idx
        yield Part(name, values[rows], 0.0 if spread is not None else None, spread or 0.0)
        yield Part(f"{name}[padding]", values[~rows], 0.0)
    elif isinstance(module, nn.LayerNorm):
        yield Part(name, values, 1.0 if own == "weight" else 0.0)
    elif isinstance(module, nn.Linear | nn.Embedding | nn.Conv1d) and own == "weight":
        yield Part(name, values, 0.0 if spread is not None else None, spread or 0.0)
    elif isinstance(module, nn.Linear | nn.Conv1d) and own == "bias":
        yield Part(name, values, 0.0)
    else:
        yield Part(name, values)


def _lstm_parts(name: str, own: str, values: torch.Tensor) -> Iterator[Part]:
    """The gates of nn.LSTM lie one after another: input, forget, cell, output."""
    if own.startswith("weight_hh"):
        yield Part(name, values, orthogonal=True)
    elif own.startswith("weight"):
        yield Part(name, values, 0.0, (2 / sum(values.shape)) ** 0.5)
    else:
        gates = values.chunk(4)
        yield Part(f"{name}[forget]", gates[1], 1.0 if own.startswith("bias_ih") else 0.0)
        yield Part(f"{name}[others]", torch.cat([gates[0], *gates[2:]]), 0.0)


def _row(name: str, asked: str, fresh: list[Part], trained: list[Part]) -> tuple[Cell, ...]:
    starts, ends = [distance(part) for part in fresh], [distance(part) for part in trained]
    start, end = sum(starts) / len(starts), sum(ends) / len(ends)
    moved = None if asked == OWN else end / (fresh[0].spread or 1)
    wrong = [part for part, found in zip(fresh, starts, strict=True) if not as_asked(part, found)]
    verdict = OWN if asked == OWN else f"differs in {len(wrong)}" if wrong else "as asked"
    return name, len(fresh), asked, start, end, moved, verdict


def distance(part: Part) -> float:
    """Root mean square of the distance to the mean that is asked; of orthogonal gates, of W W' to the identity."""
    values = part.values.double()
    if part.orthogonal:
        products = [gate @ gate.T - torch.eye(len(gate)) for gate in values.chunk(4)]
        return float(torch.stack(products).square().mean().sqrt())
    return float((values - (part.mean or 0.0)).square().mean().sqrt()) if len(values) else 0.0


def as_asked(part: Part, found: float) -> bool:
    """Whether a fresh tensor's distance is the spread that is asked, as nearly as its size lets one tell."""
    if part.orthogonal or not part.spread:
        return found <= EXACT
    return abs(found - part.spread) <= ERRORS * part.spread / (2 * part.values.numel()) ** 0.5
