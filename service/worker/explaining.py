"""Explanations in the worker: few, long, and never in the way of scores.

An explanation is many small steps (`models/inspect/attribution.py`), each a forward and backward of up to eight points. When no
text has come for a moment, the batch loop computes steps. While texts come, it computes only so many that they take a tenth of
its time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from models.inspect.attribution import Attribution, attribute, explainable
from service.engine.cores import QUIET_S
from service.engine.engine import Engine
from service.engine.faults import FAULTS_OF_TEXTS, cuda_answers
from service.engine.weights import load_model, own_weights
from service.frames import ATTRIBUTION_TYPE, Cancel, Explain, Explained, id_array
from service.served.catalog import ServedModel
from service.settings import Settings

log = logging.getLogger("valence.worker")
BUSY_SHARE = 0.1


def make_explainable(engine: Engine, served: ServedModel, settings: Settings) -> None:
    """Gives a loaded engine the model that it explains with.

    A gradient needs float32. So a float32 engine explains with its own weights, any other with a float32 copy of the checkpoint.
    A model that can't be explained is served all the same."""
    shares = engine.dtype_name == "float32"
    model = engine.model if shares else load_model(served, dtype=torch.float32, trust_remote_code=settings.trust_remote_code)
    if not shares and engine.device.type == "cpu":
        own_weights(model)
    trial = engine.trials[0].ids.tolist()
    try:
        twin = explainable(model.to(engine.device))
        attribute(twin, trial, [engine.padding_id or 0] * len(trial), max_steps=2)
    except (*FAULTS_OF_TEXTS, AttributeError) as error:
        log.warning("%s can't be explained: %s", served.name, error)
        engine.details["explanations"] = "not possible"
        return
    copied = sum(parameter.numel() * parameter.element_size() for parameter in twin.parameters())
    engine.details["explanations"] = "by the served weights" if shares else f"by a float32 copy of {copied / 1e6:.0f} MB"
    engine.explained = twin


@dataclass
class _Waiting:
    """A job on its way. `under_way` and `started_at` are set at its first step."""

    job: Explain
    reply_to: int
    under_way: Attribution | None = None
    started_at: float = 0.0
    spent_s: float = 0.0


class Explanations:
    """The texts that wait to be explained, oldest first. The I/O thread puts and cancels, the batch loop steps."""

    def __init__(self, engines: Mapping[int, Engine], *, max_steps: int) -> None:
        self.engines = engines
        self.max_steps = max_steps
        self._waiting: deque[_Waiting] = deque()
        self._lock = threading.Lock()
        self._idle_at = 0.0
        self._share_at = 0.0

    @property
    def wait_s(self) -> float | None:
        """Seconds until the next step, if no text comes before. None if there is nothing to explain."""
        return max(0.0, min(self._idle_at, self._share_at) - time.monotonic()) if self._waiting else None

    @property
    def due(self) -> bool:
        """Whether it is time for a step: no text has come for `QUIET_S`, or explanations have had less than their share."""
        return self.wait_s == 0

    def texts_came(self) -> None:
        """Notes that the worker has computed texts. It is not idle yet: their senders may send more."""
        self._idle_at = time.monotonic() + QUIET_S

    def put(self, job: Explain, *, reply_to: int) -> None:
        with self._lock:
            self._waiting.append(_Waiting(job, reply_to))

    def cancel(self, message: Cancel, *, reply_to: int) -> None:
        """Drops a job that nobody waits for any more."""
        with self._lock:
            self._waiting = deque(one for one in self._waiting if (one.reply_to, one.job.id) != (reply_to, message.id))

    def step(self) -> dict[int, list[Explained]]:
        """Computes a step of the oldest job; its answer by connection, if the step was its last. Raises what ends the worker."""
        first = self._oldest()
        if first is None:
            return {}
        began_at = time.monotonic()
        try:
            answer = self._advance(first, began_at)
        except FAULTS_OF_TEXTS as error:
            if torch.cuda.is_initialized() and not cuda_answers():
                raise
            log.warning("the model failed on a text that it was to explain: %s", type(error).__name__)
            answer = Explained(id=first.job.id, failed=True)
        ended_at = time.monotonic()
        first.spent_s += ended_at - began_at
        self._share_at = ended_at + (ended_at - began_at) * (1 - BUSY_SHARE) / BUSY_SHARE
        if answer is None:
            return {}
        answer.inference_s = first.spent_s
        self.cancel(Cancel(id=first.job.id), reply_to=first.reply_to)
        return {first.reply_to: [answer]}

    def _oldest(self) -> _Waiting | None:
        """The first job whose deadline has not passed. Those before it are dropped: their clients were told."""
        with self._lock:
            while self._waiting and self._waiting[0].job.deadline < time.monotonic():
                self._waiting.popleft()
            return self._waiting[0] if self._waiting else None

    def _advance(self, first: _Waiting, now: float) -> Explained | None:
        job = first.job
        engine = self.engines.get(job.model)
        model: PreTrainedModel | None = engine.explained if engine is not None else None
        if model is None:
            return Explained(id=job.id, possible=False)
        if first.under_way is None:
            first.started_at = now
            ids, baseline = id_array(job.token_ids).tolist(), id_array(job.baseline_ids).tolist()
            first.under_way = Attribution(model, ids, baseline, max_steps=self.max_steps, target=job.target)
        else:
            first.under_way.advance()
        if not first.under_way.done:
            return None
        found = first.under_way.result()
        return Explained(
            id=job.id,
            target=found.target,
            score=found.score,
            baseline_score=found.baseline_score,
            attributions=torch.tensor(found.by_token, dtype=torch.float64).numpy().astype(ATTRIBUTION_TYPE).tobytes(),
            steps=found.steps,
            completeness_error=found.completeness_error,
            tolerance=found.tolerance,
            queue_s=first.started_at - job.sent_at,
        )
