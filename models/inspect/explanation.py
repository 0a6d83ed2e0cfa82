"""A prediction explained by its tokens, as figures and as coloured words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.inspect.attribution import Attributions, attribute, blank_token, blanked, explainable
from models.inspect.report import Cell, Section
from models.inspect.subject import Subject

STEPS = 256
BAR = 20


def explanation(
    subject: Subject, *, text: str, label: str | None = None, steps: int = STEPS, picture: Path | None = None
) -> Section:
    """What each token of `text` gave to the raw score of `label`, the best one unless given. `steps`: the most gradients.
    `picture`: a .png to write. ValueError for a label that there is not, ImportError without the extra `explain`."""
    labels = [subject.model.config.id2label[index] for index in range(subject.model.config.num_labels)]
    if label is not None and label not in labels:
        raise ValueError(f"there is no label {label!r}; there are {', '.join(labels)}")
    encoded = subject.tokenizer(text, truncation=True, max_length=subject.longest, return_special_tokens_mask=True)
    ids = encoded["input_ids"]
    baseline = blanked(ids, encoded["special_tokens_mask"], blank=blank_token(subject.tokenizer))
    target = None if label is None else labels.index(label)
    found = attribute(explainable(subject.model), ids, baseline, max_steps=steps, target=target)
    tokens = subject.tokenizer.convert_ids_to_tokens(ids)
    notes = [
        f"{labels[found.target]}: raw score {found.score:.4f}, of the same text with "
        f"{subject.tokenizer.convert_ids_to_tokens(blank_token(subject.tokenizer))} for each word {found.baseline_score:.4f}.",
        f"The attributions sum to {sum(found.by_token):.4f} of {found.score - found.baseline_score:.4f}: the error is "
        f"{found.completeness_error:.4f}, the tolerance {found.tolerance:.4f}, after {found.steps} gradients.",
    ]
    if picture is not None:
        draw(tokens, found, labels[found.target], picture)
        notes.append(f"Drawn in {picture}.")
    widest = max(map(abs, found.by_token)) or 1.0
    rows: list[tuple[Cell, ...]] = [(token, gave, bar(gave / widest)) for token, gave in zip(tokens, found.by_token, strict=True)]
    return Section("explanation", ("token", "attribution", "against | for"), rows, notes)


def bar(share: float) -> str:
    """
    >>> bar(-0.5).rstrip(), bar(1.0).strip()
    ('     -----|', '|++++++++++')
    """
    half = BAR // 2
    marks = round(abs(share) * half)
    return f"{'-' * marks if share < 0 else '':>{half}}|{'+' * marks if share > 0 else '':<{half}}"


def draw(tokens: Sequence[str], found: Attributions, label: str, path: Path) -> None:
    """The tokens in lines of text, blue where they speak for the label and red where they speak against it. ImportError without
    matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    widest = max(map(abs, found.by_token)) or 1.0
    lines = wrapped([max(len(token), 6) + 1 for token in tokens], width=84)
    figure = pyplot.figure(figsize=(10, 0.7 + 0.62 * len(lines)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, 88)
    axes.set_ylim(-len(lines), 0.75)
    for number, line in enumerate(lines):
        for place, start, width in line:
            gave = found.by_token[place]
            color = pyplot.get_cmap("RdBu")(0.5 + 0.3 * gave / widest)
            axes.add_patch(pyplot.Rectangle((start + 2, -number - 0.62), width - 0.4, 0.72, color=color))
            middle = start + 2 + (width - 0.4) / 2
            axes.text(middle, -number - 0.1, tokens[place], ha="center", va="center", fontsize=10, family="monospace")
            axes.text(middle, -number - 0.45, f"{gave:+.2f}", ha="center", va="center", fontsize=7, color="0.25")
    title = f"{label}: {found.baseline_score:+.2f} with every word blanked out, {found.score:+.2f} with the text (raw scores)"
    axes.text(2, 0.42, title, fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def wrapped(widths: Sequence[int], *, width: int) -> list[list[tuple[int, int, int]]]:
    """(place, start, width) of each token, in lines no longer than `width`.

    >>> wrapped([3, 4, 5], width=8)
    [[(0, 0, 3), (1, 3, 4)], [(2, 0, 5)]]
    """
    lines: list[list[tuple[int, int, int]]] = [[]]
    start = 0
    for place, needed in enumerate(widths):
        if lines[-1] and start + needed > width:
            lines.append([])
            start = 0
        lines[-1].append((place, start, needed))
        start += needed
    return lines
