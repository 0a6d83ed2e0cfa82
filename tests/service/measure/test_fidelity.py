"""The command that holds served checkpoints against transformers."""

import re
from pathlib import Path

import numpy as np
import pytest

from models.tiny.checkpoints import make
from service.measure.fidelity import WAYS, checkpoints, difference, main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is served, and one without weights."""
    root = tmp_path_factory.mktemp("tiny")
    make("bert", root / "bert")
    make("distilbert", root / "weightless")
    (root / "weightless" / "model.safetensors").unlink()
    return root


def test_a_row_for_each_checkpoint_and_a_count(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--markdown"]) == 0
    said = capfd.readouterr().out
    rows = {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ") for line in said.splitlines() if "|" in line}
    assert rows["checkpoint"][-len(WAYS) :] == list(WAYS)
    assert rows["bert"][1:3] == ["bert", "right"]
    assert all(float(cell) <= 1e-4 for cell in rows["bert"][-len(WAYS) :])
    assert rows["weightless"][2] == "refused"
    assert "no *.safetensors file" in rows["weightless"][3]
    assert re.search(r"^1 right, 1 refused, 0 wrong", said, re.MULTILINE)


def test_a_process_that_dies_ends_no_run(
    folder: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main([str(folder), "--import-modules", "deadly"]) == 0
    assert "the process died" in capfd.readouterr().out


def test_a_folder_is_a_checkpoint_or_holds_some(folder: Path) -> None:
    assert checkpoints(folder / "bert") == [folder / "bert"]
    assert checkpoints(folder) == [folder / "bert", folder / "weightless"]
    assert checkpoints(folder / "bert" / "nothing") == []


def test_what_is_not_finite_is_as_far_off_as_can_be() -> None:
    assert difference(np.float32([[1, 2]]), np.float32([[1, 4]])) == 2
    assert difference(np.float32([[1, np.nan]]), np.float32([[1, 4]])) == float("inf")
    assert difference(np.float32([[1]]), np.float32([[1, 4]])) == float("inf")
