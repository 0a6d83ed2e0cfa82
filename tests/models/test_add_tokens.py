"""Tokens added to a trained checkpoint: what their embeddings are, what stays as it was, what is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from models.add_tokens import main
from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.int8 import load_ranges, write_ranges
from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.served.catalog import load_catalog
from service.settings import Settings

NAMES = ("tiny-bert", "tiny-lstm")
TEXTS = ("a wonderful film", "not good at all 😍")
Grow = Callable[..., Path]


@pytest.fixture
def grow(checkpoints: Mapping[str, Path], tmp_path: Path) -> Grow:
    """Runs the command on a tiny checkpoint; the folder that it wrote."""

    def run(name: str, *tokens: str, flags: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "grown"
        assert main([str(checkpoints[name]), "--tokens", *tokens, "--to", str(folder), *flags]) == 0
        return folder

    return run


def tokenizer_of(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def embeddings_of(folder: Path) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return model.get_input_embeddings().weight.detach()


def engine_of(folder: Path, dtype: str = "float32") -> Engine:
    settings = Settings(models=(f"grown={folder}",), device="cpu", dtype=dtype)
    (served,) = load_catalog(settings)
    return Engine(served, device="cpu", settings=settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_new_row_is_the_mean_of_its_old_pieces(name: str, checkpoints: Mapping[str, Path], grow: Grow) -> None:
    old, old_VD = tokenizer_of(checkpoints[name]), embeddings_of(checkpoints[name])
    folder = grow(name, "filmfood")
    pieces = old("filmfood", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    (index,) = tokenizer_of(folder)("filmfood", add_special_tokens=False)["input_ids"]
    assert index == len(old)
    torch.testing.assert_close(embeddings_of(folder)[index], old_VD[pieces].mean(0))
    assert torch.equal(embeddings_of(folder)[:index], old_VD)


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_serves_it_and_texts_without_the_new_tokens_score_as_before(
    name: str, checkpoints: Mapping[str, Path], grow: Grow
) -> None:
    folder = grow(name, "filmfood", "躺平")
    old, new = tokenizer_of(checkpoints[name]), tokenizer_of(folder)
    before, after = engine_of(checkpoints[name]), engine_of(folder)
    for text in TEXTS:
        ids = new(text)["input_ids"]
        assert ids == old(text)["input_ids"]
        logits = [engine.logits([TextIds(np.array(ids, dtype=np.int32))]) for engine in (before, after)]
        assert (logits[0] == logits[1]).all()
    ids = new("a filmfood, 我躺平了")["input_ids"]
    assert {len(old), len(old) + 1} <= set(ids)
    assert np.isfinite(after.logits([TextIds(np.array(ids, dtype=np.int32))])).all()


def test_a_new_word_does_not_cut_a_longer_one(grow: Grow) -> None:
    tokenizer = tokenizer_of(grow("tiny-bert", "oo"))
    assert [token.strip() for token in tokenizer.tokenize("the food, oo")] == ["the", "food", ",", "oo"]


def test_a_new_word_takes_the_space_before_it_along(grow: Grow) -> None:
    tokenizer = tokenizer_of(grow("tiny-lstm", "filmfood"))
    ids = tokenizer("good filmfood good", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([index]).strip() for index in ids] == ["good", "filmfood", "good"]


def test_a_special_token_is_found_as_it_stands_only(grow: Grow) -> None:
    tokenizer = tokenizer_of(grow("tiny-bert", "[USER]", flags=("--special",)))
    assert "[USER]" in tokenizer.tokenize("[USER] a film")
    assert "[USER]" not in tokenizer.tokenize("[user] a film")
    assert tokenizer.decode(tokenizer("[USER] a film")["input_ids"], skip_special_tokens=True) == "a film"


def test_a_token_of_unknown_characters_gets_the_mean_of_all_rows(checkpoints: Mapping[str, Path], grow: Grow) -> None:
    folder = grow("tiny-bert", "жук", "ёж")
    torch.testing.assert_close(embeddings_of(folder)[-2:], embeddings_of(checkpoints["tiny-bert"]).mean(0).expand(2, -1))


def test_what_is_one_token_already_is_said_and_left(
    checkpoints: Mapping[str, Path], grow: Grow, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = grow("tiny-lstm", "Filmfood", "FILMFOOD", "wonderful")
    assert len(tokenizer_of(folder)) == len(tokenizer_of(checkpoints["tiny-lstm"])) + 1
    said = capsys.readouterr().out
    assert "'wonderful' is one token already" in said
    assert "'FILMFOOD' is one token already" in said


@pytest.mark.parametrize("again", [False, True], ids=["carried over", "made again"])
def test_int8_ranges_fit_the_new_weights(again: bool, checkpoints: Mapping[str, Path], tmp_path: Path) -> None:
    wide, grown, texts = tmp_path / "wide", tmp_path / "grown", tmp_path / "texts.txt"
    tokenizer = tokenizer_of(checkpoints["tiny-bert"])
    config = CustomBertConfig(vocab_size=len(tokenizer), hidden_size=64, num_attention_heads=4, num_hidden_layers=1)
    model = CustomBertForSequenceClassification(config)
    model.save_pretrained(wide)
    tokenizer.save_pretrained(wide)
    write_ranges(wide, model, tokenizer, TEXTS)
    texts.write_text("the food was filmfood", encoding="utf-8")
    flags = ["--texts", str(texts)] if again else []
    assert main([str(wide), "--tokens", "filmfood", "--to", str(grown), *flags]) == 0
    old, new = load_ranges(wide), load_ranges(grown)
    assert old.keys() == new.keys() != set()
    assert all(torch.equal(old[name], new[name]) for name in old) is not again
    assert engine_of(grown, dtype="int8").details["dtype"] == "int8"


@pytest.mark.parametrize(
    ("tokens", "to", "sentence"),
    [
        (["wonderful"], "new", "nothing to add: the tokenizer makes one token of 'wonderful' already"),
        ([" "], "new", "' ' is blank; a token needs a character"),
        (["\u200d"], "new", "'\\u200d' can't be found in a text"),
        (["filmfood"], "full", "the folder is not empty"),
    ],
)
def test_bad_arguments_end_with_one_sentence(
    tokens: list[str], to: str, sentence: str, checkpoints: Mapping[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    assert main([str(checkpoints["tiny-bert"]), "--tokens", *tokens, "--to", str(tmp_path / to)]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--tokens", "a", "--to", str(tmp_path / "new")]) == 2
    assert "config.json: no such file; name a checkpoint folder" in capsys.readouterr().err
