"""Prometheus metrics, aggregated over all processes through files in `PROMETHEUS_MULTIPROC_DIR`.

`service.__main__` sets that variable before anything imports this module. Children are bound once: an observation of a bound
child costs 3 us in this mode, and looking the child up 2 us more. No label ever holds what a client sent.
"""

import asyncio
import collections
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from service.worker.queue import QueuedText

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKENS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 8192)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
# What another HTTP process than the one that is scraped has counted is there after so long.
TALLY_S = 0.05
BATCH_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)

REQUESTS = Counter("valence_requests", "Requests answered.", ["route", "model", "status"])
TEXTS_TOTAL = Counter("valence_texts", "Texts scored.", ["model"])
TOKENS_TOTAL = Counter("valence_tokens", "Tokens computed.", ["model", "kind"])
TEXTS_DROPPED = Counter("valence_texts_dropped", "Texts not computed: the client left, or the deadline passed.", ["model"])
OUT_OF_MEMORY = Counter("valence_out_of_memory", "Batches that memory did not hold.", ["device"])
FAILURES = Counter("valence_failures", "Requests answered with an error.", ["error_type"])
WORKER_RESTARTS = Counter("valence_worker_restarts", "Workers started again after a death.", ["device"])

REQUEST_DURATION = Histogram(
    "valence_request_duration_seconds", "From the head of a request that was scored to its answer.", ["model"], buckets=SECONDS
)
TOKENIZATION_DURATION = Histogram(
    "valence_tokenization_duration_seconds", "Tokenization of a request.", ["model"], buckets=SECONDS
)
QUEUE_DURATION = Histogram("valence_queue_duration_seconds", "A text's wait for its batch.", ["model"], buckets=SECONDS)
INFERENCE_DURATION = Histogram("valence_inference_duration_seconds", "One batch's forward.", ["model"], buckets=SECONDS)
INPUT_TOKENS = Histogram("valence_input_tokens", "Tokens of one text.", ["model"], buckets=TOKENS)
BATCH_TEXTS = Histogram("valence_batch_texts", "Texts of one batch.", ["model"], buckets=TEXTS)
BATCH_TOKENS_SIZE = Histogram("valence_batch_tokens", "Tokens of one batch.", ["model"], buckets=BATCH_TOKENS)

QUEUE_TEXTS = Gauge("valence_queue_texts", "Texts that wait.", ["model"], multiprocess_mode="livesum")
BATCH_TOKENS_LIMIT = Gauge(
    "valence_batch_tokens_limit",
    "Token budget of a batch, lowered when memory runs out.",
    ["device"],
    multiprocess_mode="livemin",
)
IN_FLIGHT = Gauge("valence_requests_in_flight", "Requests being served.", multiprocess_mode="mostrecent")
WORKER_UP = Gauge("valence_worker_up", "1 while the HTTP processes reach the worker.", ["device"], multiprocess_mode="livemin")
BUILD_INFO = Gauge("valence_build_info", "Versions.", ["version", "torch", "transformers"], multiprocess_mode="max")
MODEL_INFO = Gauge("valence_model_info", "Served models.", ["model", "architecture"], multiprocess_mode="mostrecent")


