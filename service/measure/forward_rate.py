"""`python -m service.measure.forward_rate`: how many texts per second the served forward does on this machine, without HTTP.

This is the upper bound to hold a server's figures against: the same engine, dtype, workers, threads and token budget, on texts
that are tokenized already. `service.measure.tuning` uses it to find the budget, workers and threads that do most.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.engine.trials import TrialTexts
from service.frames import id_array
from service.served.catalog import ServedModel, load_catalog, load_tokenizer
from service.settings import Settings
from service.text.encoders import Encoder, encoder_of

LOADING_S = 300


def main() -> None:
    """Prints texts/s in full batches, and the median time of one text."""
    options = parser().parse_args()
    settings = Settings(
        models=(f"model={options.model}",),
        dtype=options.dtype,
        device=options.device,
        threads=options.threads,
        workers_per_device=options.workers_per_device,
        compile=options.compiled,
        cuda_graphs=not options.compiled,
    )
    (report,) = measured(settings, texts=options.texts, seconds=options.seconds)
    print(json.dumps(report) if options.json else "\n".join(f"{name}: {value}" for name, value in report.items()))


def measured(settings: Settings, *, texts: Path | None, seconds: float, budgets: Sequence[int] = ()) -> list[dict[str, Any]]:
    """A report for each of `budgets`, in tokens, or else for the settings' own budget. All workers compute at once.

    `texts`: a file with a text a line; None: made-up texts, as long as users' posts."""
    device = settings.accelerator()
    workers = settings.worker_count(device)
    budgets = budgets or (settings.batch_tokens(device),)
    context = multiprocessing.get_context("spawn")
    with multiprocessing.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        ready = manager.Barrier(workers)
        jobs = [
            pool.submit(measure, settings, device, texts=texts, seconds=seconds, budgets=budgets, ready=ready, first=index == 0)
            for index in range(workers)
        ]
        by_worker = [job.result() for job in jobs]
    return [
        reports[0] | {"texts_per_s": sum(report["texts_per_s"] for report in reports), "workers": workers}
        for reports in zip(*by_worker, strict=True)
    ]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.forward_rate", description=__doc__)
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--texts", type=Path, required=True, help="a text a line")
    result.add_argument("--dtype", default="auto")
    result.add_argument("--device", default="auto")
    result.add_argument("--threads", type=int, default=0, help="of each worker; 0: as the service would")
    result.add_argument("--workers-per-device", type=int, default=0, help="processes at once; 0: as the service would")
    result.add_argument("--seconds", type=float, default=10.0, help="how long to measure full batches")
    result.add_argument("--compiled", action="store_true", help="as with --compile, and without CUDA graphs")
    result.add_argument("--json", action="store_true")
    return result


def measure(
    settings: Settings,
    device: str,
    *,
    texts: Path | None,
    seconds: float,
    budgets: Sequence[int],
    ready: Barrier,
    first: bool,
) -> list[dict[str, Any]]:
    """What one worker measures: the first the time of one text while the others are idle, then all at once their texts/s."""
    engine, encoded = loaded(settings, device, texts=texts)
    report = {"mean_tokens": statistics.mean(len(text.ids) for text in encoded), **engine.details}
    ready.wait(LOADING_S)
    if first:
        torch.set_num_threads(settings.lone_thread_count())
        report["one_text_p50_ms"] = one_text_p50_ms(engine, encoded)
        torch.set_num_threads(settings.thread_count())
    found = []
    for budget in budgets:
        ready.wait(LOADING_S)
        rate = texts_per_s(engine, token_batches(encoded, budget), seconds=seconds)
        found.append({"texts_per_s": rate, "max_batch_tokens": budget, **report})
    return found


def loaded(settings: Settings, device: str, *, texts: Path | None) -> tuple[Engine, list[TextIds]]:
    """The first model of the settings, as a worker has it, and texts: the lines of the file, tokenized, or made-up ones."""
    disable_progress_bar()
    if device == "cpu":
        torch.set_num_threads(settings.thread_count())
    served = load_catalog(settings)[0]
    engine = Engine(served, device=device, settings=settings)
    if texts is None:
        return engine, made_up(served)
    encoder = encoder_of(load_tokenizer(served.tokenizer_path), max_length=served.max_length)
    return engine, [text_ids(encoder, line) for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]


def made_up(served: ServedModel) -> list[TextIds]:
    """1,024 texts of 23 tokens on average, one in a hundred above 70."""
    texts = TrialTexts(load_tokenizer(served.tokenizer_path))
    lengths = np.random.default_rng(0).lognormal(math.log(19), 0.6, 1024).clip(3, served.max_length).astype(int)
    found = [texts.of_length(int(length), seed=seed) for seed, length in enumerate(lengths)]
    return [trial.text for trial in found if trial is not None]


def text_ids(encoder: Encoder, text: str) -> TextIds:
    return TextIds(id_array(encoder.encode([(text, None)], truncate=True).ids))


def token_batches(texts: Sequence[TextIds], max_batch_tokens: int) -> list[list[TextIds]]:
    """Texts in their order, cut where the next would exceed the budget, as the service's queue does."""
    batches: list[list[TextIds]] = [[]]
    tokens = 0
    for text in texts:
        tokens += len(text.ids)
        if batches[-1] and tokens > max_batch_tokens:
            batches.append([])
            tokens = len(text.ids)
        batches[-1].append(text)
    return batches


def texts_per_s(engine: Engine, batches: Sequence[Sequence[TextIds]], *, seconds: float) -> float:
    """Texts per second over whole passes, after one pass that is not counted."""
    compute(engine, batches)
    done = 0
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        compute(engine, batches)
        done += sum(map(len, batches))
    return done / (time.perf_counter() - started_at)


def compute(engine: Engine, batches: Iterable[Sequence[TextIds]]) -> None:
    """Computes batches as the worker does: on CUDA a batch runs while the scores of the last one are read."""
    running = None
    for batch in batches:
        launched = engine.launch(batch)
        if running is not None:
            running.wait()
        running = launched
    if running is not None:
        running.wait()


def one_text_p50_ms(engine: Engine, texts: Sequence[TextIds]) -> float:
    """The median time of a text alone, over 200 texts."""
    durations = []
    for text in texts[:200]:
        started_at = time.perf_counter()
        engine.logits([text])
        durations.append(time.perf_counter() - started_at)
    return 1000 * statistics.median(durations)


if __name__ == "__main__":
    main()
