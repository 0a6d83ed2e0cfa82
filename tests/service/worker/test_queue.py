"""The worker's queue."""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import numpy as np
import pytest

from service.frames import Cancel, Job
from service.worker.queue import QueuedText, TextQueue

SAFETY_S = 30


def job(job_id: int, *lengths: int, model: int = 0, expired: bool = False, sent_at: float | None = None) -> Job:
    return Job(
        id=job_id,
        model=model,
        deadline=time.monotonic() + (-1 if expired else 3600),
        sent_at=job_id if sent_at is None else sent_at,
        lengths=list(lengths),
        token_ids=np.arange(sum(lengths), dtype="<i4").tobytes(),
    )


def queue_of(*jobs: Job, max_batch_tokens: int = 10) -> "CountingQueue":
    queue = CountingQueue(max_batch_tokens=max_batch_tokens)
    for item in jobs:
        queue.put(item, reply_to=1)
    return queue


class CountingQueue(TextQueue):
    """A queue that counts, in `dropped`, how many texts of each model were not computed."""

    def __init__(self, *, max_batch_tokens: int) -> None:
        self.dropped: Counter[int] = Counter()
        super().__init__(max_batch_tokens=max_batch_tokens, on_dropped=self._count)

    def _count(self, model: int, texts: int) -> None:
        self.dropped[model] += texts


def test_a_taker_is_woken_without_a_text_and_only_once() -> None:
    queue = queue_of()
    queue.wake()
    assert queue.take() is None
    queue.put(job(0, 1), reply_to=1)
    assert places(queue.take()[1]) == [(0, 0)]


def test_a_taker_with_little_time_goes_without_a_text() -> None:
    assert queue_of().take(0.01) is None
    assert places(queue_of(job(0, 1)).take(0.01)[1]) == [(0, 0)]


def places(batch: Sequence[QueuedText]) -> list[tuple[int, int]]:
    return [(text.job_id, text.index) for text in batch]


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ((4, 4, 4), [2, 1]),
        ((5, 5, 5), [2, 1]),
        ((10, 1), [1, 1]),
        ((3, 3, 3, 1), [4]),
        ((99,), [1]),
        ((99, 1), [1, 1]),
        ((1, 99, 1), [1, 1, 1]),
        ((1,) * 25, [10, 10, 5]),
    ],
)
def test_batches_fill_the_token_budget_in_order(lengths: tuple[int, ...], batches: list[int]) -> None:
    queue = queue_of(job(0, *lengths))
    taken = [queue.take()[1] for _ in batches]
    assert [len(batch) for batch in taken] == batches
    assert [place for batch in taken for place in places(batch)] == [(0, index) for index in range(len(lengths))]


def test_texts_of_several_requests_share_a_batch() -> None:
    assert places(queue_of(job(0, 2, 2), job(1, 3)).take()[1]) == [(0, 0), (0, 1), (1, 0)]


def test_the_model_with_the_oldest_text_goes_first() -> None:
    queue = queue_of(job(5, 1, model=0), job(3, 1, model=1), job(6, 1, model=1))
    assert [queue.take()[0] for _ in range(2)] == [1, 0]


def test_a_batch_holds_texts_of_one_model() -> None:
    model, batch = queue_of(job(0, 1, model=1), job(1, 1, model=0), job(2, 1, model=1)).take()
    assert (model, places(batch)) == (1, [(0, 0), (2, 0)])


def test_expired_texts_are_dropped_and_counted() -> None:
    queue = queue_of(job(0, 1, 1, expired=True), job(1, 1))
    assert places(queue.take()[1]) == [(1, 0)]
    assert queue.dropped == {0: 2}


def test_a_batch_is_never_empty_though_the_oldest_model_holds_expired_texts_only() -> None:
    model, batch = queue_of(job(0, 1, expired=True, model=0), job(1, 1, model=1)).take()
    assert (model, places(batch)) == (1, [(1, 0)])


def test_cancel_drops_what_waits_of_that_request_only() -> None:
    queue = queue_of(job(0, 1, 1), job(1, 1))
    queue.cancel(Cancel(id=0), reply_to=1)
    assert places(queue.take()[1]) == [(1, 0)]
    assert queue.dropped == {0: 2}


