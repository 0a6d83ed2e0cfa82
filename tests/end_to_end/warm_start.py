"""Starts `python -m service` in a fork of a process that has the libraries imported, which takes a tenth of a start's CPU time.

Nothing of this repository is imported before the fork. After it, `runpy` does what `python -m` does, in a session, a folder and
an environment of its own. A variable that a library reads when it is imported would be read before the test sets it. Of these,
tests only ever set `HF_*`, and then `can_start` says no.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

LIBRARIES = (
    "fastapi_offline",
    "httptools",
    "litserve.server",
    "msgspec",
    "orjson",
    "pydantic_settings",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "uvicorn",
    "uvloop",
)  # not prometheus_client, which looks for its folder when it is imported
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(list(LIBRARIES))
HUB = {name: value for name, value in os.environ.items() if name.startswith("HF_")}


def prepare() -> None:
    """Starts the process that imports the libraries."""
    multiprocessing.forkserver.ensure_running()


def can_start(environment: Mapping[str, str]) -> bool:
    """Whether the libraries would read the same from this environment as from that of the test run."""
    return {name: value for name, value in environment.items() if name.startswith("HF_")} == HUB


class WarmProcess:
    """`python -m MODULE ARGUMENTS`, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> None:
        log.touch()
        # It is no daemon, since a daemon may have no children. `Server.close` ends it.
        options = {"cwd": cwd, "environment": dict(environment), "log": log}
        self._process: ForkServerProcess = FORKS.Process(target=run_module, args=(module, list(arguments)), kwargs=options)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run_module(module: str, arguments: list[str], *, cwd: Path, environment: dict[str, str], log: Path) -> None:
    """Runs in the fork: does what `python -m` does."""
    multiprocessing.set_start_method(None, force=True)  # to Linux's default: a fork server changes it in its forks
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [str(cwd), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
