"""Which bounds a run kept."""

from dataclasses import replace

import pytest

from load_tests.locust_load.bounds import Bounds, Outcome, judge

# 1,000 requests.
OUTCOME = Outcome(answered=980, failed=10, refused=10, p95_ms=200, p99_ms=400, answered_per_s=98)
KEPT = Bounds(p95_ms=200, p99_ms=400, failure_ratio=0.01, refused_ratio=0.01, min_rps=98)


def missed(outcome: Outcome, bounds: Bounds) -> list[str]:
    return [judgement.sentence for judgement in judge(outcome, bounds) if not judgement.kept]


def test_a_bound_that_is_just_reached_is_kept() -> None:
    assert len(judge(OUTCOME, KEPT)) == 5
    assert missed(OUTCOME, KEPT) == []


@pytest.mark.parametrize(
    ("field", "bound", "sentence"),
    [
        ("p95_ms", 199, "p95 in ms 200, at most 199"),
        ("p99_ms", 399, "p99 in ms 400, at most 399"),
        ("failure_ratio", 0.009, "share of failures 0.01, at most 0.009"),
        ("refused_ratio", 0.009, "share of refusals (429) 0.01, at most 0.009"),
        ("min_rps", 99, "answered requests/s 98.0, at least 99"),
    ],
)
def test_a_missed_bound_is_named_with_what_was_measured(field: str, bound: float, sentence: str) -> None:
    assert missed(OUTCOME, replace(KEPT, **{field: bound})) == [sentence]


@pytest.mark.parametrize("field", ["p95_ms", "p99_ms", "min_rps"])
def test_nothing_is_asked_of_what_has_no_bound(field: str) -> None:
    assert len(judge(OUTCOME, replace(KEPT, **{field: 0}))) == 4


def test_refusals_are_no_failures() -> None:
    bounds = Bounds(refused_ratio=1.0)
    assert missed(replace(OUTCOME, failed=0, refused=5000), bounds) == []
    assert missed(replace(OUTCOME, failed=0, refused=1), replace(bounds, refused_ratio=0)) != []


@pytest.mark.parametrize(("failed", "refused"), [(0, 0), (7, 0), (0, 7)])
def test_a_run_without_one_answer_keeps_nothing(failed: int, refused: int) -> None:
    outcome = Outcome(answered=0, failed=failed, refused=refused, p95_ms=0, p99_ms=0, answered_per_s=0)
    assert missed(outcome, Bounds(failure_ratio=1, refused_ratio=1)) == [
        f"no request was answered: {failed} failed, {refused} were refused"
    ]
