"""`python -m service.measure.cpu_layers`: what `models/cpu` gains on this machine over torch's own layers.

One engine has the layers and kernels of `models/cpu`, another has torch's for the same checkpoint. Both score the same packs on
one core, by turns. Nothing else should run on the machine meanwhile.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from models.cpu.library import torchs_layers
from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.measure.forward_rate import made_up
from service.served.catalog import load_catalog
from service.settings import Settings

HEAD = ["texts", "tokens", "torch's, ms", "ours, ms", "times", "max difference"]
BATCHES = (1, 8, 16, 32, 89)
DTYPES = ("float32", "bfloat16")


def main() -> None:
    """A table for each model: milliseconds a batch, and the largest difference of a logit."""
    options = parser().parse_args()
    disable_progress_bar()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    for folder in options.models:
        for dtype in options.dtypes.split(","):
            print(f"\n{folder.name}, {dtype}\n", flush=True)
            print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)
            for row in rows(folder, dtype, options.seconds):
                print(f"| {' | '.join(row)} |", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.cpu_layers", description=__doc__)
    checkpoints = Path("models/checkpoints")
    result.add_argument("models", nargs="*", type=Path, default=[checkpoints / "sentiment-lstm", checkpoints / "sentiment-bert"])
    result.add_argument("--dtypes", default=",".join(DTYPES), help="comma-separated")
    result.add_argument("--seconds", type=float, default=2.0, help="of each number of texts")
    return result


def rows(folder: Path, dtype: str, seconds: float) -> Iterator[list[str]]:
    """A row for each number of texts in a batch."""
    settings = Settings.model_validate({"models": (f"model={folder}",), "dtype": dtype, "device": "cpu"})
    (served,) = load_catalog(settings)
    ours = Engine(served, device="cpu", settings=settings)
    texts = made_up(served)
    with torchs_layers():
        torchs = Engine(served, device="cpu", settings=settings)
    for count in BATCHES:
        batches = [texts[start : start + count] for start in range(0, 8 * count, count)]
        with torchs_layers():
            expected = [torchs.logits(batch) for batch in batches]
        difference = max(np.abs(ours.logits(batch) - each).max() for batch, each in zip(batches, expected, strict=True))
        torchs_ms, ours_ms = by_turns(torchs, ours, batches, seconds)
        tokens = statistics.mean(sum(len(text.ids) for text in batch) for batch in batches)
        yield [
            str(count), f"{tokens:.0f}", f"{torchs_ms:.2f}", f"{ours_ms:.2f}", f"{torchs_ms / ours_ms:.2f}", f"{difference:.1e}",
        ]  # fmt: skip


def by_turns(torchs: Engine, ours: Engine, batches: list[list[TextIds]], seconds: float) -> tuple[float, float]:
    """The median time of a batch by each engine, in milliseconds."""
    torchs_s: list[float] = []
    ours_s: list[float] = []
    ends_at = time.perf_counter() + seconds
    while time.perf_counter() < ends_at:
        with torchs_layers():
            torchs_s.extend(durations(torchs, batches))
        ours_s.extend(durations(ours, batches))
    return 1000 * statistics.median(torchs_s), 1000 * statistics.median(ours_s)


def durations(engine: Engine, batches: list[list[TextIds]]) -> Iterator[float]:
    """Seconds of each batch."""
    for batch in batches:
        started_at = time.perf_counter()
        engine.logits(batch)
        yield time.perf_counter() - started_at


if __name__ == "__main__":
    main()
