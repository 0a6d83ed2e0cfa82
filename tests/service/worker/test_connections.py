"""The I/O thread's socket, in a process of its own."""

import multiprocessing
import os
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from service.worker.connections import Connections
from service.worker.queue import TextQueue

SAFETY_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a worker listened, and then made a folder and a file."""
    path = tmp_path_factory.mktemp("worker")
    process = multiprocessing.get_context("fork").Process(target=listen_and_write, args=(path,))
    process.start()
    process.join(SAFETY_S)
    assert process.exitcode == 0
    return path


def listen_and_write(folder: Path) -> None:
    os.umask(0o027)
    listens = threading.Event()
    meter: Any = SimpleNamespace(queue_depths=lambda depths: listens.set())
    models: Any = SimpleNamespace(engines={})
    queue = TextQueue(max_batch_tokens=64, on_dropped=lambda *_: None)
    connections = Connections(queue, explanations=None, models=models, device="cpu/0", meter=meter)
    threading.Thread(target=connections.serve, args=(folder / "worker.sock",), daemon=True).start()
    assert listens.wait(SAFETY_S / 2)
    (folder / "cache").mkdir()
    (folder / "kernel").touch()
    os._exit(0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_may_use_the_socket(folder: Path) -> None:
    assert mode(folder / "worker.sock") == 0o600


def test_what_the_worker_makes_later_has_the_rights_that_the_operator_set(folder: Path) -> None:
    """The caches of a compiler are folders, and a folder without its x bit can't be used."""
    assert (mode(folder / "cache"), mode(folder / "kernel")) == (0o750, 0o640)
