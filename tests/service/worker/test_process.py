"""A worker process lives as long as each of its threads."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.runtime_dir import RuntimeDir
from service.settings import Settings
from service.worker import connections, watchdog
from service.worker.process import WorkerLoop

PATIENCE_S = 10


def fail(*_: object) -> None:
    raise OSError("broken")


def end(*_: object) -> None:
    """As an event loop that was stopped."""


def exit_code(folder: Path) -> int | None:
    """How a worker without models ends; None if it goes on."""
    api: Any = SimpleNamespace(settings=Settings(device="cpu", workers_per_device=1), names={}, engines={}, roster=None)
    process = multiprocessing.get_context("fork").Process(target=WorkerLoop(RuntimeDir(folder)), args=(api, "cpu", 0))
    process.start()
    process.join(PATIENCE_S)
    code = process.exitcode
    process.kill()
    process.join()
    return code


@pytest.mark.parametrize("ends", [fail, end])
@pytest.mark.parametrize(("owner", "work"), [(connections.Connections, "serve"), (watchdog, "_keep_winding")])
def test_a_worker_ends_when_one_of_its_threads_does(
    owner: Any, work: str, ends: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, work, ends)
    assert exit_code(tmp_path) == 1


def test_a_worker_whose_socket_cannot_be_made_ends(tmp_path: Path) -> None:
    """The path of a Unix socket has at most 107 bytes."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    assert exit_code(folder) == 1
