"""The batch loop: computes a batch whenever the device is free, and sends the answers to the requests they belong to."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch

from service.engine.engine import Engine, Launched
from service.engine.faults import FAULTS_OF_TEXTS
from service.engine.halving import score_halves
from service.engine.packs import FloatArray
from service.frames import LOGIT_TYPE, Answer, Message
from service.worker.budget import TokenBudget
from service.worker.explaining import Explanations
from service.worker.queue import QueuedText, TextQueue

if TYPE_CHECKING:
    from service.worker.meter import BatchMeter

log = logging.getLogger("valence.worker")
Send = Callable[[Mapping[int, Sequence[Message]]], None]
NONE_FAILED: frozenset[int] = frozenset()


class Running(msgspec.Struct, gc=False):
    """A batch that was handed to its engine. `launched` is the error if the launch failed."""

    model: int
    engine: Engine
    batch: list[QueuedText]
    launched: Launched | Exception
    started_at: float


class BatchLoop:
    """Takes batches, computes them, sends the answers.

    CUDA works while Python goes on: there the next batch is launched before the answers of the last one are made, so that the
    device never waits. `explanations` None: the service does not explain. `cores` is held while a forward runs. `busy_since`:
    when the present step began; None while there is nothing to do.
    """

    def __init__(
        self,
        engines: Mapping[int, Engine],
        queue: TextQueue,
        explanations: Explanations | None,
        *,
        send: Send,
        meter: "BatchMeter",
        cores: AbstractContextManager[None],
    ) -> None:
        self.engines = engines
        self.queue = queue
        self.explanations = explanations
        self._send = send
        self._meter = meter
        self._cores = cores
        self._budget = TokenBudget(queue)
        self._running: Running | None = None
        self._finished_at = 0.0
        self.busy_since: float | None = None

    def run(self) -> None:
        """For ever."""
        while True:
            self.step()

    def step(self) -> None:
        """Launches a batch if one waits, finishes the batch before it, then computes a step of an explanation if one is due."""
        before = self._running
        taken = None
        if before is None:
            taken = self.queue.take(None if self.explanations is None else self.explanations.wait_s)
        elif self._is_worth_a_launch(before):
            taken = self.queue.take_at_once()
        self.busy_since = time.monotonic()
        self._running = self._launch(*taken) if taken else None
        if before is not None:
            self._finish(before)
        if self._running is not None and not self._running.engine.overlaps:
            self._finish(self._running)
            self._running = None
        if self.explanations is not None:
            self._explain(self.explanations, texts_came=before is not None or taken is not None)
        if self._running is None:
            self.busy_since = None

    def _is_worth_a_launch(self, running: Running) -> bool:
        """Whether the queue holds at least half as many tokens as the running batch: launched earlier, a batch is small."""
        return self.queue.tokens * 2 >= sum(len(text.text.ids) for text in running.batch)

    def _launch(self, model: int, batch: list[QueuedText]) -> Running | None:
        engine = self.engines.get(model)
        if engine is None:  # the model was dropped meanwhile: nobody waits for the batch
            return None
        started_at = time.monotonic()
        with self._cores:
            try:
                launched: Launched | Exception = engine.launch([text.text for text in batch])
            except FAULTS_OF_TEXTS as error:
                launched = error  # `_finish` finds out which text is at fault
        return Running(model, engine, batch, launched, started_at)

    def _finish(self, running: Running) -> None:
        engine, batch = running.engine, running.batch
        try:
            if isinstance(running.launched, Exception):
                raise running.launched
            logits, failed = running.launched.wait(), NONE_FAILED
            if self._budget.held(sum(len(text.text.ids) for text in batch)):
                self._meter.batch_tokens_limit(self.queue.max_batch_tokens)
        except FAULTS_OF_TEXTS as error:
            too_large = partial(self._blame, before=self.queue.max_batch_tokens)
            logits, failed = score_halves(
                engine, [text.text for text in batch], error, relieve=self._relieve, too_large=too_large
            )
        failed |= places_without_a_number(logits)
        now = time.monotonic()
        started_at = max(running.started_at, self._finished_at)
        self._finished_at = now
        self._send(answers(batch, logits, failed, started_at=started_at, inference_s=now - started_at))
        padding = 0 if isinstance(running.launched, Exception) else running.launched.padding
        self._meter.observe(
            running.model, batch, started_at=started_at, inference_s=now - started_at, failed=len(failed), padding=padding
        )

    def _explain(self, explanations: Explanations, *, texts_came: bool) -> None:
        """Computes a step of an explanation, if one is due."""
        if texts_came:
            explanations.texts_came()
        if not explanations.due:
            return
        self.busy_since = time.monotonic()
        with self._cores:
            explained = explanations.step()
        if explained:
            self._send(explained)

    def _relieve(self, tokens: int) -> None:
        """Makes later batches smaller, after one of so many tokens took more memory than there is."""
        self._budget.ran_out(tokens)
        self._ran_out()
        log.warning("out of memory with %d tokens; batches hold %d for now", tokens, self.queue.max_batch_tokens)

    def _blame(self, tokens: int, *, before: int) -> None:
        """A text alone took more memory than there is. That says nothing of other batches: they hold what they held `before`."""
        self.queue.max_batch_tokens = before
        self._ran_out()
        log.warning("out of memory with a lone text of %d tokens; batches hold %d as before", tokens, before)

    def _ran_out(self) -> None:
        torch.cuda.empty_cache()  # nothing happens without CUDA
        self._meter.out_of_memory(limit=self.queue.max_batch_tokens)


def places_without_a_number(logits: FloatArray) -> frozenset[int]:
    """The texts that a model gave an infinite logit, or one that is not a number: they failed as if it had raised."""
    if np.isfinite(logits).all():
        return NONE_FAILED
    return frozenset(np.flatnonzero(~np.isfinite(logits).all(axis=1)).tolist())


def answers(
    batch: Sequence[QueuedText], logits: FloatArray, failed: AbstractSet[int], *, started_at: float, inference_s: float
) -> dict[int, list[Answer]]:
    """The answers of a batch by connection. Texts of one request, which are neighbours in a batch, share an answer."""
    result: dict[int, list[Answer]] = defaultdict(list)
    start = 0
    while start < len(batch):
        text = batch[start]
        end = start + 1
        while end < len(batch) and batch[end].job_id == text.job_id and batch[end].reply_to == text.reply_to:
            end += 1
        scored = [place for place in range(start, end) if place not in failed] if failed else range(start, end)
        answer = Answer(
            id=text.job_id,
            texts=[batch[place].index for place in scored],
            logits=(logits[start:end] if len(scored) == end - start else logits[scored]).astype(LOGIT_TYPE, copy=False).tobytes(),
            failed=[batch[place].index for place in range(start, end) if place in failed] if failed else [],
            queue_s=started_at - text.sent_at,
            inference_s=inference_s,
        )
        result[text.reply_to].append(answer)
        start = end
    return result
