"""The rows and files that `python -m models.new` writes, and the names that it refuses."""

import shutil
from pathlib import Path

import pytest

from models.new.__main__ import TEMPLATE, main, scaffold

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Nothing but the two files that get a row."""
    for name in ("models/registration.py", "tests/models/conftest.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_imports_keep_the_order_of_the_alphabet(bare: Path) -> None:
    scaffold("a_first", root=bare)
    scaffold("z_last", root=bare)
    lines = (bare / "models" / "registration.py").read_text().splitlines()
    imported = [line.split()[1] for line in lines if line.startswith("from models.")]
    assert imported == sorted(imported)
    assert "    (AFirstConfig, AFirstModel, AFirstForSequenceClassification)," in lines


def test_no_word_of_the_template_is_left(bare: Path) -> None:
    written = scaffold("mine", root=bare)
    assert len(written) == len(list(TEMPLATE.glob("*.py"))) + 2
    assert not [path for path in written if "template" in path.read_text().lower()]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedConv", "'GatedConv' is no name for an architecture: write words in lower case joined by _, like gated_conv"),
        ("gated-conv", "'gated-conv' is no name for an architecture"),
        ("2d", "'2d' is no name"),
        ("class", "'class' is no name"),
        ("x" * 25, "has 25 characters, but at most 24 fit"),
        ("sentiment_lstm", "models/sentiment_lstm is there already; choose another name"),
        ("training", "models/training is there already; choose another name"),
        ("registration", "models/registration is there already; choose another name"),
        ("bert", "transformers has an architecture 'bert' of its own; choose another name"),
    ],
)
def test_a_name_that_can_not_be_used_is_refused(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((ROOT / "models").iterdir())
    assert main([name]) == 2
    assert message in capsys.readouterr().err
    assert sorted((ROOT / "models").iterdir()) == before
