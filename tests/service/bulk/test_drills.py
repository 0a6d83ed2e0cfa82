"""Killed at any moment and run again: the output is complete, no row is twice or missing, what was done is not done again."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Start = Callable[..., "subprocess.Popen[str]"]
ROWS, ROWS_PER_FILE = 8_000, 100
SAFETY_S = 240


def files_of(output: Path) -> dict[str, int]:
    """Every file that counts, with its inode: a file written again has another."""
    return {path.name: path.stat().st_ino for path in output.glob("part-*")}


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SAFETY_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def workers_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes of a run that compute or tokenize."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.name() in ("valence-worker", "valence-texts"):
                found.append(child)
        except psutil.NoSuchProcess:
            pass
    return found


def disturb(process: "subprocess.Popen[str]", output: Path, chance: random.Random, *, files: int) -> None:
    """Kills a worker or two once something new is written, and the driver once there are so many files. All die with it."""
    begun = len(files_of(output))

    def written(count: int) -> bool:
        return len(files_of(output)) >= count or process.poll() is not None

    wait_for(lambda: written(begun + 1))
    for _ in range(chance.randrange(1, 3)):
        chance.choice(workers_of(process)).kill()
        time.sleep(chance.random() / 4)
    wait_for(lambda: written(files))
    children = workers_of(process)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(child.is_running() for child in children))


@pytest.fixture
def flags(write_input: Callable[..., str], texts: Callable[[int], list[str]], tmp_path: Path) -> tuple[str | Path, ...]:
    return ("--input", write_input(texts(ROWS)), "--output", tmp_path / "out", "--rows-per-file", str(ROWS_PER_FILE))


def test_killed_at_any_moment(
    start_bulk: Start,
    bulk: Callable[..., Mapping[str, Any]],
    flags: tuple[str | Path, ...],
    table_of: Callable[[Path], pa.Table],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """In each round a worker or two, then the driver. All die with it."""
    output = tmp_path / "out"
    output.mkdir()
    chance = random.Random(0)
    rounds = 8 if request.config.getoption("--full-drills") else 2
    kept: dict[str, int] = {}
    for _ in range(rounds):
        disturb(start_bulk(*flags), output, chance, files=len(kept) + chance.randrange(2, 80 // rounds))
        now = files_of(output)
        assert kept.items() <= now.items()
        assert {pq.read_metadata(output / name).num_rows for name in now} == {ROWS_PER_FILE}
        kept = now
    assert len(kept) < ROWS // ROWS_PER_FILE
    assert bulk(*flags)["rows_before"] == len(kept) * ROWS_PER_FILE
    assert kept.items() <= files_of(output).items()
    table = table_of(output)
    assert table["id"].to_pylist() == list(range(ROWS))
    assert table["error"].null_count == ROWS
    bulk(*flags[:2], "--output", tmp_path / "undisturbed", *flags[4:])
    undisturbed = table_of(tmp_path / "undisturbed")
    assert table.drop_columns("score") == undisturbed.drop_columns("score")
    assert table["score"].to_pylist() == pytest.approx(undisturbed["score"].to_pylist(), abs=1e-5)


def test_stopped_by_the_keyboard(start_bulk: Start, flags: tuple[str | Path, ...], tmp_path: Path) -> None:
    process = start_bulk(*flags)
    wait_for(lambda: files_of(tmp_path / "out") or process.poll() is not None)
    children = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=SAFETY_S)
    assert (process.returncode, output) == (130, "")
    assert "the same command goes on from here" in errors
    assert "Traceback" not in errors
    wait_for(lambda: not any(child.is_running() for child in children))


def test_the_command_says_what_is_wrong_and_ends_with_2(start_bulk: Start, tmp_path: Path) -> None:
    process = start_bulk("--input", tmp_path / "none.csv", "--output", tmp_path / "out")
    output, errors = process.communicate(timeout=SAFETY_S)
    assert (process.returncode, output) == (2, "")
    assert errors == f"--input {tmp_path}/none.csv: no such file\n"
