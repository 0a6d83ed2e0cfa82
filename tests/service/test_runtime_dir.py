"""The next start removes the folders of services that were killed, and no other folder."""

import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from service.runtime_dir import RuntimeDir


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def create(connection: Connection) -> None:
    """Runs in the process of another service: makes its folder."""
    connection.send(RuntimeDir.create().path)
    time.sleep(600)


@pytest.fixture
def other() -> Iterator[tuple[multiprocessing.process.BaseProcess, Path]]:
    """Another service: its process and its folder."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=create, args=(there,))
    process.start()
    yield process, here.recv()
    process.kill()
    process.join()


def test_a_folder_in_use_stays(other: tuple[multiprocessing.process.BaseProcess, Path]) -> None:
    _, folder = other
    mine = RuntimeDir.create()
    assert folder.is_dir()
    assert mine.path.is_dir()


def test_the_folder_of_a_killed_service_is_removed(other: tuple[multiprocessing.process.BaseProcess, Path]) -> None:
    process, folder = other
    (folder / "worker-0.sock").touch()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    RuntimeDir.create()
    assert not folder.exists()


@pytest.mark.parametrize("name", ["valence-tests-x", "valence-", "other-x"])
def test_what_is_no_runtime_folder_stays(temporary_folder: Path, name: str) -> None:
    (temporary_folder / name).mkdir()
    RuntimeDir.create()
    assert (temporary_folder / name).is_dir()


def test_a_service_removes_its_own(temporary_folder: Path) -> None:
    folder = RuntimeDir.create()
    assert [path.name for path in folder.path.iterdir()] == ["alive"]
    folder.remove()
    assert list(temporary_folder.iterdir()) == []