def exposition() -> bytes:
    """The text format, over all processes."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)


def process_died(pid: int | None) -> None:
    """Drops the gauges of a process that is gone; its counts stay."""
    with suppress(FileNotFoundError):  # every HTTP process sees a worker go, and another was first
        multiprocess.mark_process_dead(pid)


def worker_started(device: str, *, restarted: bool) -> None:
    """Called by a worker once it is set up."""
    counter = WORKER_RESTARTS.labels(device)
    if restarted:
        counter.inc()


class RequestMeter:
    """What an HTTP process observes of the requests of one model."""

    def __init__(self, model: str) -> None:
        self.duration = REQUEST_DURATION.labels(model)
        self.tokenization = TOKENIZATION_DURATION.labels(model)


class Tally:
    """What an HTTP process has counted and observed and not yet written: a number written costs 3 us, a hundred hardly more."""

    def __init__(self) -> None:
        self._answers: collections.Counter[tuple[str, str, int]] = collections.Counter()
        self._amounts: dict[Histogram, list[float]] = {}
        self._is_due = False

    def answered(self, route: str, model: str, status: int) -> None:
        """Counts an outcome. All three labels come from closed sets."""
        self._answers[route, model, status] += 1
        self._write_soon()

    def observed(self, histogram: Histogram, amount: float) -> None:
        """`histogram`: a bound one."""
        self._amounts.setdefault(histogram, []).append(amount)
        self._write_soon()

    def write(self) -> None:
        """To where a scrape finds it."""
        answers, self._answers = self._answers, collections.Counter()
        amounts, self._amounts = self._amounts, {}
        self._is_due = False
        for (route, model, status), count in answers.items():
            REQUESTS.labels(route, model, str(status)).inc(count)
        for histogram, found in amounts.items():
            observe_all(histogram, found)

    def _write_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(TALLY_S, self.write)


# Of this process: each HTTP process is forked with an empty one.
TALLY = Tally()


class Observed(NamedTuple):
    """A batch that was computed."""

    model: int
    batch: Sequence[QueuedText]
    started_at: float
    inference_s: float
    failed: int
    padding: int


class BatchMeter:
    """What a worker observes of its batches."""

    def __init__(self, models: Mapping[int, str], *, device: str, max_batch_tokens: int) -> None:
        """`models`: names by place."""
        self._out_of_memory = OUT_OF_MEMORY.labels(device)
        self._limit = BATCH_TOKENS_LIMIT.labels(device)
        self._limit.set(max_batch_tokens)
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
        """Before the first batch of a place. A model that replaces another goes on with its name's counts."""
        self._queue[place] = QUEUE_DURATION.labels(model)
        self._inference[place] = INFERENCE_DURATION.labels(model)
        self._input_tokens[place] = INPUT_TOKENS.labels(model)
        self._batch_texts[place] = BATCH_TEXTS.labels(model)
        self._batch_tokens[place] = BATCH_TOKENS_SIZE.labels(model)
        self._texts[place] = TEXTS_TOTAL.labels(model)
        self._tokens[place] = TOKENS_TOTAL.labels(model, "real")
        self._padding[place] = TOKENS_TOTAL.labels(model, "padding")
        self._depth[place] = QUEUE_TEXTS.labels(model)
        self._dropped[place] = TEXTS_DROPPED.labels(model)

    def queue_depths(self, texts: Mapping[int, int]) -> None:
        """How many texts wait, by place; of a name that has two for a moment, those of the newer."""
        for place, depth in self._depth.items():
            depth.set(texts.get(place, 0))

    def remove(self, place: int) -> None:
        """A model that is served no more: its counts stay, and nothing waits for it."""
        self._depth.pop(place).set(0)

    def texts_dropped(self, model: int, texts: int) -> None:
        """Texts that nobody waits for any more."""
        self._dropped[model].inc(texts)

    def out_of_memory(self, *, limit: int) -> None:
        """A batch was too large; `limit`: the token budget from now on."""
        self._out_of_memory.inc()
        self._limit.set(limit)

    def observe(
        self, model: int, batch: Sequence[QueuedText], *, started_at: float, inference_s: float, failed: int, padding: int
    ) -> None:
        """One batch, after its answers have left. Any thread may write it."""
        self._observed.append(Observed(model, batch, started_at, inference_s, failed, padding))

    def write(self) -> None:
        """What was observed, to where a scrape finds it: a batch alone would cost its worker 0.1 ms."""
        by_model: dict[int, list[Observed]] = {}
        while self._observed:
            found = self._observed.popleft()
            by_model.setdefault(found.model, []).append(found)
        for model, batches in by_model.items():
            lengths = [[len(text.text.ids) for text in one.batch] for one in batches]
            tokens = [sum(row) for row in lengths]
            observe_all(self._queue[model], [one.started_at - text.sent_at for one in batches for text in one.batch])
            observe_all(self._input_tokens[model], list(chain.from_iterable(lengths)))
            observe_all(self._inference[model], [one.inference_s for one in batches])
            observe_all(self._batch_texts[model], list(map(len, lengths)))
            observe_all(self._batch_tokens[model], tokens)
            self._texts[model].inc(sum(len(one.batch) - one.failed for one in batches))
            self._tokens[model].inc(sum(tokens))
            self._padding[model].inc(sum(one.padding for one in batches))


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """`observe` for each amount, at the cost of a few: it writes each bucket once. The library offers no such call, so this one
    reaches into a bound child of it; a test holds the two against each other."""
    bounds = histogram._upper_bounds
    counts = np.bincount(np.searchsorted(bounds, amounts), minlength=len(bounds))
    for place in np.flatnonzero(counts):
        histogram._buckets[place].inc(int(counts[place]))
    histogram._sum.inc(float(sum(amounts)))


def describe(version: str, models: Sequence[tuple[str, str]]) -> None:
    """Sets the two info gauges; called once, by the main process."""
    import torch
    import transformers

    BUILD_INFO.labels(version, torch.__version__, transformers.__version__).set(1)
    for model, architecture in models:
        model_info(model, architecture, served=True)


def model_info(model: str, architecture: str, *, served: bool) -> None:
    """Whether a model is served; the latest word of any process counts."""
    MODEL_INFO.labels(model, architecture).set(served)


assert os.environ.get("PROMETHEUS_MULTIPROC_DIR"), "service.__main__ sets the directory before it imports the service"
