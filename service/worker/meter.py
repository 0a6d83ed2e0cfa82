"""What a worker counts of its batches."""

import collections
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from prometheus_client import Counter, Gauge, Histogram

from service import metrics
from service.worker.queue import QueuedText


class Observed(NamedTuple):
    """A batch that was computed."""

    model: int
    batch: Sequence[QueuedText]
    started_at: float
    inference_s: float
    failed: int
    padding: int


class BatchMeter:
    """The metrics of one worker, by model."""

    def __init__(self, models: Mapping[int, str], *, device: str, max_batch_tokens: int) -> None:
        """`models`: names by place."""
        self._out_of_memory = metrics.OUT_OF_MEMORY.labels(device)
        self._limit = metrics.BATCH_TOKENS_LIMIT.labels(device)
        self.batch_tokens_limit(max_batch_tokens)
        self._observed: collections.deque[Observed] = collections.deque()
        self._dropped: dict[int, Counter] = {}
        self._queue: dict[int, Histogram] = {}
        self._inference: dict[int, Histogram] = {}
        self._input_tokens: dict[int, Histogram] = {}
        self._batch_texts: dict[int, Histogram] = {}
        self._batch_tokens: dict[int, Histogram] = {}
        self._texts: dict[int, Counter] = {}
        self._tokens: dict[int, Counter] = {}
        self._padding: dict[int, Counter] = {}
        self._depth: dict[int, Gauge] = {}
        for place, model in models.items():
            self.add(place, model)

    def add(self, place: int, model: str) -> None:
        """Called before the first batch of a place. A model that replaces another continues the counts of their name."""
        self._queue[place] = metrics.QUEUE_DURATION.labels(model)
        self._inference[place] = metrics.INFERENCE_DURATION.labels(model)
        self._input_tokens[place] = metrics.INPUT_TOKENS.labels(model)
        self._batch_texts[place] = metrics.BATCH_TEXTS.labels(model)
        self._batch_tokens[place] = metrics.BATCH_TOKENS_SIZE.labels(model)
        self._texts[place] = metrics.TEXTS_TOTAL.labels(model)
        self._tokens[place] = metrics.TOKENS_TOTAL.labels(model, "real")
        self._padding[place] = metrics.TOKENS_TOTAL.labels(model, "padding")
        self._depth[place] = metrics.QUEUE_TEXTS.labels(model)
        self._dropped[place] = metrics.TEXTS_DROPPED.labels(model)

    def queue_depths(self, texts: Mapping[int, int]) -> None:
        """Sets how many texts wait, by place. Where a name has two places for a moment, it shows the newer one."""
        for place, depth in self._depth.items():
            depth.set(texts.get(place, 0))

    def remove(self, place: int) -> None:
        """Notes that a model is served no more. Its counts stay, and no text waits for it."""
        self._depth.pop(place).set(0)

    def texts_dropped(self, model: int, texts: int) -> None:
        """Counts texts that were not computed, since nobody waited for them any more."""
        self._dropped[model].inc(texts)

    def out_of_memory(self, *, limit: int) -> None:
        """Counts a batch that was too large for memory. `limit`: the token budget from now on."""
        self._out_of_memory.inc()
        self.batch_tokens_limit(limit)

    def batch_tokens_limit(self, tokens: int) -> None:
        """Shows the token budget from now on."""
        self._limit.set(tokens)

    def observe(
        self, model: int, batch: Sequence[QueuedText], *, started_at: float, inference_s: float, failed: int, padding: int
    ) -> None:
        """Notes one batch, after its answers have left. `write` may run in another thread."""
        self._observed.append(Observed(model, batch, started_at, inference_s, failed, padding))

    def write(self) -> None:
        """Writes the noted batches to where a scrape finds them. Writing each batch by itself would take its worker 0.1 ms."""
        by_model: dict[int, list[Observed]] = {}
        while self._observed:
            found = self._observed.popleft()
            by_model.setdefault(found.model, []).append(found)
        for model, batches in by_model.items():
            lengths = [[len(text.text.ids) for text in one.batch] for one in batches]
            tokens = [sum(row) for row in lengths]
            metrics.observe_all(self._queue[model], [one.started_at - text.sent_at for one in batches for text in one.batch])
            metrics.observe_all(self._input_tokens[model], list(chain.from_iterable(lengths)))
            metrics.observe_all(self._inference[model], [one.inference_s for one in batches])
            metrics.observe_all(self._batch_texts[model], list(map(len, lengths)))
            metrics.observe_all(self._batch_tokens[model], tokens)
            self._texts[model].inc(sum(len(one.batch) - one.failed for one in batches))
            self._tokens[model].inc(sum(tokens))
            self._padding[model].inc(sum(one.padding for one in batches))
