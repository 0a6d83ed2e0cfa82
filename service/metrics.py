"""Prometheus metrics, aggregated over all processes through files in `PROMETHEUS_MULTIPROC_DIR`.

`service.__main__` sets that variable before anything imports this module. A metric is bound to its labels once: an observation
costs 3 us in this mode, and looking the labels up 2 us more. No label ever holds what a client sent.
"""

import os
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKENS = (4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 2048, 8192)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
BATCH_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)

REQUESTS = Counter("valence_requests", "Requests answered.", ["route", "model", "status"])
TEXTS_TOTAL = Counter("valence_texts", "Texts scored.", ["model"])
TOKENS_TOTAL = Counter("valence_tokens", "Tokens computed.", ["model", "kind"])
TEXTS_DROPPED = Counter("valence_texts_dropped", "Texts not computed: the client left, or the deadline passed.", ["model"])
OUT_OF_MEMORY = Counter("valence_out_of_memory", "Batches that memory did not hold.", ["device"])
FAILURES = Counter("valence_failures", "Requests answered with an error.", ["error_type"])
WORKER_RESTARTS = Counter("valence_worker_restarts", "Workers started again after a death, also in vain.", ["device"])

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
    "Token budget of a batch, lowered when memory runs out, and raised again later.",
    ["device"],
    multiprocess_mode="livemin",
)
IN_FLIGHT = Gauge("valence_requests_in_flight", "Requests being served.", multiprocess_mode="mostrecent")
WORKER_UP = Gauge("valence_worker_up", "1 while the HTTP processes reach the worker.", ["device"], multiprocess_mode="livemin")
BUILD_INFO = Gauge("valence_build_info", "Versions.", ["version", "torch", "transformers"], multiprocess_mode="max")
MODEL_INFO = Gauge("valence_model_info", "Served models.", ["model", "architecture"], multiprocess_mode="mostrecent")


def exposition() -> bytes:
    """The metrics of all processes in Prometheus' text format."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry)


def process_died(pid: int | None) -> None:
    """Drops the gauges of a process that is gone; its counts stay."""
    with suppress(FileNotFoundError):  # every HTTP process sees a worker die; another one was first
        multiprocess.mark_process_dead(pid)


def worker_started(device: str, *, restarted: bool) -> None:
    """Counts a worker's start if it follows a death. The main process calls it before the worker loads anything."""
    counter = WORKER_RESTARTS.labels(device)
    if restarted:
        counter.inc()


def observe_all(histogram: Histogram, amounts: Sequence[float]) -> None:
    """The same as `observe` for each amount, but each bucket is written only once.

    prometheus_client offers no such call, so this one uses private attributes of a histogram that is bound to its labels. A test
    holds it against `observe`."""
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


def failures_at_zero(error_types: Sequence[str]) -> None:
    """Makes the series that tell of failures there before the first: Prometheus does not see one that begins at 1 grow."""
    for error_type in error_types:
        FAILURES.labels(error_type)


def requests_at_zero(model: str) -> None:
    """The same for the requests that a model answers."""
    REQUESTS.labels("/predict", model, "200")
    REQUEST_DURATION.labels(model)
    TOKENIZATION_DURATION.labels(model)


def model_info(model: str, architecture: str, *, served: bool) -> None:
    """Sets whether a model is served. The value that any process set last counts."""
    MODEL_INFO.labels(model, architecture).set(served)


assert os.environ.get("PROMETHEUS_MULTIPROC_DIR"), "service.__main__ sets the directory before it imports the service"
