"""Masked-language pre-training from the command line, and a classifier that starts from it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from models.training.data import Example, Splits
from models.training.pretraining import main, masking, pieces
from models.training.recipes.makers import make_from
from models.training.recipes.recipe import with_changes
from models.training.recipes.table import BERT
from models.training.trainer import Runtime

SIZES = ["--layers", "1", "--width", "32", "--vocab-size", "100", "--max-tokens", "16", "--cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the command writes after a few steps."""
    base = tmp_path_factory.mktemp("pretraining")
    texts = base / "texts.txt"
    texts.write_text("".join(f"the film number {number} was good and unforgettable\n" for number in range(260)), encoding="utf-8")
    runs = ["--output-dir", str(base / "runs"), "--max-steps", "2"]
    assert main([str(base / "model"), "--texts", str(texts), *SIZES, *runs]) == 0
    return base / "model"


def test_the_command_writes_a_model_and_its_tokenizer(folder, capsys):
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.num_hidden_layers == 1


def test_a_classifier_is_fine_tuned_from_it(folder, tmp_path):
    examples = [Example(f"good {number}", number % 3, "made") for number in range(30)]
    recipe = with_changes(BERT, epochs=1, teacher_weight=0.0)
    runtime = Runtime(tmp_path, cpu=True, max_steps=1)
    model, tokenizer = make_from(folder, recipe, Splits(examples, examples, examples), runtime=runtime)
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert model.config.vocab_size == len(tokenizer)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no checkpoint to start from"):
        make_from(tmp_path / "nowhere", BERT, Splits([], [], []), runtime=Runtime(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--width", "48"], "width is 48, but it must be a multiple of 32"),
        ([], "1 texts are too few: 200 are held out to measure on"),
    ],
)
def test_what_can_not_be_trained_is_said_in_a_sentence(tmp_path, capsys, arguments, sentence):
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\n", encoding="utf-8")
    assert main([str(tmp_path / "model"), "--texts", str(texts), *arguments, "--cpu"]) == 2
    assert sentence in capsys.readouterr().err


def test_a_long_text_becomes_pieces_that_hold_all_of_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = " ".join(["good"] * 40)
    found = pieces(tokenizer, [text, "good"], max_tokens=16)
    assert all(len(row["input_ids"]) <= 16 for row in found)
    inside = [token for row in list(found)[:-1] for token in row["input_ids"][1:-1]]
    assert inside == tokenizer(text)["input_ids"][1:-1]


def test_whole_words_are_masked_in_all_their_pieces_or_none(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = list(pieces(tokenizer, ["good unforgettable film"] * 8, max_tokens=48, whole_words=True))
    word_of = tokenizer("good unforgettable film").word_ids()[1:-1]
    assert word_of.count(1) > 1
    masked = masking(tokenizer, whole_words=True, seed=3)(rows)["labels"] != -100
    assert masked.any()
    for row in masked[:, 1 : 1 + len(word_of)]:
        for word in set(word_of):
            hidden = row[torch.tensor([each == word for each in word_of])]
            assert hidden.all() or not hidden.any()
