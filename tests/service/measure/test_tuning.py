"""The measurement at start: a real one of the tiny checkpoint, in processes of its own."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.measure import tuning
from service.measure.tuning import BUDGETS, best, tuned
from service.settings import Settings


@pytest.fixture
def settings(checkpoints: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tuning, "SECONDS", 0.02)
    models = (f"tiny={checkpoints['tiny-bert']}",)
    return Settings(models=models, device="cpu", workers_per_device=1, threads=1, tuning_dir=tmp_path / "tuning")


def test_without_a_folder_nothing_is_measured(settings: Settings) -> None:
    plain = settings.model_copy(update={"tuning_dir": None})
    assert tuned(plain) is plain


def test_a_budget_is_chosen_and_kept_for_the_next_start(settings: Settings) -> None:
    first = tuned(settings)
    (kept,) = (path for path in (settings.tuning_dir or Path()).iterdir() if not path.name.startswith("proof-"))
    assert json.loads(kept.read_text()) == {"max_batch_tokens": first.max_batch_tokens}
    assert first.max_batch_tokens in BUDGETS["cpu"]
    kept.write_text('{"max_batch_tokens": 77}')
    assert tuned(settings).max_batch_tokens == 77


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"max_batch_tokens": "many"}', '{"models": 1}'])
def test_a_damaged_file_counts_for_nothing(tmp_path: Path, damage: str) -> None:
    (tmp_path / "kept.json").write_text(damage)
    assert tuning._kept(tmp_path / "kept.json") is None


def test_other_arithmetic_is_measured_for_itself(settings: Settings) -> None:
    assert tuning._key(settings, "cpu") != tuning._key(settings.model_copy(update={"dtype": "bfloat16"}), "cpu")


@pytest.mark.parametrize(
    ("rates", "chosen"), [([98.0, 100.0], 0), ([90.0, 100.0], 1), ([100.0, 50.0], 0)], ids=["close", "far", "falling"]
)
def test_the_first_that_is_close_to_the_fastest_is_taken(rates: list[float], chosen: int) -> None:
    assert best([(rate, {"max_batch_tokens": index}) for index, rate in enumerate(rates)]) == {"max_batch_tokens": chosen}
