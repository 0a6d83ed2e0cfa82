"""Real servers: `python -m service` in a process group of its own, which tests reach over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import failing_architecture
import httpx
import psutil
import pytest
import warm_start
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
READY_S = 180
SAFETY_S = 60
warm_start.prepare()  # its imports run while the tests are collected


class Drilled(NamedTuple):
    """A row of the table that `make drills` prints. `seen` is empty if a test has nothing to tell but that it passed."""

    fault: str
    must: str
    seen: str
    outcome: str
    seconds: float


DRILLS: list[Drilled] = []
Process = subprocess.Popen[bytes] | warm_start.WarmProcess
MODULES = "examples.keyword_pooling.architecture,failing_architecture"


class Server:
    """A running service. `client` holds keep-alive connections to it."""

    def __init__(
        self,
        models: Mapping[str, Path],
        *flags: str,
        log: Path,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = log
        self.process = start(models, "--port", self.url.rpartition(":")[2], *flags, log=log, **options)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=SAFETY_S, limits=limits, trust_env=False)

    def predict(
        self, inputs: Any, *, path: str = "/predict", headers: Mapping[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        return self.client.post(path, json={"inputs": inputs, **fields}, headers=headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of `/metrics`, by name and labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}

    def lines(self) -> list[dict[str, Any]]:
        """The log, parsed."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def worker(self) -> psutil.Process:
        """The process that holds the models, of a server with one worker."""
        (worker,) = self.workers()
        return worker

    def workers(self) -> list[psutil.Process]:
        """The processes that hold the models."""
        return self.children("valence-worker")

    def http_processes(self) -> list[psutil.Process]:
        """The processes that answer HTTP."""
        return self.children("valence-http")

    def links(self) -> list[int]:
        """How many HTTP processes each worker is connected to. A worker has a socket for each, and one that listens."""
        paths = [[end.laddr for end in worker.net_connections("unix")] for worker in self.workers()]
        return [sum("/worker-" in path for path in held) - 1 for held in paths]

    def children(self, name: str) -> list[psutil.Process]:
        """The processes of the server with that name."""
        return [child for child in psutil.Process(self.process.pid).children() if runs_as(child, name)]

    def wait_until_ready(self) -> None:
        """Waits until `/ready` is answered 200 on several fresh connections, so that each HTTP process is likely to be asked."""
        wait_for(lambda: all(self.is_ready() for _ in range(8)), timeout_s=READY_S, alive=self)

    def is_ready(self) -> bool:
        try:
            return httpx.get(self.url + "/ready", timeout=SAFETY_S, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    @contextmanager
    def slow_requests(self, count: int) -> Iterator[list[Future[httpx.Response]]]:
        """`count` requests in flight with a slow text. All have been accepted when the block begins."""
        with ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(self.predict, "slow", model="failing") for _ in range(count)]
            wait_for(lambda: self.metric("valence_requests_in_flight") == count, timeout_s=SAFETY_S, alive=self)
            yield futures

    def leftovers(self) -> list[psutil.Process]:
        """The processes of the server's group that still run."""
        return [process for process in psutil.process_iter() if runs_in_group(process, self.process.pid)]

    def assert_stopped_cleanly(self) -> None:
        """Exit code 0, no process of the group left, no stack trace in the log."""
        assert self.process.wait(SAFETY_S) == 0, self.log.read_text()
        wait_for(lambda: not self.leftovers(), timeout_s=10)
        # after all is answered, LitServe's monitor thread may find its manager gone, and logs that with a stack
        assert "Traceback" not in self.log.read_text().partition("Monitoring worker crashed")[0]

    def close(self) -> None:
        """Kills what a failed test left running."""
        self.client.close()
        if self.process.poll() is None or self.leftovers():
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(SAFETY_S)


