"""What counts as an answer."""

from typing import Any

import pytest

from load_tests.locust_load.responses import TIMING_HEADERS, answer_fault, is_refusal, is_result

RESULT = [{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}]


@pytest.mark.parametrize(
    "result",
    [
        pytest.param([], id="nothing"),
        pytest.param(None, id="null"),
        pytest.param({"label": "positive", "score": 1.0}, id="one label, no list"),
        pytest.param(RESULT[::-1], id="worst first"),
        pytest.param([RESULT[0], RESULT[0]], id="one label twice"),
        pytest.param(RESULT[:1], id="a sum below 1"),
        pytest.param([{"label": "positive"}], id="no score"),
        pytest.param([{"label": "positive", "score": "high"}], id="a score that is no number"),
    ],
)
def test_what_is_no_result(result: Any) -> None:
    assert is_result(RESULT)
    assert not is_result(result)


@pytest.mark.parametrize(
    ("answer", "inputs", "fault"),
    [
        (RESULT, "good", None),
        ([RESULT, RESULT], ["good", "bad"], None),
        ([RESULT], ["good", "bad"], "not one result for each text"),
        ({"error": "busy"}, ["good"], "not one result for each text"),
        ([RESULT, RESULT[::-1]], ["good", "bad"], "a result is not labels with scores, best first, that sum to 1"),
        ([RESULT], "good", "a result is not labels with scores, best first, that sum to 1"),
    ],
)
def test_an_answer_holds_a_result_for_each_text(answer: Any, inputs: str | list[str], fault: str | None) -> None:
    assert answer_fault(answer, set(TIMING_HEADERS), inputs) == fault


def test_an_answer_says_how_long_it_took() -> None:
    assert answer_fault(RESULT, set(TIMING_HEADERS[1:]), "good") == f"without the headers {TIMING_HEADERS[0]}"


@pytest.mark.parametrize(
    ("status", "headers", "refused"),
    [(429, {"retry-after"}, True), (429, set(), False), (503, {"retry-after"}, False), (200, set(), False)],
)
def test_a_refusal_says_when_to_come_back(status: int, headers: set[str], refused: bool) -> None:
    assert is_refusal(status, headers) == refused
