"""Starts `python -m service` in forks of a process that has the libraries imported: a start takes a tenth of the CPU time.

Nothing of this repository is imported before the fork, and `runpy` does after it what `python -m` does, in a session, a folder,
and an environment of its own. What a library reads from the environment when it is imported would be read too early: of
those variables only `HF_*` are ever set by a test, and then `can_start` says no.
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
    """Lets the imports begin."""
    multiprocessing.forkserver.ensure_running()


def can_start(environment: Mapping[str, str]) -> bool:
    """Whether the libraries read the same from this environment as from that of the test run."""
    return {name: value for name, value in environment.items() if name.startswith("HF_")} == HUB


class WarmProcess:
    """`python -m MODULE ARGUMENTS`, with the part of `subprocess.Popen` that the tests use."""

    def __init__(self, module: str, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> None:
        log.touch()
        # Not a daemon, which may have no children; `Server.close` ends it.
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
    """What the fork does."""
    multiprocessing.set_start_method(None, force=True)  # Linux's own, which a fork server changes in its forks
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
