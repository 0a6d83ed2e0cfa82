"""Measures at start which token budget, and on a CPU which workers and threads, do most; keeps them on disk for the next start.

What the operator has set is left alone. A measurement holds for one checkpoint, machine, arithmetic and version of the libraries.
"""

import hashlib
import json
import logging
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from service import __version__
from service.measure.forward_rate import measured
from service.served.catalog import load_catalog
from service.settings import Settings, cores

log = logging.getLogger("valence")
BUDGETS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16384, 32768)}
SECONDS = 1.0
# A rate of at least 97% of the best is as good as the best. Then the earlier choice counts: the usual split of cores comes first,
# and smaller budgets, which answer sooner, come before larger ones.
CLOSE = 0.97
TUNED = {"max_batch_tokens", "workers_per_device", "threads"}
CPU_INFO = Path("/proc/cpuinfo")
Choice = dict[str, int]


def tuned(settings: Settings) -> Settings:
    """The settings, with zeros replaced by numbers that were measured for the first model, now or at an earlier start."""
    if settings.tuning_dir is None:
        return settings
    device = settings.accelerator()
    path = settings.tuning_dir / f"{_key(settings, device)}.json"
    choice = _kept(path)
    if choice is None:
        choice = _measure(settings, device)
        settings.tuning_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(choice), encoding="utf-8")
    log.info("tuned: %s", ", ".join(f"{name} {number}" for name, number in choice.items()), extra={"file": str(path)})
    return settings.model_copy(update=choice)


def _measure(settings: Settings, device: str) -> Choice:
    budgets = (settings.max_batch_tokens,) if settings.max_batch_tokens else BUDGETS[device]
    log.info("tuning: measuring the first model on this machine, which takes a minute")
    started_at = time.monotonic()
    reports: list[tuple[float, Choice]] = []
    for split in _splits(settings, device):
        tried = settings.model_copy(update=split | {"max_batch_tokens": max(budgets)})
        for report in measured(tried, texts=None, seconds=SECONDS, budgets=budgets):
            choice = split | {"max_batch_tokens": report["max_batch_tokens"]}
            reports.append((report["texts_per_s"], choice))
            log.info("tuning: %.0f texts/s with %s", report["texts_per_s"], choice)
    log.info("tuning took %.0f s", time.monotonic() - started_at)
    return best(reports)


def best(reports: Sequence[tuple[float, Choice]]) -> Choice:
    """The first choice that is close to the fastest. `reports` hold (texts/s, choice), in the order of preference.

    >>> best([(98.0, {"max_batch_tokens": 512}), (100.0, {"max_batch_tokens": 1024})])
    {'max_batch_tokens': 512}
    """
    fastest = max(rate for rate, _ in reports)
    return next(choice for rate, choice in reports if rate >= CLOSE * fastest)


def _splits(settings: Settings, device: str) -> list[Choice]:
    """Workers and threads that use all cores: the usual ones first, then the fewest workers."""
    if device != "cpu" or settings.workers_per_device or settings.threads:
        return [{}]
    usual = {"workers_per_device": settings.worker_count(device), "threads": 0}
    return [usual] if cores() == 1 else [usual, {"workers_per_device": 1, "threads": 0}]


def _kept(path: Path) -> Choice | None:
    """What an earlier start found; None if the file is missing or of no use."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        return {name: int(found[name]) for name in TUNED & found.keys()} or None
    except (OSError, ValueError, AttributeError):
        return None


def _key(settings: Settings, device: str) -> str:
    """A hash of all that the measurement depends on."""
    processor = next((line for line in CPU_INFO.read_text().splitlines() if line.startswith("model name")), platform.machine())
    asked = settings.model_dump(
        include={"dtype", "attn_implementation", "compile", "cuda_graphs", "workers_per_device", "threads", "max_batch_tokens"}
    )
    facts = {
        "weights": load_catalog(settings)[0].weights,
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor,
        "cores": cores(),
        "versions": [__version__, torch.__version__, transformers.__version__],
        **asked,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