def start(models: Mapping[str, Path], *flags: str, log: Path, root: Path = ROOT, cold: bool = False) -> Process:
    """Starts `python -m service` of the repository in `root`, with its output in `log`. `cold`: by the command, not by a fork."""
    served = ",".join(f"{name}={folder}" for name, folder in models.items())
    arguments = ["--models", served, "--import-modules", MODULES, "--host", "127.0.0.1", "--device", "cpu"]
    arguments += ["--workers-per-device", "1", "--threads", "1", "--drain-s", "0", *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VALENCE_", "PROMETHEUS_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [environment.get("PYTHONPATH")])])
    if not cold and warm_start.can_start(environment):
        return warm_start.WarmProcess("service", arguments, cwd=root, environment=environment, log=log)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            cwd=root,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def wait_for(condition: Callable[[], object], *, timeout_s: float, alive: Server | None = None) -> None:
    """Waits for a condition. Fails, with the log of the server `alive`, if that has died or the time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if alive is not None and alive.process.poll() is not None:
            pytest.fail(f"the server ended with code {alive.process.returncode}:\n{alive.log.read_text()}")
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s} s" + (f":\n{alive.log.read_text()}" if alive is not None else ""))
        time.sleep(0.02)


def runs_in_group(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False


def runs_as(process: psutil.Process, name: str) -> bool:
    try:
        return process.name() == name and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def by_label(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {item["label"]: item["score"] for item in scores}


@pytest.fixture(scope="session")
def scores_by_label() -> Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]:
    return by_label


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Whether a fault is to be done at full length."""
    return bool(request.config.getoption("--full-drills"))


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes what a fault test saw, for the table at the end of `make drills`."""
    return lambda seen: request.node.user_properties.append(("seen", seen))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    if "fault" in properties and (report.when == "call" or report.failed):
        seen = properties.get("seen", "")
        DRILLS.append(Drilled(properties["fault"], properties["must"], seen, report.outcome, report.duration))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties += [("fault", mark.args[0]), ("must", mark.args[1])]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if DRILLS and config.getoption("--full-drills"):
        terminalreporter.section("fault drills")
        terminalreporter.write_line("| fault | must be seen | seen | |\n|---|---|---|---|")
        for (fault, must, seen, outcome), rows in groupby(DRILLS, key=lambda row: row[:4]):
            seconds = [row.seconds for row in rows]
            told = seen or f"{len(seconds)} cases, each within {max(seconds):.1f} s"
            terminalreporter.write_line(f"| {fault} | {must} | {told} | {outcome} |")


@pytest.fixture(scope="session", name="free_port")
def free_port_fixture() -> Callable[[], int]:
    return free_port


@pytest.fixture(scope="module")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers of the given models, with the given flags. Those that still run afterwards are killed."""
    running: list[Server] = []

    def start_one(models: Mapping[str, Path], *flags: str, **options: Any) -> Server:
        running.append(Server(models, *flags, log=tmp_path_factory.mktemp("server") / "log", **options))
        running[-1].wait_until_ready()
        return running[-1]

    yield start_one
    for one in running:
        one.close()


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    return wait_for


@pytest.fixture(scope="session")
def models(
    checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory, training_texts: tuple[str, ...]
) -> Mapping[str, Path]:
    """The tiny checkpoints, and `failing` (see failing_architecture.py)."""
    folder = tmp_path_factory.mktemp("failing")
    failing_architecture.make_checkpoint(folder, training_texts)
    return {**checkpoints, "failing": folder}


@pytest.fixture(scope="session")
def server(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every model, with two HTTP processes and small limits. It must stop cleanly at the end of the run."""
    flags = ("--http-processes", "2", "--payload-limit", "100000", "--max-client-batch-size", "64", "--explain-steps", "64")
    running = Server(models, *flags, log=tmp_path_factory.mktemp("server") / "log", cold=True)
    try:
        running.wait_until_ready()
        yield running
        running.process.send_signal(signal.SIGTERM)
        running.assert_stopped_cleanly()
    finally:
        running.close()


@pytest.fixture(scope="module", params=["float32", "int8"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    """(dtype, server of the shipped checkpoints with two workers)."""
    models = {name: ROOT / "models" / "checkpoints" / name for name in ("sentiment-bert", "sentiment-lstm", "sentiment-lstm-zh")}
    log = tmp_path_factory.mktemp("shipped") / "log"
    running = Server(models, "--dtype", request.param, "--workers-per-device", "2", log=log)
    try:
        running.wait_until_ready()
        yield request.param, running
    finally:
        running.close()


@pytest.fixture(scope="module")
def start_server(models: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts servers of `failing`, or of `names`, with the given flags. Those that still run afterwards are killed."""
    running: list[Server] = []

    def start_one(*flags: str, names: Sequence[str] = ("failing",), **options: Any) -> Server:
        log = tmp_path_factory.mktemp("server") / "log"
        running.append(Server({name: models[name] for name in names}, *flags, log=log, **options))
        running[-1].wait_until_ready()
        return running[-1]

    yield start_one
    for one in running:
        one.close()


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[int, str]]:
    """Runs the service until it ends by itself: (exit code, log)."""

    def run(models: Mapping[str, Path], *flags: str) -> tuple[int, str]:
        log = tmp_path_factory.mktemp("launch") / "log"
        process = start(models, "--port", str(free_port()), *flags, log=log)
        try:
            return process.wait(READY_S), log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(SAFETY_S)

    return run
