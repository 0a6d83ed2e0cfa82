"""Pictures of the patterns and of what they cost; they need matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.attention.patterns import Pattern

# Narrower than the patterns that are measured, so that their shape shows in 512 tokens.
DRAWN: Mapping[str, Pattern] = {
    "full": Pattern(window=512),
    "window": Pattern(window=48),
    "strided": Pattern(stride=32),
    "random": Pattern(random_blocks=2),
    "bigbird": Pattern(window=48, random_blocks=1, global_tokens=12),
}
DRAWN_LENGTH = 512


@dataclass(frozen=True)
class Cost:
    """What one forward over a text of `length` tokens costs."""

    length: int
    time_ms: float
    memory_mib: float


def draw_masks(path: Path) -> None:
    """What each query (a row) sees, dark, in a text of DRAWN_LENGTH tokens."""
    pyplot = _pyplot()
    figure, row = pyplot.subplots(1, len(DRAWN), figsize=(13, 3.2), layout="constrained", sharey=True)
    for axes, (name, pattern) in zip(row, DRAWN.items(), strict=True):
        mask = pattern.mask(DRAWN_LENGTH)
        axes.imshow(mask, cmap="Blues", vmin=0, vmax=1.3, interpolation="antialiased")
        axes.set_title(f"{name}: {mask.float().mean():.0%} of pairs", fontsize=10)
        axes.set_xlabel("key")
        axes.set_xticks([0, 256, 511])
        axes.set_yticks([0, 256, 511])
    row[0].set_ylabel("query")
    figure.savefig(path, dpi=240)
    pyplot.close(figure)


def draw_costs(costs: Mapping[str, Sequence[Cost]], path: Path) -> None:
    """Time and memory against length, on logarithmic axes."""
    pyplot = _pyplot()
    figure, (times, memories) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for kind, row in costs.items():
        lengths = [cost.length for cost in row]
        times.plot(lengths, [cost.time_ms for cost in row], marker="o", label=kind)
        memories.plot(lengths, [max(cost.memory_mib, 0.1) for cost in row], marker="o", label=kind)
    for axes, title in ((times, "processor time of one forward, ms"), (memories, "peak memory of one forward, MiB")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tokens")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, alpha=0.3)
    times.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _pyplot():  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
