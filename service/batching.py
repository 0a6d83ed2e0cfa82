"""The worker's queue: texts wait here until the device is free, then leave as one batch within the token budget.

There is no timer. An idle device takes a lone text at once; a busy one finds all that came meanwhile.
"""

import threading
import time
from collections import deque

import msgspec

from service.engine import TextIds
from service.frames import Cancel, Job, id_array


class QueuedText(msgspec.Struct, gc=False):
    """One text of a job: `index` is its place in the request, `reply_to` identifies the connection it came by."""

    reply_to: int
    job_id: int
    index: int
    deadline: float
    sent_at: float
    text: TextIds


class TextQueue:
    """Texts of all models, oldest first. One thread puts, another takes."""

    def __init__(self, models: int, *, max_batch_tokens: int) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.dropped = 0
        self._queues: list[deque[QueuedText]] = [deque() for _ in range(models)]
        self._changed = threading.Condition()

    def put(self, job: Job, *, reply_to: int) -> None:
        """Queues the texts of `job`."""
        texts = _split(job, reply_to)
        with self._changed:
            self._queues[job.model].extend(texts)
            self._changed.notify()

    def cancel(self, message: Cancel, *, reply_to: int) -> None:
        """Drops the job's texts that still wait. Costs a pass over the queue, which admission bounds."""
        with self._changed:
            for index, queue in enumerate(self._queues):
                kept = deque(text for text in queue if (text.reply_to, text.job_id) != (reply_to, message.id))
                self.dropped += len(queue) - len(kept)
                self._queues[index] = kept

    def depth(self, model: int) -> int:
        """How many texts wait for a model."""
        return len(self._queues[model])

    def take(self) -> tuple[int, list[QueuedText]]:
        """Blocks until a text waits; then (model, batch) of the model whose oldest text is oldest of all.

        The batch is never empty, and holds at most `max_batch_tokens` tokens unless its only text is longer.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: any(self._queues))
                model = min(
                    (index for index, queue in enumerate(self._queues) if queue),
                    key=lambda index: self._queues[index][0].sent_at,
                )
                batch = self._fill(self._queues[model])
            if batch:
                return model, batch

    def _fill(self, queue: deque[QueuedText]) -> list[QueuedText]:
        batch: list[QueuedText] = []
        tokens = 0
        now = time.monotonic()
        while queue:
            text = queue[0]
            if text.deadline < now:
                queue.popleft()
                self.dropped += 1
                continue
            tokens += len(text.text.ids)
            if batch and tokens > self.max_batch_tokens:
                break
            batch.append(queue.popleft())
        return batch


def _split(job: Job, reply_to: int) -> list[QueuedText]:
    ids = id_array(job.token_ids)
    types = id_array(job.token_types) if job.token_types else None
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
