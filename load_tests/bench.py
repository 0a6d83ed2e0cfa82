"""`make bench`: Valence, stock LitServe and the bare forward, one after another in one run on one machine.

Prints markdown and writes `load_tests/results/<machine>-<date>.json`, `.md` and, with matplotlib, `.png`. Nothing else should run
on the machine meanwhile.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import psutil

from load_tests.generator import DEFAULT_TEXTS, Report
from load_tests.machine import describe_machine, describe_versions, slug
from load_tests.results import (
    BATCH_TEXTS,
    PROMISED_CONNECTIONS,
    Forward,
    Measured,
    Results,
    ServerResult,
    promises,
    save_plot,
    to_json,
    to_markdown,
)
from load_tests.servers import ROOT, ServerError, exit_on_sigterm, idle_cpu_percent, running
from load_tests.texts import user_texts

RESULTS = Path(__file__).parent / "results"
SETTLE_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and for how long."""

    model: str
    texts: Path
    port: int
    folder: Path
    seconds: float
    warmup_s: float
    idle_s: float
    connections: Sequence[int]
    batch_connections: int

    @property
    def loads(self) -> list[tuple[int, int]]:
        """(connections, texts a request)."""
        return [*((connections, 1) for connections in self.connections), (self.batch_connections, BATCH_TEXTS)]


