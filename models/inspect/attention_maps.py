"""Which tokens look at which: the attention of one text, layer by layer and head by head, as figures and as a picture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch

from models.inspect.report import Cell, Section
from models.inspect.subject import Subject

TEXT = "The food was great but the service ruined the evening."
# What a picture can show: more tokens than this have no room for their names.
NAMED_TOKENS = 40


def attention(subject: Subject, *, text: str = TEXT, picture: Path | None = None) -> Section:
    """A row for each layer, means over heads and queries: entropy (1: all tokens alike), and the share of attention that goes to
    the first token, the last, the query itself and its two neighbours. `picture`: a .png to write."""
    inputs = subject.batch([text])
    maps = attention_maps(subject, inputs)
    if maps is None:
        return Section("attention", notes=[f"{type(subject.model).__name__} has no attention to show."])
    names = subject.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    rows = [_row(layer, found) for layer, found in enumerate(maps)]
    notes = [f"{len(names)} tokens: {' '.join(names)}"]
    if any(found is None for found in maps):
        notes.append("Layers without figures have an attention pattern, whose backend keeps no map.")
    if picture is not None:
        draw(maps, names, picture)
        notes.append(f"Drawn in {picture}.")
    return Section("attention", ("layer", "heads", "entropy", "to first", "to last", "to itself", "to neighbours"), rows, notes)


def attention_maps(subject: Subject, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor | None] | None:
    """Probabilities (heads, queries, keys) of each layer for a batch of one text; None where the model keeps none."""
    model = copy.deepcopy(subject.model)  # asked for eager attention, which the other sections need not have
    if getattr(type(model), "_supports_attention_backend", False):
        model.set_attn_implementation("eager")
    with torch.inference_mode():
        outputs = model(**inputs, output_attentions=True)
    found = getattr(outputs, "attentions", None)
    if not found or all(layer is None for layer in found):
        return None
    return [None if layer is None else layer[0] for layer in found]


def _row(layer: int, found: torch.Tensor | None) -> tuple[Cell, ...]:
    if found is None:
        return (layer, *[None] * 6)
    probabilities = found.double()
    length = probabilities.shape[-1]
    entropy = -torch.xlogy(probabilities, probabilities).sum(-1).mean() / torch.tensor(float(max(length, 2))).log()
    diagonals = [probabilities.diagonal(offset, dim1=-2, dim2=-1).sum(-1).mean() / length for offset in (-1, 0, 1)]
    shares = (probabilities[..., 0].mean(), probabilities[..., -1].mean(), diagonals[1], diagonals[0] + diagonals[2])
    return (layer, len(found), float(entropy), *map(float, shares))


def draw(maps: Sequence[torch.Tensor | None], names: Sequence[str], path: Path) -> None:
    """A row of maps for each layer, one for each head: dark where a token (downwards) looks at another (across). ImportError
    without matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = max(len(layer) for layer in maps if layer is not None)
    size = max(1.1, 0.1 * min(len(names), NAMED_TOKENS))
    extent = (1.2 + size * heads, 1.2 + size * len(maps))
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    figure, grid = pyplot.subplots(len(maps), heads, figsize=extent, layout="constrained", **shared)
    for layer, (found, row) in enumerate(zip(maps, grid, strict=True)):
        for head, axes in enumerate(row):
            if found is None or head >= len(found):
                axes.set_axis_off()
                continue
            axes.imshow(found[head].float().numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            axes.tick_params(length=0)
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=8)
        row[0].set_ylabel(f"layer {layer}", fontsize=8)
        row[0].set_axis_on()
    shown = list(names) if len(names) <= NAMED_TOKENS else []
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(shown)), shown, fontsize=5)
    for axes in grid[-1]:
        axes.set_xticks(range(len(shown)), shown, fontsize=5, rotation=90)
    figure.supylabel("who looks", fontsize=8)
    figure.supxlabel("at whom", fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
