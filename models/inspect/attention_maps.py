"""Which tokens look at which: the attention of one text, layer by layer and head by head, as figures and as a picture."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.inspect.report import Cell, Section
from models.inspect.subject import Subject

TEXT = "The food was great but the service ruined the evening."
# What a picture can show: more tokens than this have no room for their names.
NAMED_TOKENS = 40


@dataclass(frozen=True)
class Map:
    """The attention of one layer: probabilities (heads, queries, keys)."""

    layer: int
    probabilities: torch.Tensor


def attention(subject: Subject, *, text: str = TEXT, picture: Path | None = None) -> Section:
    """A row for each layer, means over heads and queries: entropy (1: all tokens alike), and the share of attention that goes to
    the first token, the last, the query itself and its two neighbours. `picture`: a .png to write."""
    inputs = subject.batch([text])
    maps = attention_maps(subject, inputs)
    if not maps:
        return Section("attention", notes=[f"{type(subject.model).__name__} has no attention to show."])
    names = subject.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    notes = [f"{len(names)} tokens: {' '.join(names)}"]
    layers = getattr(subject.model.config, "num_hidden_layers", len(maps))
    if len(maps) < layers:
        notes.append(f"{layers - len(maps)} of {layers} layers keep no map: they have an attention pattern.")
    if picture is not None:
        draw(maps, names, picture)
        notes.append(f"Drawn in {picture}.")
    columns = ("layer", "heads", "entropy", "to first", "to last", "to itself", "to neighbours")
    return Section("attention", columns, [_row(found) for found in maps], notes)


def attention_maps(subject: Subject, inputs: dict[str, torch.Tensor]) -> list[Map]:
    """Of the layers that keep one, for a batch of one text. A layer's number is in the name of the module that made its map,
    since those that keep none are missing in the output."""
    model = copy.deepcopy(subject.model)  # asked for eager attention, which the other sections need not have
    if getattr(type(model), "_supports_attention_backend", False):
        model.set_attn_implementation("eager")
    sources: dict[int, str] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(partial(_note_source, name, sources))
    with torch.inference_mode():
        outputs = model(**inputs, output_attentions=True)
    found = [layer for layer in getattr(outputs, "attentions", None) or () if layer is not None]
    return [Map(_number(sources.get(id(layer), ""), place), layer[0]) for place, layer in enumerate(found)]


def _note_source(name: str, sources: dict[int, str], module: nn.Module, inputs: Any, output: Any) -> None:
    for part in output if isinstance(output, tuple) else ():
        sources.setdefault(id(part), name)  # the innermost module is the first to say


def _number(name: str, place: int) -> int:
    digits = [part for part in name.split(".") if part.isdecimal()]
    return int(digits[0]) if digits else place


def _row(found: Map) -> tuple[Cell, ...]:
    probabilities = found.probabilities.double()
    length = probabilities.shape[-1]
    entropy = -torch.xlogy(probabilities, probabilities).sum(-1).mean() / math.log(max(length, 2))
    before, own, after = (probabilities.diagonal(offset, -2, -1).sum(-1).mean() / length for offset in (-1, 0, 1))
    shares = (probabilities[..., 0].mean(), probabilities[..., -1].mean(), own, before + after)
    return (found.layer, len(probabilities), float(entropy), *map(float, shares))


def draw(maps: Sequence[Map], names: Sequence[str], path: Path) -> None:
    """A row of maps for each layer, one for each head: dark where a token (downwards) looks at another (across). ImportError
    without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = max(len(found.probabilities) for found in maps)
    size = max(1.1, 0.1 * min(len(names), NAMED_TOKENS))
    extent = (1.2 + size * heads, 1.2 + size * len(maps))
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, grid = pyplot.subplots(len(maps), heads, figsize=extent, layout="constrained", **shared)
    for found, row in zip(maps, grid, strict=True):
        for head, axes in enumerate(row):
            if head >= len(found.probabilities):
                axes.set_axis_off()
                continue
            axes.imshow(found.probabilities[head].float().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            axes.tick_params(length=0)
        row[0].set_ylabel(f"layer {found.layer}", fontsize=8)
    for head, axes in enumerate(grid[0]):
        axes.set_title(f"head {head}", fontsize=8)
    shown = list(names) if len(names) <= NAMED_TOKENS else []
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(shown)), shown, fontsize=5)
    for axes in grid[-1]:
        axes.set_xticks(range(len(shown)), shown, fontsize=5, rotation=90)
    figure.supylabel("who looks", fontsize=8)
    figure.supxlabel("at whom", fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
