"""Logits to labelled scores, as transformers' pipeline makes them or as the request asks."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

Function = Literal["softmax", "sigmoid", "none"]


def function_for(problem_type: str | None, labels: Sequence[str]) -> Function:
    """What the scores of a checkpoint mean: the rule of transformers' `TextClassificationPipeline.postprocess` (5.23).

    >>> function_for(None, ["relevant"]), function_for("regression", ["relevant"])
    ('sigmoid', 'none')
    """
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or len(labels) == 1 else "softmax"


def labelled(
    logits: Sequence[float], *, labels: Sequence[str], function: Function, top_k: int | None = None
) -> list[dict[str, Any]]:
    """[{"label", "score"}, ...], best first, the first `top_k` if given.

    >>> labelled([0.0, 0.0], labels=["no", "yes"], function="softmax", top_k=1)
    [{'label': 'no', 'score': 0.5}]
    """
    scores = FUNCTIONS[function](logits)
    ranked = sorted(zip(scores, labels, strict=True), key=lambda pair: -pair[0])
    return [{"label": label, "score": score} for score, label in ranked[:top_k]]


def softmax(logits: Sequence[float]) -> list[float]:
    """exp(x - max) / sum: no overflow for any finite x."""
    highest = max(logits)
    exponentials = [math.exp(logit - highest) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def sigmoid(logits: Sequence[float]) -> list[float]:
    """1 / (1 + exp(-x)), by the branch that can't overflow."""
    return [1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x)) for x in logits]


FUNCTIONS: dict[Function, Callable[[Sequence[float]], list[float]]] = {"softmax": softmax, "sigmoid": sigmoid, "none": list}
