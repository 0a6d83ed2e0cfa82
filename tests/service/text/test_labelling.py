"""Logits to labelled scores."""

import math
from itertools import product

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, TextClassificationPipeline

from service.text.labelling import function_for, labelled, sigmoid, softmax
from tests.service.text.tokenizers import word_piece

LABELS = ("negative", "neutral", "positive")


def test_softmax_of_a_hand_worked_case() -> None:
    assert softmax([0.0, math.log(2), math.log(5)]) == pytest.approx([1 / 8, 2 / 8, 5 / 8])


def test_sigmoid_of_a_hand_worked_case() -> None:
    assert sigmoid([0.0, math.log(3), -math.log(3)]) == pytest.approx([1 / 2, 3 / 4, 1 / 4])


@pytest.mark.parametrize("logits", [[1e4, -1e4], [3e38, 3e38], [-3e38, -3e38], [745.0, -745.0], [0.0]])
@pytest.mark.parametrize("function", [softmax, sigmoid])
def test_extreme_logits_give_finite_scores(function: type, logits: list[float]) -> None:
    scores = function(logits)
    assert all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("logits", [[1e4, -1e4, 3.0], [3e38, 3e38, 0.0], [0.1, 0.2, 0.3]])
def test_softmax_sums_to_one(logits: list[float]) -> None:
    assert sum(softmax(logits)) == pytest.approx(1)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_the_best_label_comes_first(function: str) -> None:
    answer = labelled([0.5, -1.0, 2.0], labels=LABELS, function=function)
    assert [item["label"] for item in answer] == ["positive", "negative", "neutral"]
    assert [item["score"] for item in answer] == sorted((item["score"] for item in answer), reverse=True)


def test_none_gives_the_logits() -> None:
    assert {item["label"]: item["score"] for item in labelled([0.5, -1.0, 2.0], labels=LABELS, function="none")} == {
        "negative": 0.5,
        "neutral": -1.0,
        "positive": 2.0,
    }


@pytest.mark.parametrize(("top_k", "kept"), [(None, 3), (1, 1), (2, 2), (3, 3), (99, 3)])
def test_top_k_keeps_the_best(top_k: int | None, kept: int) -> None:
    everything = labelled([0.5, -1.0, 2.0], labels=LABELS, function="softmax")
    assert labelled([0.5, -1.0, 2.0], labels=LABELS, function="softmax", top_k=top_k) == everything[:kept]


def test_equal_scores_stay_in_the_order_of_the_labels() -> None:
    assert [item["label"] for item in labelled([1.0, 1.0, 1.0], labels=LABELS, function="softmax")] == list(LABELS)


@pytest.mark.parametrize(
    ("problem_type", "function"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
        ("regression", "none"),
    ],
)
def test_the_checkpoints_problem_type_chooses_the_function(problem_type: str | None, function: str) -> None:
    assert function_for(problem_type, LABELS) == function


PROBLEMS = (None, "single_label_classification", "multi_label_classification", "regression")
# transformers refuses a single label under the name of single_label_classification.
CASES = [case for case in product(PROBLEMS, [1, 2, 3]) if case != ("single_label_classification", 1)]


@pytest.mark.parametrize(("problem_type", "labels"), CASES)
def test_scores_are_those_of_transformers_own_pipeline(problem_type: str | None, labels: int) -> None:
    torch.manual_seed(0)
    tokenizer = word_piece()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        num_labels=labels, problem_type=problem_type, initializer_range=1.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    expected = TextClassificationPipeline(model=model, tokenizer=tokenizer)("the film was good", top_k=None)
    with torch.no_grad():
        logits = model(**tokenizer("the film was good", return_tensors="pt")).logits[0].tolist()
    names = list(config.id2label.values())
    found = labelled(logits, labels=names, function=function_for(problem_type, names))
    assert [item["label"] for item in found] == [item["label"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected], abs=1e-6)
