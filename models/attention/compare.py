"""`python -m models.attention.compare`: what each attention pattern costs as texts grow, as a table and pictures.

One forward of attention alone (queries, keys and values given), on the CPU in float32, 2 heads of 32, one thread. Time is the
processor's, which other programs on the machine disturb least. Memory is by how much the forward raises the peak of resident
memory; so each measurement has a process of its own, forked to spare the imports. "slope" is that of log cost against log length
over the longer half of the lengths: 1 is linear, 2 quadratic. `--train` adds accuracy on long film reviews.
"""

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression

import torch
from torch import nn
from torch.nn import functional as F

from models.attention import pictures
from models.attention.patterns import Pattern
from models.attention.pictures import Cost
from models.attention.sparse import sparse_attention_forward
from models.measuring import peak_anew, resident_mib

FULL, MASKED = "full", "window by an n x n mask"
FIELDS: Mapping[str, dict[str, int]] = {
    "window": {"window": 128},
    "strided": {"stride": 64},
    "random": {"random_blocks": 3},
    "bigbird": {"window": 128, "random_blocks": 2, "global_tokens": 1},
}
KINDS = (FULL, MASKED, *FIELDS)
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
MASKED_LIMIT = 8192  # a mask of 16,384 by 16,384 and its scores take 4 GB
HEADS, WIDTH = 2, 32
REPEATS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, and writes pictures where a folder is given. 2 for a wrong argument, which one sentence names."""
    options = parser().parse_args(arguments)
    lengths = [length for length in LENGTHS if length <= options.longest]
    costs = {
        kind: [in_new_process(kind, length) for length in lengths if kind != MASKED or length <= MASKED_LIMIT] for kind in KINDS
    }
    print(table(costs, lengths), end="")
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        pictures.draw_costs(costs, options.pictures / "sparse-attention-cost.png")
        pictures.draw_masks(options.pictures / "sparse-attention-masks.png")
    if options.train:
        from models.attention import reviews

        try:
            for line in reviews.compare(FIELDS, reviews=options.reviews, tokens=options.tokens):
                print(line, flush=True)
        except ValueError as error:
            print(f"models.attention.compare: {error}", file=sys.stderr)
            return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m models.attention.compare", description=__doc__)
    result.add_argument("--longest", type=int, default=LENGTHS[-1], help="tokens of the longest text")
    result.add_argument("--pictures", type=Path, help="a folder for two .png files; needs matplotlib")
    result.add_argument("--train", action="store_true", help="accuracy of a small model trained with each pattern")
    result.add_argument("--reviews", type=int, default=1500, help="with --train: so many to learn from, and 1,200 more")
    result.add_argument("--tokens", type=int, default=512, help="with --train: reviews are cut here")
    return result


def in_new_process(kind: str, length: int) -> Cost:
    """Measures in a forked process. torch's threads do not survive a fork, so this process never computes."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return Cost(length, *pool.apply(measure, (kind, length)))


@torch.inference_mode()
def measure(kind: str, length: int) -> tuple[float, float]:
    """Milliseconds of the fastest of REPEATS forwards, and MiB by which the first one raised the peak."""
    torch.set_num_threads(1)
    attend(kind, *torch.randn(3, 1, HEADS, 256, WIDTH).unbind(0))  # libraries load
    states = torch.randn(3, 1, HEADS, length, WIDTH).unbind(0)
    peak_anew()
    before = resident_mib("VmRSS")
    times = []
    for _ in range(REPEATS):
        started_at = time.process_time()
        attend(kind, *states)
        times.append(time.process_time() - started_at)
        if len(times) == 1:
            peak = resident_mib("VmHWM")
    return 1000 * min(times), peak - before


def attend(kind: str, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention over one text."""
    if kind == FULL:
        return F.scaled_dot_product_attention(query, key, value)
    if kind == MASKED:
        mask = Pattern(**FIELDS["window"]).mask(query.shape[2])
        return F.scaled_dot_product_attention(query, key, value, mask)
    return sparse_attention_forward(nn.Identity(), query, key, value, None, pattern=FIELDS[kind])[0]


def slope(lengths: Sequence[int], costs: Sequence[float]) -> float:
    """Of log cost against log length.

    >>> round(slope([1, 2, 4], [3, 12, 48]), 2)
    2.0
    """
    return linear_regression([math.log(length) for length in lengths], [math.log(max(cost, 1e-3)) for cost in costs]).slope


def table(costs: Mapping[str, Sequence[Cost]], lengths: Sequence[int]) -> str:
    """Markdown: time, then memory."""
    return "\n".join(
        [
            *_rows("ms", {kind: [(cost.length, cost.time_ms) for cost in row] for kind, row in costs.items()}, lengths),
            "",
            *_rows("MiB", {kind: [(cost.length, cost.memory_mib) for cost in row] for kind, row in costs.items()}, lengths),
            "",
        ]
    )


def _rows(unit: str, costs: Mapping[str, Sequence[tuple[int, float]]], lengths: Sequence[int]) -> list[str]:
    rows = [f"| {unit} | {' | '.join(f'{length:,}' for length in lengths)} | slope |", "|---|" + "---:|" * (len(lengths) + 1)]
    for kind, row in costs.items():
        longest = row[len(row) // 2 :]
        cells = [f"{cost:.1f}" for _, cost in row] + [""] * (len(lengths) - len(row))
        steep = f"{slope(*zip(*longest, strict=True)):.2f}" if len(longest) > 1 else ""
        rows.append(f"| {kind} | {' | '.join(cells)} | {steep} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
