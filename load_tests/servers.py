"""Server processes for a load test: start, wait until ready, watch, stop."""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
STOP_TIMEOUT_S = 40.0
LOG_TAIL_CHARACTERS = 2000


class ServerError(Exception):
    """A server did not come up; the message holds the end of its log."""


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    ready_url: str,
    log: Path,
    timeout_s: float = 300.0,
    python: Path = Path(sys.executable),
    folder: Path = ROOT,
) -> Iterator[psutil.Process]:
    """Starts `python ARGUMENTS` in a folder, yields its process once `ready_url` answers 200, and stops it at the end.

    ServerError if it ends before that or takes more than `timeout_s`, or if something answers at that address already."""
    if _answers(ready_url):
        raise ServerError(f"{ready_url} answers already; stop that server, or choose another port")
    with log.open("wb") as output:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the server in good order.
        process = subprocess.Popen(
            [str(python), *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_until_ready(process, ready_url, log, timeout_s)
        yield psutil.Process(process.pid)
    finally:
        stop(process)


def exit_on_sigterm() -> None:
    """Makes SIGTERM raise SystemExit, so that this process first stops the servers it started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the process, then SIGKILL to all that is left: stock LitServe leaves its children serving the port."""
    tree = _tree(process.pid)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in tree:
        if child.is_running():  # compares start times: a process id that was used again is not ours
            child.kill()
    psutil.wait_procs(tree, timeout=5)


def idle_cpu_percent(process: psutil.Process, *, seconds: float) -> float:
    """CPU time of the process and all its descendants over `seconds`, in percent of one core."""
    before = _cpu_s(process)
    started_at = time.perf_counter()
    time.sleep(seconds)
    return 100 * (_cpu_s(process) - before) / (time.perf_counter() - started_at)


def busy_cores(process: psutil.Process, *, seconds: float) -> float:
    """Cores that everything else on the machine kept busy over `seconds`: all but the process and its descendants."""
    before, ours, started_at = _machine_cpu_s(), _cpu_s(process), time.perf_counter()
    time.sleep(seconds)
    elapsed_s = time.perf_counter() - started_at
    ours = max(0.0, _cpu_s(process) - ours)  # a child that ended meanwhile is missing from the second sum
    return max(0.0, _machine_cpu_s() - before - ours) / elapsed_s


def _machine_cpu_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0)


def _wait_until_ready(process: subprocess.Popen[bytes], ready_url: str, log: Path, timeout_s: float) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not _answers(ready_url):
        if process.poll() is not None:
            raise ServerError(f"the server ended with status {process.returncode}:\n{_tail(log)}")
        if time.monotonic() > give_up_at:
            raise ServerError(f"the server was not ready after {timeout_s:.0f} s:\n{_tail(log)}")
        time.sleep(0.25)


def _answers(url: str) -> bool:
    """Whether a GET is answered 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARACTERS:]


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s(process: psutil.Process) -> float:
    total = 0.0
    for member in _tree(process.pid):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
