"""One bad text fails alone, and the answers of a batch go back to the requests they came from."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from service.engine.halving import score
from service.engine.packs import TextIds
from service.frames import Answer, Cancel, Job
from service.worker.batch_loop import BatchLoop, answers
from service.worker.explaining import Explanations
from service.worker.queue import QueuedText, TextQueue

POISON = 13


class StandInEngine:
    """An engine whose logits are (length, first id) of a text. It raises if any text holds the poison."""

    device = torch.device("cpu")

    def __init__(self, error: type[Exception] = ValueError) -> None:
        self.error = error

    def logits(self, texts: Sequence[TextIds]) -> np.ndarray:
        if any(POISON in text.ids for text in texts):
            raise self.error("poisoned")
        return np.array([[len(text.ids), text.ids[0]] for text in texts], dtype=np.float32)


def queued(*ids: int, job_id: int = 0, index: int = 0, reply_to: int = 1, sent_at: float = 1.0) -> QueuedText:
    return QueuedText(reply_to, job_id, index, deadline=99, sent_at=sent_at, text=TextIds(np.array(ids, np.int32)))


def ids_of(batch: Sequence[QueuedText]) -> list[TextIds]:
    return [text.text for text in batch]


def never(tokens: int) -> None:
    raise AssertionError("memory was enough")


BATCH = [queued(20 + place, *range(50, 50 + place), index=place) for place in range(7)]
EXPECTED = {place: [place + 1, 20 + place] for place in range(7)}


@pytest.mark.parametrize("poisoned", [{0}, {3}, {6}, {0, 6}, {2, 3}, set(), set(range(7))], ids=str)
def test_poisoned_texts_fail_alone(poisoned: set[int]) -> None:
    batch = [queued(POISON) if place in poisoned else text for place, text in enumerate(BATCH)]
    logits, failed = score(StandInEngine(), ids_of(batch), relieve=never)
    assert failed == poisoned
    assert len(logits) == len(batch)
    assert {place: logits[place].tolist() for place in EXPECTED.keys() - poisoned} == {
        place: row for place, row in EXPECTED.items() if place not in poisoned
    }


@pytest.mark.parametrize("error", [RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError])
def test_what_a_model_raises_on_its_input_fails_the_text(error: type[Exception]) -> None:
    assert score(StandInEngine(error), ids_of([queued(POISON), queued(20)]), relieve=never)[1] == {0}


@pytest.mark.parametrize("error", [SystemError, KeyboardInterrupt, OSError])
def test_what_is_no_fault_of_a_text_ends_the_worker(error: type[Exception]) -> None:
    with pytest.raises(error):
        score(StandInEngine(error), ids_of([queued(POISON)]), relieve=never)


def test_answers_keep_the_texts_of_one_request_together() -> None:
    batch = [
        queued(1, job_id=4, index=2),
        queued(1, job_id=4, index=3),
        queued(1, job_id=5, index=0),
        queued(1, job_id=4, index=0, reply_to=2),
    ]
    rows = np.array([[place, place / 2] for place in range(4)], np.float32)
    result = answers(batch, rows, set(), started_at=1.25, inference_s=0.5)
    assert [(answer.id, answer.texts) for answer in result[1]] == [(4, [2, 3]), (5, [0])]
    assert [(answer.id, answer.texts) for answer in result[2]] == [(4, [0])]
    first = result[1][0]
    assert np.frombuffer(first.logits, "<f4").tolist() == [0, 0, 1, 0.5]
    assert (first.queue_s, first.inference_s, first.failed) == (0.25, 0.5, [])


def test_answers_name_the_texts_that_failed() -> None:
    batch = [queued(1, index=0), queued(1, index=1)]
    (answer,) = answers(batch, np.array([[0.0], [1.0]], np.float32), {0}, started_at=1, inference_s=0)[1]
    assert (answer.texts, answer.failed) == ([1], [0])
    assert np.frombuffer(answer.logits, "<f4").tolist() == [1.0]


def test_answers_of_a_request_that_failed_whole_hold_no_logits() -> None:
    (answer,) = answers([queued(1)], np.zeros((1, 1), np.float32), {0}, started_at=1, inference_s=0)[1]
    assert (answer.texts, answer.failed, answer.logits) == ([], [0], b"")


class Handle:
    """A launched batch. Its rows are made when it is waited for."""

    def __init__(self, engine: "OverlappingEngine", texts: Sequence[TextIds]) -> None:
        self.engine, self.texts, self.padding = engine, texts, 0

    def wait(self) -> np.ndarray:
        self.engine.events.append(f"wait {len(self.texts)}")
        return self.engine.logits(self.texts)


class OverlappingEngine(StandInEngine):
    """An engine on a device that works while Python goes on: a launch returns before its rows are made."""

    overlaps = True

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def launch(self, texts: Sequence[TextIds]) -> Handle:
        self.events.append(f"launch {len(texts)}")
        return Handle(self, texts)


class Meter:
    times_out_of_memory = 0
    limit = 0

    def observe(self, model: int, batch: Sequence[QueuedText], **amounts: float) -> None: ...

    def out_of_memory(self, *, limit: int) -> None:
        self.times_out_of_memory += 1
        self.limit = limit

    def batch_tokens_limit(self, tokens: int) -> None:
        self.limit = tokens


def job(job_id: int, *texts: Sequence[int]) -> Job:
    ids = np.array([token for text in texts for token in text], "<i4").tobytes()
    return Job(id=job_id, model=0, deadline=1e12, sent_at=job_id, lengths=[len(text) for text in texts], token_ids=ids)


@pytest.fixture
def loop() -> BatchLoop:
    sent: list[Answer] = []
    loop = BatchLoop(
        {0: OverlappingEngine()},  # type: ignore[dict-item]
        TextQueue(max_batch_tokens=4, on_dropped=lambda *_: None),
        Explanations({}, max_steps=1),
        send=lambda by_connection: sent.extend(by_connection[1]),
        meter=Meter(),  # type: ignore[arg-type]
        cores=nullcontext(),
    )
    loop.sent = sent  # type: ignore[attr-defined]
    return loop


def test_the_next_batch_is_launched_before_the_last_is_waited_for(loop: BatchLoop) -> None:
    for number in range(3):
        loop.queue.put(job(number, (20 + number, 1), (30 + number, 1)), reply_to=1)
    for _ in range(3):
        loop.step()
    assert loop.engines[0].events == ["launch 2", "launch 2", "wait 2", "launch 2", "wait 2"]
    loop.step()  # nothing waits: the last batch is finished, and the loop does not block
    assert [answer.id for answer in loop.sent] == [0, 1, 2]
    assert [np.frombuffer(answer.logits, "<f4").tolist() for answer in loop.sent] == [[2, 20 + n, 2, 30 + n] for n in range(3)]


def test_a_small_batch_waits_for_company_while_one_runs(loop: BatchLoop) -> None:
    loop.queue.put(job(0, (20, 1), (30, 1)), reply_to=1)
    loop.step()
    loop.queue.put(job(1, (21,)), reply_to=1)
    loop.step()
    assert loop.engines[0].events == ["launch 2", "wait 2"]
    loop.step()
    loop.step()
    assert [answer.id for answer in loop.sent] == [0, 1]


def test_what_is_cancelled_while_a_batch_runs_does_not_hold_up_its_answer(loop: BatchLoop) -> None:
    loop.queue.put(job(0, (20, 1)), reply_to=1)
    loop.step()
    loop.queue.put(job(1, (21, 1)), reply_to=1)
    loop.queue.cancel(Cancel(id=1), reply_to=1)
    assert loop.queue.tokens == 0
    loop.step()
    assert [answer.id for answer in loop.sent] == [0]


def test_a_poisoned_text_in_an_overlapped_batch_fails_alone(loop: BatchLoop) -> None:
    loop.queue.put(job(0, (20,), (POISON,), (30,)), reply_to=1)
    loop.step()
    loop.step()
    (answer,) = loop.sent
    assert (answer.texts, answer.failed) == ([0, 2], [1])


class SmallEngine(OverlappingEngine):
    """An engine whose memory holds batches of two tokens. `error` is what it raises for a larger one."""

    overlaps = False

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.memory_error = error

    def logits(self, texts: Sequence[TextIds]) -> np.ndarray:
        if sum(len(text.ids) for text in texts) > 2:
            raise self.memory_error
        return super().logits(texts)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    MemoryError(),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_batch_that_memory_does_not_hold_is_split(error: Exception) -> None:
    relieved: list[int] = []
    batch = [queued(20 + place, index=place) for place in range(7)]
    logits, failed = score(SmallEngine(error), ids_of(batch), relieve=relieved.append)
    assert not failed
    assert logits.tolist() == [[1, 20 + place] for place in range(7)]
    assert relieved == [7, 3, 4]


def test_the_token_budget_is_lowered_and_not_below_its_least(loop: BatchLoop) -> None:
    loop.queue.max_batch_tokens = 1000
    budgets = []
    for tokens in (900, 700, 100, 10):
        loop._relieve(tokens)
        budgets.append(loop.queue.max_batch_tokens)
    assert budgets == [450, 350, 64, 64]


class LimitedEngine(OverlappingEngine):
    """An engine whose memory holds `holds` tokens, and no text that begins with the poison."""

    overlaps = False
    holds = 10_000

    def launch(self, texts: Sequence[TextIds]) -> Handle:
        if sum(len(text.ids) for text in texts) > self.holds or any(text.ids[0] == POISON for text in texts):
            raise torch.OutOfMemoryError
        return super().launch(texts)

    def logits(self, texts: Sequence[TextIds]) -> np.ndarray:
        self.launch(texts)
        return super().logits(texts)


@pytest.fixture
def limited() -> BatchLoop:
    return BatchLoop(
        {0: LimitedEngine()},  # type: ignore[dict-item]
        TextQueue(max_batch_tokens=1000, on_dropped=lambda *_: None),
        None,
        send=lambda _: None,
        meter=Meter(),  # type: ignore[arg-type]
        cores=nullcontext(),
    )


def compute(loop: BatchLoop, *texts: Sequence[int]) -> None:
    """Has the loop compute a batch of texts."""
    loop.queue.put(job(0, *texts), reply_to=1)
    while loop.queue.tokens:
        loop.step()


def compute_full_batches(loop: BatchLoop, count: int) -> None:
    for _ in range(count):
        compute(loop, *[[20] * 20] * (loop.queue.max_batch_tokens // 20))


def test_the_token_budget_climbs_back_and_not_above_the_settings(limited: BatchLoop) -> None:
    limited.engines[0].holds = 100
    compute_full_batches(limited, 1)
    assert limited.queue.max_batch_tokens == limited._meter.limit < 130
    limited.engines[0].holds = 10_000
    compute_full_batches(limited, 20)
    assert limited.queue.max_batch_tokens < 130  # not at once
    compute_full_batches(limited, 600)
    assert limited.queue.max_batch_tokens == limited._meter.limit == 1000


def test_a_lasting_lack_of_memory_is_met_by_few_batches(limited: BatchLoop) -> None:
    limited.engines[0].holds = 300
    compute_full_batches(limited, 3000)
    lasting = limited._meter.times_out_of_memory
    compute_full_batches(limited, 3000)
    assert limited._meter.times_out_of_memory - lasting < 10
    assert limited.queue.max_batch_tokens > 100


def test_batches_that_leave_room_do_not_raise_the_budget(limited: BatchLoop) -> None:
    limited.engines[0].holds = 100
    compute_full_batches(limited, 1)
    lowered = limited.queue.max_batch_tokens
    for _ in range(200):
        compute(limited, [20] * 20)
    assert limited.queue.max_batch_tokens == lowered


@pytest.mark.parametrize("company", [0, 9])
def test_a_text_too_large_alone_does_not_lower_the_budget(limited: BatchLoop, company: int) -> None:
    compute(limited, *[[20] * 20] * company, [POISON] * 40, *[[20] * 20] * company)
    assert limited._meter.times_out_of_memory > 0
    assert limited.queue.max_batch_tokens == limited._meter.limit == 1000


def test_a_text_that_memory_does_not_hold_fails_alone() -> None:
    engine = SmallEngine(OUT_OF_MEMORY[0])
    assert score(engine, ids_of([queued(20), queued(1, 2, 3), queued(21)]), relieve=[].append)[1] == {1}


def test_texts_of_a_model_that_was_dropped_are_let_go(loop: BatchLoop) -> None:
    for number, model in enumerate((7, 0)):
        text = Job(id=number, model=model, deadline=1e12, sent_at=number, lengths=[1], token_ids=np.array([20], "<i4").tobytes())
        loop.queue.put(text, reply_to=1)
    for _ in range(3):
        loop.step()
    assert [answer.id for answer in loop.sent] == [1]


def test_a_text_without_a_number_fails_alone(loop: BatchLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON has neither NaN nor infinity."""
    rows = np.array([[1, 2], [np.nan, 2], [3, np.inf], [4, 5]], np.float32)
    monkeypatch.setattr(OverlappingEngine, "logits", lambda _, texts: rows[: len(texts)])
    loop.queue.put(job(0, (20,), (21,), (22,), (23,)), reply_to=1)
    loop.step()
    loop.step()
    (answer,) = loop.sent  # type: ignore[attr-defined]
    assert (answer.texts, answer.failed) == ([0, 3], [1, 2])
    assert np.frombuffer(answer.logits, "<f4").tolist() == [1, 2, 4, 5]
