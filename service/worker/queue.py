"""The worker's queue: texts wait here until the device is free, then leave as one batch within the token budget.

There is no timer. An idle device takes a lone text at once; a busy one finds all that came meanwhile.
"""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable

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


class TextQueue:
    """The waiting texts of each model, oldest first. One thread puts, another takes.

    `tokens`: how many tokens wait. `on_dropped` is told a model and how many of its texts are not computed, since nobody waits
    for them any more."""

    def __init__(self, *, max_batch_tokens: int, on_dropped: Callable[[int, int], None]) -> None:
        self.max_batch_tokens = max_batch_tokens
        self._on_dropped = on_dropped
        self.tokens = 0
        self._queues: defaultdict[int, deque[QueuedText]] = defaultdict(deque)
        self._changed = threading.Condition()
        self._woken = False

    def put(self, job: Job, *, reply_to: int) -> None:
        """Queues the texts of `job`."""
        texts = _split(job, reply_to)
        with self._changed:
            self._queues[job.model].extend(texts)
            self.tokens += sum(job.lengths)
            self._changed.notify()

    def cancel(self, message: Cancel, *, reply_to: int) -> None:
        """Drops the job's texts that still wait. It takes a pass over the queue, whose length admission bounds."""
        with self._changed:
            for index, queue in self._queues.items():
                kept = deque(text for text in queue if (text.reply_to, text.job_id) != (reply_to, message.id))
                if len(kept) < len(queue):
                    self._on_dropped(index, len(queue) - len(kept))
                self.tokens -= sum(len(text.text.ids) for text in queue) - sum(len(text.text.ids) for text in kept)
                self._queues[index] = kept

    def depths(self) -> dict[int, int]:
        """How many texts wait for each model."""
        with self._changed:
            return {model: len(queue) for model, queue in self._queues.items()}

    def discard(self, model: int) -> None:
        """Drops the texts that wait for a model that is served no more."""
        with self._changed:
            queue = self._queues.pop(model, deque())
            self.tokens -= sum(len(text.text.ids) for text in queue)
        if queue:
            self._on_dropped(model, len(queue))

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
        waiting = [index for index, queue in self._queues.items() if queue]
        if not waiting:
            return None
        model = min(waiting, key=lambda index: self._queues[index][0].sent_at)
        batch = self._fill(model)
        return (model, batch) if batch else None

    def _fill(self, model: int) -> list[QueuedText]:
        queue = self._queues[model]
        batch: list[QueuedText] = []
        tokens = dropped = 0
        now = time.monotonic()
        while queue:
            text = queue[0]
            length = len(text.text.ids)
            expired = text.deadline < now
            if batch and not expired and tokens + length > self.max_batch_tokens:
                break
            queue.popleft()
            self.tokens -= length
            if expired:
                dropped += 1
            else:
                batch.append(text)
                tokens += length
        if dropped:
            self._on_dropped(model, dropped)
        return batch


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