def test_cancel_leaves_the_same_id_of_another_connection() -> None:
    queue = queue_of(job(0, 1))
    queue.cancel(Cancel(id=0), reply_to=2)
    assert places(queue.take()[1]) == [(0, 0)]


def test_cancel_of_a_request_that_has_left_changes_nothing() -> None:
    queue = queue_of(job(0, 1), job(1, 1), max_batch_tokens=1)
    queue.take()
    queue.cancel(Cancel(id=0), reply_to=1)
    assert (queue.dropped, queue.depths()) == ({}, {0: 1})


def test_depth_counts_what_waits_by_model() -> None:
    queue = queue_of(job(0, 1, 1), job(1, 1, model=1))
    assert queue.depths() == {0: 2, 1: 1}
    queue.take()
    assert queue.depths() == {0: 0, 1: 1}


@pytest.mark.parametrize("first", [None, job(0, 1, expired=True)], ids=["empty", "expired only"])
def test_take_waits_for_a_text(first: Job | None) -> None:
    queue = queue_of(*([first] if first else []))
    taken: list[list[QueuedText]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take()[1]), daemon=True)
    taker.start()
    queue.put(job(1, 2), reply_to=1)
    taker.join(SAFETY_S)
    assert [places(batch) for batch in taken] == [[(1, 0)]]


def test_token_ids_and_types_are_cut_by_text() -> None:
    message = Job(
        0, 0, time.monotonic() + 60, 0, [2, 3], np.arange(5, dtype="<i4").tobytes(), np.array([0, 0, 0, 1, 1], "<i4").tobytes()
    )
    _, (first, second) = queue_of(message).take()
    assert (first.text.ids.tolist(), second.text.ids.tolist()) == ([0, 1], [2, 3, 4])
    assert first.text.types is not None
    assert second.text.types is not None
    assert (first.text.types.tolist(), second.text.types.tolist()) == ([0, 0], [0, 1, 1])


def lines_run(call: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("which", ["oldest", "newest"])
def test_cancel_costs_the_same_whatever_waits(which: str) -> None:
    def cost(waiting: int) -> int:
        queue = queue_of(*(job(number, 1, 1) for number in range(waiting)))
        return lines_run(lambda: queue.cancel(Cancel(id=0 if which == "oldest" else waiting - 1), reply_to=1))

    assert cost(200) == cost(2)


def test_tokens_depths_and_drops_are_exact_whatever_came_left_and_was_cancelled() -> None:
    drawn = random.Random(4)
    queue = queue_of()
    waits: dict[int, list[int]] = {}  # the lengths of each job's texts that wait; its model is the id's last bit
    late: set[int] = set()
    dropped: Counter[int] = Counter()
    for number in range(2000):
        if drawn.random() < 0.5:
            lengths = [drawn.randint(1, 6) for _ in range(drawn.randint(1, 5))]
            expired = drawn.random() < 0.1
            queue.put(job(number, *lengths, model=number & 1, expired=expired), reply_to=1)
            waits[number] = lengths
            late |= {number} if expired else set()
        elif waits and drawn.random() < 0.5:
            gone = drawn.choice(list(waits))
            queue.cancel(Cancel(id=gone), reply_to=1)
            dropped[gone & 1] += len(waits.pop(gone))
        elif (taken := queue.take_at_once()) is not None:
            for text in taken[1]:
                assert waits[text.job_id].pop(0) == len(text.text.ids)
        for gone in sorted(late & waits.keys()):  # a late job is dropped when its turn comes, the oldest first
            if queue.dropped[gone & 1] > dropped[gone & 1]:
                dropped[gone & 1] += len(waits.pop(gone))
        waits = {number: lengths for number, lengths in waits.items() if lengths}
        assert queue.tokens == sum(map(sum, waits.values()))
        assert {model: depth for model, depth in queue.depths().items() if depth} == Counter(
            number & 1 for number, lengths in waits.items() for _ in lengths
        )
    assert queue.dropped == dropped
    assert dropped[0] > 100
