"""From `python -m models.new` to a served prediction, in a copy of the repository."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.new.__main__ import scaffold

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "checkpoints", "checkpoint", "results")
# A name as long as may be: the template's lines must not exceed the limit of length with it.
NAME = "attentive_pooling_of_x24"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a new architecture in it."""
    root = shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "valence", ignore=LEFT_OUT)
    scaffold(NAME, root=root)
    return root


def run(copy: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_architecture_passes_the_contract(copy: Path) -> None:
    tests = ("tests/models/test_contract.py", "tests/models/test_registration.py", "tests/test_imports.py")
    out = run(copy, "-m", "pytest", "-q", *tests, "-k", f"{NAME} or registered or folder or imports")
    assert "failed" not in out
    assert int(out.split(" passed")[0].split()[-1]) > 50


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=" ".join)
def test_a_new_architecture_is_clean(copy: Path, command: tuple[str, ...]) -> None:
    run(copy, "-m", "ruff", *command, "--no-cache", "models", "tests/models")


TRAIN = """
import sys
from pathlib import Path
from models import register_architectures
from models.training.__main__ import parser, train
from models.training.data import Example, Splits
from models.training.recipes import RECIPES

words = {0: "terrible boring awful", 1: "train table monday", 2: "wonderful funny love"}
texts = [Example(f"{a} {b} {n}", label, "made") for label, each in words.items() for a in each.split() for b in each.split()
         for n in range(20)]
name = sys.argv[1]
register_architectures()
options = parser().parse_args([name, "--cpu", "--max-steps", "2"])
train(RECIPES[name], Splits(texts, texts[::9], texts[::9]), options)
"""


def test_a_new_architecture_is_trained_and_served_without_another_line(
    copy: Path, server_of: Callable[..., Any], scores_by_label: Callable[..., Any]
) -> None:
    recipe = NAME.replace("_", "-")
    run(copy, "-c", TRAIN, recipe)
    checkpoint = copy / "models" / "checkpoints" / recipe
    assert (checkpoint / "README.md").is_file()
    server = server_of({"mine": checkpoint}, root=copy)
    assert scores_by_label(server.predict("a wonderful day").json()).keys() == {"negative", "neutral", "positive"}
    (model,) = server.client.get("/info").json()["models"]
    assert model["architecture"] == NAME
    assert model["workers"][0]["batching"] == "packed"
