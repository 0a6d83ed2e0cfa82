"""Explanations in the worker: right for every dtype, after scores, bounded, and each answered once."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from models.inspect.attribution import attribute, explainable
from models.int8.__main__ import main as prepare_int8
from service.engine.cores import QUIET_S
from service.engine.engine import Engine
from service.engine.weights import load_model
from service.frames import ATTRIBUTION_TYPE, Answer, Cancel, Explain, Explained, Job
from service.served.catalog import ServedModel
from service.settings import Settings
from service.worker.batch_loop import BatchLoop
from service.worker.explaining import BUSY_SHARE, Explanations, make_explainable
from service.worker.queue import TextQueue

IDS, BASELINE = (2, 9, 17, 12, 3), (2, 4, 4, 4, 3)
STEPS = 64
Build = Callable[..., Engine]


@pytest.fixture
def build(settings_of: Callable[..., Settings], catalog: Mapping[str, ServedModel]) -> Build:
    def make(name: str, *, served: ServedModel | None = None, **fields: object) -> Engine:
        settings = settings_of(explain_steps=STEPS, **fields)
        engine = Engine(served or catalog[name], device="cpu", settings=settings)
        make_explainable(engine, served or catalog[name], settings)
        return engine

    return make


def job(job_id: int = 0, *, ids: tuple[int, ...] = IDS, deadline_s: float = 3600, model: int = 0, **fields: Any) -> Explain:
    blank = (ids[0], *[4] * (len(ids) - 2), ids[-1])
    now = time.monotonic()
    return Explain(job_id, model, now + deadline_s, now, packed(ids), packed(blank), **fields)


def packed(ids: tuple[int, ...]) -> bytes:
    return np.array(ids, "<i4").tobytes()


def finished(explanations: Explanations) -> dict[int, list[Explained]]:
    """The answer to the oldest job, after as many steps as it takes."""
    for _ in range(STEPS):
        answers = explanations.step()
        if answers:
            return answers
    raise AssertionError("no answer")


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm", "keyword"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_answer_is_that_of_the_float32_checkpoint(
    build: Build, catalog: Mapping[str, ServedModel], name: str, dtype: str
) -> None:
    explanations = Explanations({0: build(name, dtype=dtype)}, max_steps=STEPS)
    explanations.put(job(7), reply_to=3)
    ((connection, (answer,)),) = finished(explanations).items()
    model = explainable(load_model(catalog[name], dtype=torch.float32, trust_remote_code=False))
    expected = attribute(model, IDS, BASELINE, max_steps=STEPS)
    assert (connection, answer.id, answer.failed, answer.possible) == (3, 7, False, True)
    assert (answer.target, answer.steps) == (expected.target, expected.steps)
    assert (answer.score, answer.baseline_score) == pytest.approx((expected.score, expected.baseline_score), abs=1e-5)
    assert np.frombuffer(answer.attributions, ATTRIBUTION_TYPE).tolist() == pytest.approx(expected.by_token, abs=1e-5)
    assert answer.inference_s > 0
    assert explanations.wait_s is None


def test_int8_is_explained_by_a_float32_copy(build: Build, catalog: Mapping[str, ServedModel], wide_int8: ServedModel) -> None:
    engine = build("", served=wide_int8, dtype="int8")
    assert engine.details["dtype"] == "int8"
    count = sum(
        parameter.numel() for parameter in load_model(wide_int8, dtype=torch.float32, trust_remote_code=False).parameters()
    )
    assert engine.details["explanations"] == f"by a float32 copy of {4 * count / 1e6:.0f} MB"
    explanations = Explanations({0: engine}, max_steps=STEPS)
    explanations.put(job(), reply_to=1)
    ((answer,),) = finished(explanations).values()
    assert abs(answer.completeness_error) <= answer.tolerance


def test_float32_weights_are_shared(build: Build) -> None:
    engine = build("tiny-bert")
    assert engine.details["explanations"] == "by the served weights"
    assert engine.explained is not None
    assert {one.data_ptr() for one in engine.explained.parameters()} == {one.data_ptr() for one in engine.model.parameters()}


def test_an_architecture_that_gives_no_gradient_is_served_and_not_explained(
    build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_layer(model: object) -> None:
        raise ValueError("no embedding layer")

    monkeypatch.setattr("models.inspect.attribution.embedding_layer", no_layer)
    engine = build("tiny-bert")
    assert (engine.explained, engine.details["explanations"]) == (None, "not possible")
    assert "tiny-bert can't be explained: no embedding layer" in caplog.text
    explanations = Explanations({0: engine}, max_steps=STEPS)
    explanations.put(job(), reply_to=1)
    ((answer,),) = explanations.step().values()
    assert not answer.possible


def test_a_text_that_the_model_fails_on_is_said_to_have_failed(build: Build) -> None:
    explanations = Explanations({0: build("tiny-bert")}, max_steps=STEPS)
    explanations.put(job(ids=(2, 10**6, 3)), reply_to=1)  # no such row in the embeddings
    explanations.put(job(1), reply_to=1)
    assert [answer.failed for answer in explanations.step()[1]] == [True]
    assert [(answer.id, answer.failed) for answer in finished(explanations)[1]] == [(1, False)]


def test_what_is_cancelled_or_late_is_not_computed(build: Build) -> None:
    explanations = Explanations({0: build("tiny-bert")}, max_steps=STEPS)
    explanations.put(job(0), reply_to=1)
    explanations.put(job(0), reply_to=2)
    explanations.put(job(1, deadline_s=-1), reply_to=2)
    explanations.put(job(2), reply_to=2)
    explanations.cancel(Cancel(id=0), reply_to=1)
    assert [(connection, answer.id) for connection, (answer,) in finished(explanations).items()] == [(2, 0)]
    assert [(connection, answer.id) for connection, (answer,) in finished(explanations).items()] == [(2, 2)]
    assert explanations.step() == {}


def test_after_a_step_texts_come_first_for_nine_times_as_long(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    explanations = Explanations({0: build("tiny-bert")}, max_steps=STEPS)
    explanations.put(job(), reply_to=1)
    explanations.put(job(1), reply_to=1)
    explanations.texts_came()
    explanations._idle_at += 3600
    assert explanations.due
    times = iter([100.0, 100.0, 102.0])
    monkeypatch.setattr("service.worker.explaining.time.monotonic", lambda: next(times))
    explanations.step()
    for now, due in ((102.0, False), (102 + 2 * (1 / BUSY_SHARE - 1) - 0.01, False), (102 + 2 * (1 / BUSY_SHARE - 1), True)):
        monkeypatch.setattr("service.worker.explaining.time.monotonic", lambda now=now: now)
        assert explanations.due is due


class Meter:
    def observe(self, model: int, batch: object, **amounts: float) -> None: ...


class TestBatchLoop:
    @pytest.fixture
    def loop(self, build: Build) -> BatchLoop:
        self.sent: list[Answer | Explained] = []
        engines = {0: build("tiny-bert")}
        return BatchLoop(
            engines,
            TextQueue(max_batch_tokens=8, on_dropped=lambda *_: None),
            Explanations(engines, max_steps=STEPS),
            send=lambda by_connection: self.sent.extend(answer for answers in by_connection.values() for answer in answers),
            meter=Meter(),  # type: ignore[arg-type]
            cores=nullcontext(),
        )

    def put_texts(self, loop: BatchLoop, *numbers: int) -> None:
        for number in numbers:
            loop.queue.put(Job(number, 0, time.monotonic() + 3600, number, lengths=[5], token_ids=packed(IDS)), reply_to=1)

    def test_an_idle_worker_explains(self, loop: BatchLoop) -> None:
        loop.explanations.put(job(9), reply_to=1)
        while not self.sent:
            loop.step()
        assert [type(answer) for answer in self.sent] == [Explained]
        assert loop.busy_since is None

    def test_a_waiting_explanation_does_not_keep_texts_waiting(self, loop: BatchLoop) -> None:
        loop.explanations.put(job(9), reply_to=1)
        self.put_texts(loop, 0, 1, 2)
        loop.explanations._share_at = time.monotonic() + 3600  # its share of a busy worker is used up
        for _ in range(3):
            loop.step()
        assert [(type(answer), answer.id) for answer in self.sent] == [(Answer, 0), (Answer, 1), (Answer, 2)]
        while len(self.sent) < 4:
            loop.step()
        assert (type(self.sent[3]), self.sent[3].id) == (Explained, 9)

    def test_a_worker_between_two_texts_is_not_idle(self, loop: BatchLoop) -> None:
        loop.explanations._share_at = time.monotonic() + 3600
        self.put_texts(loop, 0)
        loop.step()
        loop.explanations.put(job(9), reply_to=1)
        assert 0 < (loop.explanations.wait_s or 0) <= QUIET_S
        loop.step()  # it waits so long for a text, then explains
        assert loop.explanations._waiting[0].under_way is not None

    def test_texts_do_not_keep_an_explanation_waiting_for_ever(self, loop: BatchLoop) -> None:
        loop.explanations.put(job(9), reply_to=1)
        number = 0
        while not any(isinstance(answer, Explained) for answer in self.sent):
            self.put_texts(loop, number)
            loop.step()
            number += 1
        assert sum(isinstance(answer, Answer) for answer in self.sent) == number

    def test_a_worker_that_waits_for_texts_is_woken(self, loop: BatchLoop) -> None:
        loop.explanations.put(job(9), reply_to=1)
        loop.queue.wake()
        assert loop.queue.take() is None


@pytest.fixture
def wide_int8(tmp_path: Any, catalog: Mapping[str, ServedModel], settings_of: Callable[..., Settings]) -> ServedModel:
    """A BERT that is wide enough for int8, with its ranges, and the tokenizer of `tiny-bert`."""
    from transformers import AutoTokenizer

    from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
    from service.served.catalog import load_catalog

    tokenizer = AutoTokenizer.from_pretrained(catalog["tiny-bert"].tokenizer_path)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128}
    torch.manual_seed(0)
    config = CustomBertConfig(vocab_size=len(tokenizer), max_position_embeddings=48, initializer_range=0.2, num_labels=3, **sizes)
    CustomBertForSequenceClassification(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    (tmp_path / "texts").write_text("not good at all\na wonderful film\n")
    assert prepare_int8([str(tmp_path / "wide"), "--texts", str(tmp_path / "texts")]) == 0
    (served,) = load_catalog(settings_of(models=(f"wide={tmp_path / 'wide'}",), dtype="int8"))
    return served
