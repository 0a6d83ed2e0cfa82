"""`python -m service.forward_rate`: what the served forward does on this machine with no HTTP before it.

The upper bound to hold a server's figures against: the same engine, dtype, workers, threads and token budget, on texts already
tokenized.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import torch

from service.catalog import load_catalog, load_tokenizer
from service.engine import Engine
from service.frames import id_array
from service.packs import TextIds
from service.settings import Settings
from service.tokenization import TextEncoder

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
        cuda_graphs=not options.compiled,
    )
    device = settings.accelerator()
    workers = settings.worker_count(device)
    context = multiprocessing.get_context("spawn")
    with multiprocessing.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        ready = manager.Barrier(workers)
        jobs = [
            pool.submit(
                measure,
                settings,
                device,
                texts=options.texts,
                seconds=options.seconds,
                ready=ready,
                first=index == 0,
                compiled=options.compiled,
            )
            for index in range(workers)
        ]
        reports = [job.result() for job in jobs]
    report = reports[0] | {"texts_per_s": sum(found["texts_per_s"] for found in reports), "workers": workers}
    print(json.dumps(report) if options.json else "\n".join(f"{name}: {value}" for name, value in report.items()))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.forward_rate", description=__doc__)
    result.add_argument("--model", type=Path, required=True, help="checkpoint folder")
    result.add_argument("--texts", type=Path, required=True, help="a text a line")
    result.add_argument("--dtype", default="auto")
    result.add_argument("--device", default="auto")
    result.add_argument("--threads", type=int, default=0, help="of each worker; 0: as the service would")
    result.add_argument("--workers-per-device", type=int, default=0, help="processes at once; 0: as the service would")
    result.add_argument("--seconds", type=float, default=10.0, help="how long to measure full batches")
    result.add_argument("--compiled", action="store_true", help="under torch.compile(dynamic=True), without CUDA graphs")
    result.add_argument("--json", action="store_true")
    return result


def measure(
    settings: Settings, device: str, *, texts: Path, seconds: float, ready: Barrier, first: bool, compiled: bool
) -> dict[str, Any]:
    """One worker's share: first one text's time, with the others idle; then its texts/s, all together."""
    engine, encoded = loaded(settings, device, texts=texts)
    if compiled:
        engine.model = torch.compile(engine.model, dynamic=True)
        engine.warm_up()
    report = {"mean_tokens": statistics.mean(len(text.ids) for text in encoded), **engine.details}
    ready.wait(LOADING_S)
    if first:
        torch.set_num_threads(settings.lone_thread_count())
        report["one_text_p50_ms"] = one_text_p50_ms(engine, encoded)
        torch.set_num_threads(settings.thread_count())
    ready.wait(LOADING_S)
    batches = token_batches(encoded, settings.batch_tokens(device))
    return {"texts_per_s": texts_per_s(engine, batches, seconds=seconds), **report}


def loaded(settings: Settings, device: str, *, texts: Path) -> tuple[Engine, list[TextIds]]:
    """The only model of the settings, as a worker has it, and the file's lines tokenized."""
    if device == "cpu":
        torch.set_num_threads(settings.thread_count())
    (served,) = load_catalog(settings)
    engine = Engine(served, device=device, settings=settings)
    encoder = TextEncoder(load_tokenizer(served.tokenizer_path).backend_tokenizer, max_length=served.max_length)
    return engine, [text_ids(encoder, line) for line in texts.read_text(encoding="utf-8").splitlines() if line.strip()]


def text_ids(encoder: TextEncoder, text: str) -> TextIds:
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
    """Over whole passes, after one that is not counted."""
    for batch in batches:
        engine.logits(batch)
    done = 0
    started_at = time.perf_counter()
    while time.perf_counter() - started_at < seconds:
        for batch in batches:
            engine.logits(batch)
            done += len(batch)
    return done / (time.perf_counter() - started_at)


def one_text_p50_ms(engine: Engine, texts: Sequence[TextIds]) -> float:
    """The median over 200 single texts."""
    durations = []
    for text in texts[:200]:
        started_at = time.perf_counter()
        engine.logits([text])
        durations.append(time.perf_counter() - started_at)
    return 1000 * statistics.median(durations)


if __name__ == "__main__":
    main()
