"""The I/O thread's socket, in a process of its own."""

import multiprocessing
import os
import platform
import stat
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from service.engine.weights import keep_freed_memory
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


def listening(path: Path) -> Connections:
    """The I/O thread of a worker without models."""
    listens = threading.Event()
    meter: Any = SimpleNamespace(queue_depths=lambda _: listens.set(), write=lambda: None)
    models: Any = SimpleNamespace(engines={})
    queue = TextQueue(max_batch_tokens=64, on_dropped=lambda *_: None)
    result = Connections(queue, explanations=None, models=models, device="cpu/0", meter=meter)
    threading.Thread(target=result.serve, args=(path,), daemon=True).start()
    assert listens.wait(SAFETY_S / 2)
    return result


def listen_and_write(folder: Path) -> None:
    os.umask(0o027)
    listening(folder / "worker.sock")
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
def test_a_worker_without_work_gives_back_what_its_forwards_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.worker.connections.QUIET_S", 0.0)
    monkeypatch.setattr("service.worker.connections.OBSERVE_QUEUE_S", 0.05)
    process = multiprocessing.get_context("fork").Process(target=compute_and_rest, args=(tmp_path,))
    process.start()
    process.join(SAFETY_S)
    assert process.exitcode == 0


def compute_and_rest(folder: Path) -> None:
    """Exits with 0 once the process is smaller."""
    connections = listening(folder / "worker.sock")
    keep_freed_memory()
    blocks = [torch.ones(250_000) for _ in range(200)]
    kept = blocks[::10]  # so that what is freed lies between what stays
    del blocks
    large = psutil.Process().memory_info().rss
    time.sleep(0.2)
    assert psutil.Process().memory_info().rss > large - 20_000_000
    connections.send({})  # as after a batch
    deadline = time.monotonic() + SAFETY_S / 2
    while psutil.Process().memory_info().rss > large - 100_000_000:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.05)
    os._exit(0 if kept else 1)
