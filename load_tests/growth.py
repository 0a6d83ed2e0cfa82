"""`python -m load_tests.growth`: how cost grows with the length of a text, the number of served models and the number of workers.

Three tables: the forward's time by tokens of one text (from the header `x-inference-time-ms`), latency and idle CPU by served
models, requests/s by workers of one thread each. Nothing else should run on the machine meanwhile.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from load_tests.bench.results import table
from load_tests.generator.load import DEFAULT_TEXTS, Load, run
from load_tests.servers import ServerError, exit_on_sigterm, idle_cpu_percent, running
from load_tests.texts import user_texts

LENGTHS = (16, 32, 64, 128, 256, 510)
MODELS = (1, 2, 8)
ASKED = 15
SETTLE_S = 2.0
Table = list[list[str]]


def main() -> int:
    """0, or 1 if a server did not start."""
    options = parser().parse_args()
    exit_on_sigterm()
    try:
        print(table(["tokens of a text", "forward, ms", "us a token"], by_tokens(options)), flush=True)
        print()
        print(table(["served models", "p50 at 1 connection, ms", "idle CPU, of a core"], by_models(options)), flush=True)
        print()
        print(table(["workers of 1 thread", "requests/s at 64 connections", "of one worker's"], by_workers(options)), flush=True)
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.growth", description=__doc__)
    result.add_argument("--model", default="models/checkpoints/sentiment-bert")
    result.add_argument("--dtype", default="float32")
    result.add_argument("--workers", default="1,2", help="comma-separated")
    result.add_argument("--seconds", type=float, default=6.0, help="of each load")
    result.add_argument("--port", type=int, default=8100)
    return result


@contextmanager
def service(options: argparse.Namespace, *, models: int = 1, workers: int = 0) -> Iterator[psutil.Process]:
    """The service with one checkpoint under several names."""
    names = ",".join(f"m{number}={options.model}" for number in range(models))
    arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(options.port), "--dtype", options.dtype, "--models", names]
    if workers:
        arguments += ["--workers-per-device", str(workers), "--threads", "1"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running(arguments, ready_url=f"http://127.0.0.1:{options.port}/ready", log=log) as process:
            yield process


def by_tokens(options: argparse.Namespace) -> Table:
    """The median of a text's forward, alone on the service."""
    rows = []
    with service(options):
        for length in LENGTHS:
            found = [ask(options.port, " ".join(["good"] * (length - 2))) for _ in range(ASKED)]
            tokens = found[0][0]
            forward_ms = statistics.median(milliseconds for _, milliseconds in found[ASKED // 3 :])
            rows.append([str(tokens), f"{forward_ms:.1f}", f"{1000 * forward_ms / tokens:.0f}"])
    return rows


def ask(port: int, text: str) -> tuple[int, float]:
    """Tokens and milliseconds of the forward, as the service tells them."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps({"inputs": text}).encode())
    with urllib.request.urlopen(request) as answer:
        return int(answer.headers["x-tokens"]), float(answer.headers["x-inference-time-ms"])


def by_models(options: argparse.Namespace) -> Table:
    """One of the models is asked; the others are idle."""
    rows = []
    for models in MODELS:
        with service(options, models=models) as process:
            report = run(load(options, connections=1), user_texts(DEFAULT_TEXTS))
            time.sleep(SETTLE_S)
            idle = idle_cpu_percent(process, seconds=options.seconds)
        rows.append([str(models), f"{report.p50_ms:.1f}", f"{idle:.1f}%"])
    return rows


def by_workers(options: argparse.Namespace) -> Table:
    """Each worker stands for a device."""
    rows: Table = []
    single = None
    for workers in map(int, options.workers.split(",")):
        with service(options, workers=workers):
            rate = run(load(options, connections=64), user_texts(DEFAULT_TEXTS)).requests_per_s
        single = single or rate / workers
        rows.append([str(workers), f"{rate:.0f}", f"{rate / single:.2f}"])
    return rows


def load(options: argparse.Namespace, *, connections: int) -> Load:
    url = f"http://127.0.0.1:{options.port}/predict"
    return Load(url=url, connections=connections, seconds=options.seconds, warmup_s=2.0)


if __name__ == "__main__":
    sys.exit(main())
