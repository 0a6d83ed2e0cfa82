"""The worker's queue: texts wait here until the device is free, then leave as one batch within the token budget.

There is no timer. An idle device takes a lone text at once; a busy one finds all that came meanwhile.
"""

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from itertools import islice

import msgspec
import numpy as np

from service.engine.packs import TextIds
from service.frames import ID_TYPE, Cancel, Job


class QueuedText(msgspec.Struct, gc=False):
    """One text of a job: `index` is its place in the request, `reply_to` identifies the connection it came by."""

    reply_to: int
    job_id: int
    index: int
    deadline: float
    sent_at: float
    text: TextIds


class QueuedJob(msgspec.Struct, gc=False):
    """A job that waits. All its texts have one deadline, and were sent together. `taken`: how many have left."""

    texts: list[QueuedText]
    tokens: int
    taken: int = 0

    @property
    def waiting(self) -> int:
        """How many texts still wait."""
        return len(self.texts) - self.taken


class TextQueue:
    """The waiting jobs of each model, oldest first. One thread puts, another takes.

    A job leaves from anywhere in its queue at the same cost: when many clients go at once, the worker must not stand still.
    `tokens`: how many tokens wait. `on_dropped` is told a model and how many of its texts are not computed, since nobody waits
    for them any more."""

    def __init__(self, *, max_batch_tokens: int, on_dropped: Callable[[int, int], None]) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._on_dropped = on_dropped
        self.tokens = 0
        # By connection and id. A plain dictionary would pass over all that left before its first.
        self._queues: defaultdict[int, OrderedDict[tuple[int, int], QueuedJob]] = defaultdict(OrderedDict)
        self._changed = threading.Condition()
        self._woken = False

    def put(self, job: Job, *, reply_to: int) -> None:
        """Queues the texts of `job`."""
        texts, tokens = _split(job, reply_to), sum(job.lengths)
        with self._changed:
            self._queues[job.model][reply_to, job.id] = QueuedJob(texts, tokens)
            self.tokens += tokens
            self._changed.notify()

    def cancel(self, message: Cancel, *, reply_to: int) -> None:
        """Drops the job's texts that still wait."""
        with self._changed:
            for model, queue in self._queues.items():
                job = queue.pop((reply_to, message.id), None)
                if job is not None:
                    self._drop(model, job)

    def depths(self) -> dict[int, int]:
        """How many texts wait for each model."""
        with self._changed:
            return {model: sum(job.waiting for job in queue.values()) for model, queue in self._queues.items()}

    def discard(self, model: int) -> None:
        """Drops the texts that wait for a model that is served no more."""
        with self._changed:
            for job in self._queues.pop(model, OrderedDict()).values():
                self._drop(model, job)

    def wake(self) -> None:
        """Makes the present call of `take`, or else the next, return: its caller has something else to do."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def take(self, wait_s: float | None = None) -> tuple[int, list[QueuedText]] | None:
        """Blocks until a text waits. Then (model, batch), for the model whose oldest text has waited longest.

        None if `wake` ended the wait, or `wait_s` did, and no text waits. The batch is never empty. It holds at most
        `max_batch_tokens` tokens, unless its only text is longer.
        """
        while True:
            with self._changed:
                came = self._changed.wait_for(lambda: self._woken or any(self._queues.values()), wait_s)
                woken, self._woken = self._woken, False
                found = self._oldest()
            if found or woken or not came:
                return found

    def take_at_once(self) -> tuple[int, list[QueuedText]] | None:
        """As `take`, but without waiting: None if no text waits."""
        with self._changed:
            return self._oldest()

    def _oldest(self) -> tuple[int, list[QueuedText]] | None:
        waiting = [(_first(queue).texts[0].sent_at, model) for model, queue in self._queues.items() if queue]
        if not waiting:
            return None
        _, model = min(waiting)
        batch = self._fill(model)
        return (model, batch) if batch else None

    def _fill(self, model: int) -> list[QueuedText]:
        queue = self._queues[model]
        batch: list[QueuedText] = []
        room, now = self.max_batch_tokens, time.monotonic()
        while queue:
            job = _first(queue)
            if job.texts[0].deadline < now:
                queue.popitem(last=False)
                self._drop(model, job)
                continue
            room -= self._move(job, batch, room)
            if job.waiting:
                break
            queue.popitem(last=False)
        return batch

    def _move(self, job: QueuedJob, batch: list[QueuedText], room: int) -> int:
        """Moves the job's texts to the batch while there is room. How many tokens they have."""
        moved = 0
        for text in islice(job.texts, job.taken, None):
            length = len(text.text.ids)
            if batch and moved + length > room:
                break
            batch.append(text)
            moved += length
            job.taken += 1
        job.tokens -= moved
        self.tokens -= moved
        return moved

    def _drop(self, model: int, job: QueuedJob) -> None:
        """Counts off a job that has left its queue uncomputed."""
        self.tokens -= job.tokens
        self._on_dropped(model, job.waiting)


def _first(queue: OrderedDict[tuple[int, int], QueuedJob]) -> QueuedJob:
    return queue[next(iter(queue))]


def _split(job: Job, reply_to: int) -> list[QueuedText]:
    ids = np.frombuffer(job.token_ids, ID_TYPE)
    types = np.frombuffer(job.token_types, ID_TYPE) if job.token_types else None
    if len(job.lengths) == 1:
        return [QueuedText(reply_to, job.id, 0, job.deadline, job.sent_at, TextIds(ids, types))]
    texts = []
    start = 0
    for index, length in enumerate(job.lengths):
        end = start + length
        text = TextIds(ids[start:end], None if types is None else types[start:end])
        texts.append(QueuedText(reply_to, job.id, index, job.deadline, job.sent_at, text))
        start = end
    return texts