def main() -> int:
    """0; 1 if a server did not start. A missed promise does not fail the run: it is printed."""
    options = parser().parse_args()
    exit_on_sigterm()
    RESULTS.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="valence-bench-") as folder:
        plan = make_plan(options, Path(folder))
        plan.texts.write_text("\n".join(user_texts(DEFAULT_TEXTS)) + "\n", encoding="utf-8")
        try:
            results = run(plan, options, machine)
        except (ServerError, subprocess.CalledProcessError) as error:
            print(f"{error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr)
            return 1
    write(results, name=f"{options.machine or slug(machine)}-{results.date}{'-quick' if options.quick else ''}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.bench", description=__doc__)
    result.add_argument("--model", default="models/checkpoints/sentiment-bert", help="checkpoint folder, for every server")
    result.add_argument("--dtypes", default="float32,int8", help="Valence's, comma-separated: float32,bfloat16,int8")
    result.add_argument("--stock-dtype", default="float32", help="stock LitServe's")
    result.add_argument("--connections", default="1,64", help="for single texts, comma-separated")
    result.add_argument("--batch-connections", type=int, default=8, help=f"for requests of {BATCH_TEXTS} texts")
    result.add_argument("--seconds", type=float, default=15.0, help="of each load")
    result.add_argument("--idle-seconds", type=float, default=20.0)
    result.add_argument("--port", type=int, default=8100)
    result.add_argument("--machine", help="the name in the results' file names; none: by processor")
    result.add_argument("--no-stock", action="store_true", help="leave stock LitServe out")
    result.add_argument("--quick", action="store_true", help="a few seconds a load, one stock configuration: a smoke test")
    return result


def make_plan(options: argparse.Namespace, folder: Path) -> Plan:
    """Promises need 1 and 64 connections, so those are always there."""
    asked = {int(part) for part in options.connections.split(",")}
    return Plan(
        model=options.model,
        texts=folder / "texts.txt",
        port=options.port,
        folder=folder,
        seconds=min(3.0, options.seconds) if options.quick else options.seconds,
        warmup_s=1.0 if options.quick else 3.0,
        idle_s=min(3.0, options.idle_seconds) if options.quick else options.idle_seconds,
        connections=sorted(asked | {1, PROMISED_CONNECTIONS}),
        batch_connections=options.batch_connections,
    )


def run(plan: Plan, options: argparse.Namespace, machine: dict[str, str]) -> Results:
    """Everything in its order: bare forwards with no server up, stock LitServe, Valence."""
    dtypes = options.dtypes.split(",")
    forwards = [bare_forward(plan, dtype) for dtype in dtypes]
    grid, stock = ([], None) if options.no_stock else best_stock(plan, dtype=options.stock_dtype, quick=options.quick)
    valence = [measure_valence(plan, dtype) for dtype in dtypes]
    return Results(
        command=shlex.join(["python", "-m", "load_tests.bench", *sys.argv[1:]]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        machine=machine,
        versions=describe_versions(),
        setup={
            "model": plan.model,
            "texts": f"{DEFAULT_TEXTS} of load_tests.texts",
            "generator": "load_tests.generator, closed loop, in a process of its own on the same machine",
            "seconds a load": f"{plan.seconds:g} after {plan.warmup_s:g} of warm-up",
        },
        forwards=forwards,
        grid=grid,
        stock=stock,
        valence=valence,
        promises=promises(valence, stock, forwards),
    )


def bare_forward(plan: Plan, dtype: str) -> Forward:
    """From the service's own tool, in a process of its own."""
    say(f"bare packed forward, {dtype}")
    found = json.loads(
        output("service.forward_rate", "--model", plan.model, "--dtype", dtype, "--texts", str(plan.texts),
               "--seconds", str(plan.seconds), "--json")
    )  # fmt: skip
    return Forward(dtype=dtype, texts_per_s=found["texts_per_s"], one_text_p50_ms=found["one_text_p50_ms"])


def best_stock(plan: Plan, *, dtype: str, quick: bool) -> tuple[list[ServerResult], ServerResult | None]:
    """Each configuration under 64 connections, and all loads on the fastest."""
    configurations = list(stock_configurations(len(os.sched_getaffinity(0))))
    grid = []
    for configuration in configurations[:1] if quick else configurations:
        try:
            grid.append(measure_stock(plan, configuration, dtype=dtype, loads=[(PROMISED_CONNECTIONS, 1)]))
        except ServerError as error:  # a configuration that can't run here is no candidate
            say(str(error))
    if not grid:
        return [], None
    best = max(grid, key=lambda server: server.loads[0].report.requests_per_s)
    return grid, measure_stock(plan, shlex.split(best.settings), dtype=dtype, loads=plan.loads)


def stock_configurations(cores: int) -> Iterable[list[str]]:
    """Workers that share the cores in several ways, and one that leaves a core to HTTP; each with large, small and no batches."""
    workers_and_threads = {(1, cores), (cores, 1), (max(1, cores // 4), min(cores, 4)), (1, max(1, cores - 1))}
    for (workers, threads), (size, timeout_s) in product(sorted(workers_and_threads), ((32, 0.01), (8, 0.005), (1, 0.0))):
        yield [
            *("--workers-per-device", str(workers), "--threads", str(threads)),
            *("--max-batch-size", str(size), "--batch-timeout-s", str(timeout_s)),
        ]


def measure_stock(plan: Plan, configuration: Sequence[str], *, dtype: str, loads: Iterable[tuple[int, int]]) -> ServerResult:
    """Stock LitServe in one configuration."""
    say(f"stock LitServe {shlex.join(configuration)}")
    arguments = [
        *("-m", "load_tests.peers.stock_litserve", "--model", plan.model, "--dtype", dtype, "--port", str(plan.port)),
        *configuration,
    ]
    with running(arguments, ready_url=f"{base_url(plan)}/health", log=plan.folder / "stock.log"):
        measured = measure_loads(plan, loads)
    return ServerResult(
        name=f"stock LitServe {dtype}",
        dtype=dtype,
        arguments=shlex.join(arguments),
        settings=shlex.join(configuration),
        loads=measured,
    )


def measure_valence(plan: Plan, dtype: str) -> ServerResult:
    """All loads, then the idle server's CPU."""
    say(f"Valence, {dtype}")
    arguments = [
        *("-m", "service", "--host", "127.0.0.1", "--port", str(plan.port)),
        *("--dtype", dtype, "--models", f"bench={plan.model}"),
    ]
    with running(arguments, ready_url=f"{base_url(plan)}/ready", log=plan.folder / "valence.log") as process:
        measured = measure_loads(plan, plan.loads)
        idle = measure_idle(process, plan.idle_s)
    return ServerResult(
        name=f"Valence {dtype}", dtype=dtype, arguments=shlex.join(arguments), loads=measured, idle_cpu_percent=idle
    )


def measure_idle(process: psutil.Process, seconds: float) -> float:
    """After the loads: what they left running counts."""
    time.sleep(SETTLE_S)
    return idle_cpu_percent(process, seconds=seconds)


def measure_loads(plan: Plan, loads: Iterable[tuple[int, int]]) -> list[Measured]:
    """The generator runs in a process of its own."""
    found = []
    for connections, size in loads:
        printed = output(
            "load_tests.generator", "--url", f"{base_url(plan)}/predict", "--connections", str(connections),
            "--texts-per-request", str(size), "--seconds", str(plan.seconds), "--warmup-s", str(plan.warmup_s),
            "--texts", str(plan.texts), "--json",
        )  # fmt: skip
        report = Report(**json.loads(printed))
        say(f"  {connections} x {size}: {report.requests_per_s:.1f} requests/s, p50 {report.p50_ms:.1f} ms {report.errors or ''}")
        found.append(Measured(connections=connections, texts_per_request=size, report=report))
    return found


def output(module: str, *arguments: str) -> str:
    """What `python -m MODULE` prints; CalledProcessError with its stderr if it fails."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def base_url(plan: Plan) -> str:
    return f"http://127.0.0.1:{plan.port}"


def say(line: str) -> None:
    """Progress, apart from the results on stdout."""
    print(line, file=sys.stderr, flush=True)


def write(results: Results, *, name: str) -> None:
    """Files, and the markdown to the terminal."""
    markdown = to_markdown(results)
    (RESULTS / f"{name}.json").write_text(to_json(results), encoding="utf-8")
    if save_plot(results, RESULTS / f"{name}.png"):
        markdown += f"\n![texts/s by server]({name}.png)\n"
    (RESULTS / f"{name}.md").write_text(markdown, encoding="utf-8")
    print(markdown)
    say(f"written: {(RESULTS / name).relative_to(ROOT)}.json, .md")


if __name__ == "__main__":
    sys.exit(main())
