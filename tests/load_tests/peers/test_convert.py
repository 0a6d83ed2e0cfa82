"""The plain form of a checkpoint computes what the checkpoint does."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from load_tests.peers.convert import convert
from load_tests.peers.reference import probabilities
from models import register_architectures

TEXTS = ["a wonderful film, funny and moving", "the train leaves at nine on monday", "not good at all 😡"]


@pytest.fixture(scope="module")
def plain(checkpoints: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "tiny-bert"
    convert(checkpoints["tiny-bert"], folder)
    return folder


def test_logits_are_those_of_the_custom_bert(checkpoints: Mapping[str, Path], plain: Path) -> None:
    register_architectures()
    tokenizer = AutoTokenizer.from_pretrained(checkpoints["tiny-bert"])
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found, expected = (
            AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()(**batch).logits
            for folder in (plain, checkpoints["tiny-bert"])
        )
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)  # sums of the same products in another order


def test_the_class_is_transformers_own_in_float32(plain: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(plain)
    assert type(model) is BertForSequenceClassification
    assert model.dtype is torch.float32
    assert model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}


def test_the_tokenizer_comes_along(checkpoints: Mapping[str, Path], plain: Path) -> None:
    found, expected = (AutoTokenizer.from_pretrained(folder)(TEXTS).input_ids for folder in (plain, checkpoints["tiny-bert"]))
    assert found == expected


def test_the_reference_is_the_forward_of_each_text_alone(checkpoints: Mapping[str, Path], plain: Path) -> None:
    found = probabilities(plain, TEXTS)
    assert [list(scores) for scores in found] == [["negative", "neutral", "positive"]] * 3
    assert all(sum(scores.values()) == pytest.approx(1.0) for scores in found)
    for scores, expected in zip(found, probabilities(checkpoints["tiny-bert"], TEXTS), strict=True):
        assert scores == pytest.approx(expected, abs=1e-5)


def test_an_architecture_that_transformers_lacks_is_refused(checkpoints: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class of its own that computes what SentimentLstmForSequenceClassification does"):
        convert(checkpoints["tiny-lstm"], tmp_path)
