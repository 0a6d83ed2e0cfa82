"""How a long run is judged."""

import math
from collections.abc import Sequence

import pytest

from load_tests.known_answers import LOOKS, Found, compare, looking

A, B, C = 1, 2, 3


@pytest.mark.parametrize(
    ("looks", "growths"),
    [
        ([{A: 100}, {A: 100}, {A: 100}], {A: 0}),
        ([{A: 100}, {A: 103}, {A: 101}], {A: 0.03}),
        ([{A: 100}, {A: 90}, {A: 95}], {A: -0.05}),
        ([{A: 100, B: 10}, {A: 100, B: 11}, {A: 100}], {A: 0, B: math.inf}),
        ([{A: 100, B: 10}, {A: 100, C: 10}, {A: 100, C: 10}], {A: 0, B: math.inf, C: math.inf}),
    ],
    ids=["flat", "larger for a while", "smaller", "one ended", "one was replaced"],
)
def test_growth_is_the_most_since_the_warm_up(looks: list[dict[int, int]], growths: dict[int, float]) -> None:
    assert Found(resident=looks).growths() == pytest.approx(growths)


@pytest.mark.parametrize(("requests", "looks"), [(5, 4), (10, 9), (100, 9), (1009, 9)])
def test_memory_is_looked_at_between_tenths(requests: int, looks: int) -> None:
    found = Found()
    asked: list[int] = []
    sizes = iter(range(100))
    for number in looking(requests, found, lambda: {A: next(sizes)}):
        asked.append(number)
    assert asked == list(range(requests))
    assert found.resident == [{A: number} for number in range(looks)]
    assert looks < LOOKS  # the last one is taken when all are answered


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ([{"a": 1.0, "b": 2.0}], 0),
        ([{"a": 1.0, "b": 2.000001}], 0),
        ([{"a": 1.0, "b": 2.1}], 1),
        ([{"a": 1.0, "b": math.nan}], 1),
        ([{"a": 1.0}], 1),
        ([{"a": 1.0, "b": 2.0}] * 2, 1),
    ],
)
def test_an_answer_is_wrong_that_is_not_the_known_one(answers: Sequence[dict[str, float]], wrong: int) -> None:
    found = Found()
    compare(found, answers, [{"a": 1.0, "b": 2.0}], tolerance=1e-5)
    assert len(found.wrong) == wrong
