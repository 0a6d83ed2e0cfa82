"""Whether a response is what the service promises, by its shape as well as by its status."""

from collections.abc import Container
from typing import Any

TIMING_HEADERS = ("x-queue-time-ms", "x-inference-time-ms", "x-total-time-ms")


def answer_fault(answer: Any, headers: Container[str], inputs: str | list[str]) -> str | None:
    """What is wrong with the body of a 200, or None."""
    results = [answer] if isinstance(inputs, str) else answer
    if not isinstance(results, list) or len(results) != (1 if isinstance(inputs, str) else len(inputs)):
        return "not one result for each text"
    if not all(is_result(result) for result in results):
        return "a result is not labels with scores, best first, that sum to 1"
    if missing := [name for name in TIMING_HEADERS if name not in headers]:
        return f"without the headers {', '.join(missing)}"
    return None


def is_result(result: Any) -> bool:
    """Whether `result` is what a single-label classifier says of one text.

    >>> is_result([{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}])
    True
    """
    try:
        scores = [float(item["score"]) for item in result]
        labels = {str(item["label"]) for item in result}
    except (TypeError, KeyError, ValueError):
        return False
    return len(labels) == len(scores) > 0 and scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 1e-2


def is_refusal(status: int, headers: Container[str]) -> bool:
    """Whether the service said that it is busy, and when to come back."""
    return status == 429 and "retry-after" in headers
