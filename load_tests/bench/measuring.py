"""One server of the benchmark: its configurations tried, its answers checked, its loads measured."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from load_tests.bench.answers import AnswerCheck, AnswerError, ask, compare
from load_tests.bench.api import Scores
from load_tests.bench.catalog import Contender, Flags
from load_tests.bench.environments import InstallError, interpreter, versions
from load_tests.bench.machine import GpuWatch, gpu_names
from load_tests.bench.results import BATCH_TEXTS, PROMISED_CONNECTIONS, Measured, Results, ServerResult, Unmeasured, neutral
from load_tests.generator.load import Load
from load_tests.generator.report import Report
from load_tests.servers import ROOT, ServerError, busy_cores, idle_cpu_percent, running

# How long a server that answered first is left alone: other processes of its may still be starting behind the same port.
SETTLE_S = 2.0
LOOK_S = 0.5
BUSY_CORES = 0.25
OPEN_SHARES = (0.10, 0.25, 0.50, 0.75, 0.90, 1.00)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and for how long. `plain` is the checkpoint as one of transformers' own architectures. Where there is no
    such form it is None, and `no_plain` says why. `expected` is the reference's answer to each of the texts in `checked`."""

    model: str
    plain: Path | None
    no_plain: str
    checked: Sequence[str]
    expected: Sequence[Scores]
    texts: Path
    port: int
    folder: Path
    seconds: float
    warmup_s: float
    open_s: float
    idle_s: float
    connections: Sequence[int]
    batch_connections: int
    open_connections: int
    open_loops: Sequence[str]
    generator_processes: int
    first_only: bool

    @property
    def loads(self) -> list[tuple[int, int]]:
        """(connections, texts a request)."""
        return [*((connections, 1) for connections in self.connections), (self.batch_connections, BATCH_TEXTS)]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Setting:
    """A server that is ready to be started in any of its configurations."""

    def __init__(self, plan: Plan, contender: Contender, dtype: str) -> None:
        """Installs and prepares what it needs. InstallError, ServerError."""
        if contender.needs_plain and plan.plain is None:
            raise ServerError(plan.no_plain)
        self.plan, self.contender, self.dtype = plan, contender, dtype
        self.name = f"{contender.title} {dtype}"
        self.python = interpreter(contender)
        self.versions = versions(contender, self.python)
        self.folder = plan.folder / f"{contender.name}-{dtype}"
        self.folder.mkdir()
        if contender.prepare:
            say("  preparing")
            output(self.python, *self.filled(contender.prepare))

    def filled(self, arguments: Iterable[str], **others: str) -> list[str]:
        """Placeholders replaced; `others` are values that differ from the plan's."""
        values = {
            "model": self.plan.model,
            "plain": str(self.plan.plain),
            "port": str(self.plan.port),
            "dtype": self.dtype,
            "folder": str(self.folder),
            "most_connections": str(max(512, *self.plan.connections)),
        }
        return [argument.format_map(values | others) for argument in arguments]

    @contextmanager
    def running(self, flags: Flags) -> Iterator[psutil.Process]:
        """The server, ready and settled. ServerError."""
        with running(
            [*self.filled(self.contender.arguments), *flags],
            ready_url=self.plan.base_url + self.contender.api.ready_path,
            log=self.folder / "server.log",
            timeout_s=self.contender.start_timeout_s,
            python=self.python,
        ) as process:
            time.sleep(SETTLE_S)
            yield process

    def check(self) -> AnswerCheck:
        """Compares the running server's answers with the reference. AnswerError if they can't be read."""
        labels = list(self.plan.expected[0])
        found = ask(self.plan.base_url, self.contender.api, self.plan.checked, labels)
        check = compare(found, self.plan.expected, dtype=self.dtype)
        say(f"  answers: max difference {check.max_difference:.2g}, equal labels {check.equal_labels:.1%} {check.failure}")
        return check

    def result(
        self,
        flags: Flags,
        answers: AnswerCheck,
        loads: list[Measured],
        open_loads: list[Measured],
        idle: float | None,
    ) -> ServerResult:
        # the folders are temporary, so they are shown by name
        shown = [*self.filled(self.contender.arguments, plain="{plain}", folder="{folder}"), *flags]
        return ServerResult(
            contender=self.contender.name,
            name=self.name,
            dtype=self.dtype,
            arguments=neutral(" ".join(shown)),
            settings=shlex.join(flags),
            versions=self.versions,
            answers=answers,
            loads=loads,
            open_loads=open_loads,
            idle_cpu_percent=idle,
        )


def measure_contender(plan: Plan, contender: Contender, dtype: str, results: Results, save: Callable[[], object]) -> bool:
    """Tries the grid under 64 connections, then measures the fastest configuration under all loads. Adds both to `results`, or
    the reason why there are no figures. True if it was measured."""
    name = f"{contender.title} {dtype}"
    say(name)
    try:
        setting = Setting(plan, contender, dtype)
        flags = choose(setting, results, save)
        if flags is None:
            return False
        measured = measure(setting, flags)
        results.servers.append(measured)
        if measured.answers.failure:
            raise AnswerError(measured.answers.failure)
    except FAILURES as error:
        results.unmeasured.append(Unmeasured(name=name, reason=reason(error)))
        say(f"  not measured: {reason(error)}")
        return False
    finally:
        save()
    return True


