"""Runs on this machine, in this process and beside it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import failing_architecture
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.__main__ import parser, run
from tests.conftest import SENTENCES

ROOT = Path(__file__).parents[3]
MODULES = "examples.keyword_pooling.architecture,failing_architecture"
FLAGS = ("--import-modules", MODULES, "--device", "cpu", "--workers-per-device", "2", "--threads", "1", "--quiet", "--json")
Run = Callable[..., Mapping[str, Any]]


@pytest.fixture(scope="session")
def models(
    checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory, training_texts: tuple[str, ...]
) -> Mapping[str, Path]:
    """The tiny checkpoints, and `failing`."""
    folder = tmp_path_factory.mktemp("failing")
    failing_architecture.make_checkpoint(folder, training_texts)
    return {**checkpoints, "failing": folder}


@pytest.fixture
def texts() -> Callable[[int], list[str]]:
    """So many texts of several lengths."""
    return lambda count: [f"{SENTENCES[row % len(SENTENCES)]} {row % 7} {'the ' * (row % 5)}" for row in range(count)]


@pytest.fixture
def table_of() -> Callable[[Path], pa.Table]:
    """The output, in the order of its files' names."""
    return lambda folder: pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))


@pytest.fixture
def write_input(tmp_path: Path) -> Callable[..., str]:
    """A Parquet file of texts, numbered."""

    def write(texts: Sequence[str | None], *, name: str = "in.parquet", **columns: Sequence[object]) -> str:
        pq.write_table(pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string()), **columns}), tmp_path / name)
        return str(tmp_path / name)

    return write


def arguments(models: Mapping[str, Path], model: str, *flags: str | Path) -> list[str]:
    return ["--model", str(models[model]), *FLAGS, *map(str, flags)]


@pytest.fixture
def bulk(models: Mapping[str, Path]) -> Run:
    """A run in this process: its summary."""
    return lambda *flags, model="tiny-bert": run(parser().parse_args(arguments(models, model, *flags)))


@pytest.fixture
def start_bulk(models: Mapping[str, Path]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """The command, in a process group of its own. What still runs is killed afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str | Path, model: str = "tiny-bert") -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VALENCE_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests/end_to_end")])
        process = subprocess.Popen(
            [sys.executable, "-m", "service.bulk", *arguments(models, model, *flags)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
