"""How a model's texts are encoded is found out once a place, and the same in every process."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from service.edge.scoring.models import EdgeModel
from service.frames import id_array
from service.runtime_dir import RuntimeDir
from service.served.catalog import ServedModel
from service.settings import Settings
from service.text.encoder import TextEncoder
from service.text.plain import PlainEncoder

PLACE = 3
SEP = 3


@pytest.fixture
def load(catalog: Mapping[str, ServedModel], settings_of: Callable[..., Settings], tmp_path: Path) -> Callable[..., EdgeModel]:
    def make(**fields: object) -> EdgeModel:
        return EdgeModel.of(PLACE, catalog["tiny-bert"], settings=settings_of(**fields), runtime_dir=RuntimeDir(tmp_path))

    return make


def test_the_first_to_load_a_model_leaves_word_for_the_others(load: Callable[..., EdgeModel], tmp_path: Path) -> None:
    assert isinstance(load().encoder, TextEncoder)
    word = tmp_path / "encoders" / str(PLACE)
    assert word.read_text() == "ascii apart"
    word.write_text("plain")
    assert isinstance(load().encoder, PlainEncoder)


@pytest.mark.parametrize("left", ["", "ascii ap"])
def test_what_a_killed_process_left_is_found_out_anew(load: Callable[..., EdgeModel], tmp_path: Path, left: str) -> None:
    (tmp_path / "encoders").mkdir()
    word = tmp_path / "encoders" / str(PLACE)
    word.write_text(left)
    assert isinstance(load().encoder, TextEncoder)
    assert word.read_text() == "ascii apart"


@pytest.mark.parametrize(("choice", "seps"), [("split", 1), ("keep", 2)])
def test_the_setting_says_what_a_control_token_in_a_text_is(load: Callable[..., EdgeModel], choice: str, seps: int) -> None:
    encoder = load(special_tokens_in_texts=choice).encoder
    ids = id_array(encoder.encode([("good [SEP] film", None)], truncate=True).ids).tolist()
    assert ids.count(SEP) == seps