FAILURES = (ServerError, InstallError, AnswerError, subprocess.CalledProcessError, OSError)


def reason(error: Exception) -> str:
    """The error in words, with the end of what a failed command printed."""
    return neutral(f"{error}\n{(getattr(error, 'stderr', None) or '')[-1000:]}".strip())


def choose(setting: Setting, results: Results, save: Callable[[], object]) -> Flags | None:
    """The fastest configuration under 64 connections. A single one needs no trial. None if none can be measured."""
    grid = setting.contender.grid
    if gpu_names() and setting.contender.gpu_grid is not None:
        grid = setting.contender.gpu_grid
    configurations = list(grid(len(os.sched_getaffinity(0))))
    if setting.plan.first_only or len(configurations) == 1:
        return configurations[0]
    rates: dict[Flags, float] = {}
    for flags in configurations:
        say(f"  {shlex.join(flags)}")
        try:
            with setting.running(flags) as process:
                answers = setting.check()
                if answers.failure:
                    raise AnswerError(answers.failure)
                loads = closed_loads(setting, process, [(PROMISED_CONNECTIONS, 1)])
        except FAILURES as error:  # a configuration that can't run here is no candidate
            results.unmeasured.append(Unmeasured(name=setting.name, settings=shlex.join(flags), reason=reason(error)))
            say(f"  not measured: {reason(error)}")
        else:
            results.grid.append(setting.result(flags, answers, loads, [], None))
            rates[flags] = loads[0].report.requests_per_s
        save()
    return max(rates, key=lambda flags: rates[flags]) if rates else None


def measure(setting: Setting, flags: Flags) -> ServerResult:
    """All loads on one configuration; none if its answers are wrong."""
    say(f"  all loads: {shlex.join(flags) or 'default settings'}")
    with setting.running(flags) as process:
        answers = setting.check()
        if answers.failure:
            return setting.result(flags, answers, [], [], None)
        loads = closed_loads(setting, process, setting.plan.loads)
        best = setting.result(flags, answers, loads, [], None).saturation
        rates = [share * best for share in OPEN_SHARES] if setting.contender.name in setting.plan.open_loops and best else []
        opened = [open_load(setting, process, rate) for rate in rates]
        time.sleep(SETTLE_S)  # work that the loads left behind ends first; what does not end counts as idle CPU
        idle = idle_cpu_percent(process, seconds=setting.plan.idle_s)
    return setting.result(flags, answers, loads, opened, idle)


def closed_loads(setting: Setting, process: psutil.Process, loads: Iterable[tuple[int, int]]) -> list[Measured]:
    """Each (connections, texts a request)."""
    plan = setting.plan
    found = []
    for connections, size in loads:
        load = setting.contender.api.load(
            plan.base_url, connections=connections, texts_per_request=size, seconds=plan.seconds, warmup_s=plan.warmup_s
        )
        found.append(measure_load(plan, process, load))
    return found


def open_load(setting: Setting, process: psutil.Process, rate: float) -> Measured:
    """Single texts that arrive at a rate."""
    plan = setting.plan
    load = setting.contender.api.load(
        plan.base_url, connections=plan.open_connections, rate=rate, seconds=plan.open_s, warmup_s=plan.warmup_s
    )
    return measure_load(plan, process, load)


def measure_load(plan: Plan, process: psutil.Process, load: Load) -> Measured:
    """The generator runs in a process of its own."""
    busy = busy_cores(process, seconds=LOOK_S)
    if busy > BUSY_CORES:
        say(f"  something else keeps {busy:.1f} cores busy: the next figures are not to be trusted")
    load = replace(load, processes=plan.generator_processes)
    with GpuWatch() as gpu:
        printed = output(
            Path(sys.executable), "-m", "load_tests.generator", *load_arguments(load), "--texts", str(plan.texts), "--json"
        )
    report = Report(**json.loads(printed))
    pace = f"{load.connections} x {load.texts_per_request}" if load.rate is None else f"{load.rate:.1f} requests/s offered"
    say(f"  {pace}: {report.requests_per_s:.1f} requests/s, p50 {report.p50_ms:.1f} ms {report.errors or ''}")
    return Measured(
        connections=load.connections,
        texts_per_request=load.texts_per_request,
        rate=load.rate,
        busy_cores_before=busy,
        gpu_busy_percent=gpu.median_percent(),
        report=report,
    )


def load_arguments(load: Load) -> list[str]:
    """The generator's command line.

    >>> load_arguments(Load(url="http://x/predict", always_list=True))[:6]
    ['--url', 'http://x/predict', '--connections', '64', '--seconds', '10.0']
    """
    arguments: list[str] = []
    for name, value in asdict(load).items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif isinstance(value, dict):
            arguments += [flag, json.dumps(value)]
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


def output(python: Path, *arguments: str) -> str:
    """What `python ARGUMENTS` prints; CalledProcessError with its stderr if it fails."""
    return subprocess.run([str(python), *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def say(line: str) -> None:
    """Prints progress to stderr; stdout is for the results."""
    print(line, file=sys.stderr, flush=True)
