"""Tiny checkpoints of architectures that transformers brings."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from models.tiny.__main__ import main
from models.tiny.checkpoints import ARCHITECTURES, LEAST_DIFFERENCE, make
from models.tiny.configs import COUNT_FROM_PADDING, EXCEPTIONS, LABELS, MAX_LENGTH
from models.tiny.vocabularies import SENTENCES


@pytest.mark.parametrize(
    ("architecture", "tokenizer_class", "around"),
    [
        ("bert", "BertTokenizer", ("[CLS]", "[SEP]")),
        ("roberta", "RobertaTokenizer", ("<s>", "</s>")),
        ("gpt2", "GPT2Tokenizer", ()),
        ("llama", "TokenizersBackend", ()),
        ("t5", "T5Tokenizer", ("</s>",)),
        ("xlnet", "XLNetTokenizer", ("<sep>", "<cls>")),
        ("canine", "CanineTokenizer", ("\ue000", "\ue001")),
    ],
)
def test_a_checkpoint_has_a_tokenizer_of_its_own_kind(
    architecture: str, tokenizer_class: str, around: tuple[str, ...], tmp_path: Path
) -> None:
    made = make(architecture, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = tokenizer(SENTENCES[0])["input_ids"]
    found = [token for token in tokenizer.convert_ids_to_tokens(ids) if token in tokenizer.all_special_tokens]
    assert type(tokenizer).__name__ == tokenizer_class
    assert tuple(found) == around
    assert model.config.id2label == LABELS
    assert made.difference >= LEAST_DIFFERENCE
    text = " ".join(SENTENCES * 2)
    with torch.no_grad():
        logits = model(**tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")).logits
    assert logits.shape == (1, len(LABELS))
    assert logits.isfinite().all()


def test_fields_that_are_given_stand_in_the_configuration(tmp_path: Path) -> None:
    make("bert", tmp_path, num_labels=1, problem_type="regression")
    config = AutoModelForSequenceClassification.from_pretrained(tmp_path).config
    assert (config.num_labels, config.problem_type) == (1, "regression")


def test_the_command_says_what_was_made_and_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--only", "distilbert", "tapas"]) == 0
    said = capsys.readouterr().out
    assert "| distilbert | " in said
    assert "1 made" in said
    assert "- tapas: it takes the rows and columns of a table" in said
    assert json.loads((tmp_path / "distilbert" / "config.json").read_text())["model_type"] == "distilbert"


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="brt"):
        main([str(tmp_path), "--only", "brt"])


def test_the_tables_name_architectures_that_there_are() -> None:
    """Those that only newer versions of transformers have are no fault."""
    assert len({*COUNT_FROM_PADDING} & {*ARCHITECTURES}) > 10
    assert len({*EXCEPTIONS} & {*ARCHITECTURES}) > 10
