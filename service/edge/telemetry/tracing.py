"""OpenTelemetry traces, where the operator names a collector (`--otlp-endpoint`; needs the extra `tracing`).

A request is one server span with the children `tokenize`, `queue` and `inference`. The spans are made once the request has been
answered, from the times that were noted on its way. A thread of the HTTP process exports them in batches. When the collector
can't be reached, spans are lost and nothing else happens.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.edge.http.call import MONITOR_ROUTES, Call, Outcome

# How long an export may take, repeats included. A stop waits as long for a collector that is gone.
EXPORT_TIMEOUT_S = 5
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Tracer:
    """Spans of one HTTP process. Starts a thread, so it is made after the fork."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: the collector's base address, as http://collector:4318."""
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # hides its warning at each repetition
        self._exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        resource = Resource.create({"service.name": "valence", "service.version": __version__, "process.pid": os.getpid()})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("valence", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(self, call: Call, outcome: Outcome) -> None:
        """Makes the spans of a request that has been answered. Requests of monitors get none."""
        if outcome.route in MONITOR_ROUTES:
            return
        clock = Clock()
        method = call.scope["method"] if call.scope["method"] in METHODS else "_OTHER"
        span = self._tracer.start_span(
            f"{method} {outcome.route}",
            context=self._parent(call.headers),
            kind=SpanKind.SERVER,
            start_time=clock.at(call.started_at),
            attributes=attributes(call, outcome, method),
        )
        if span.is_recording():
            if outcome.status is None or outcome.status >= 500:
                span.set_status(StatusCode.ERROR)
            self._record_parts(call, span, clock)
        span.end(clock.now_ns)

    def close(self) -> None:
        """Exports what is left, within EXPORT_TIMEOUT_S, and ends the thread. The library alone would try for 30 s."""
        give_up = threading.Timer(EXPORT_TIMEOUT_S, self._exporter.shutdown)
        give_up.start()
        self._provider.shutdown()
        give_up.cancel()

    def _record_parts(self, call: Call, span: Span, clock: "Clock") -> None:
        context = set_span_in_context(span, Context())
        for name, started_at, ended_at in parts(call):
            part = self._tracer.start_span(name, context=context, start_time=clock.at(started_at))
            part.end(clock.at(ended_at))

    def _parent(self, headers: Mapping[bytes, bytes]) -> Context:
        """The caller's span, where the request names one."""
        found = {name: headers.get(name.encode(), b"").decode("latin-1") for name in ("traceparent", "tracestate")}
        return self._propagator.extract(found, context=Context()) if found["traceparent"] else Context()


class Clock:
    """Moments of `time.perf_counter` as nanoseconds since 1970."""

    def __init__(self) -> None:
        self.now_ns = time.time_ns()
        self._now_s = time.perf_counter()

    def at(self, moment_s: float) -> int:
        return self.now_ns - int((self._now_s - moment_s) * 1e9)


def parts(call: Call) -> Iterator[tuple[str, float, float]]:
    """(name, start, end) of each part of a request's way.

    The times of `queue` and `inference` are the worker's. If a large request was computed in several batches, `queue` is the wait
    for the last one, and `inference` ends when the last answer came."""
    if call.tokenized_at:
        yield "tokenize", call.tokenization_started_at, call.tokenized_at
    if call.scored_at:
        started_at = max(call.submitted_at, min(call.submitted_at + call.queue_s, call.scored_at - call.inference_s))
        yield "queue", call.submitted_at, started_at
        yield "inference", started_at, min(started_at + call.inference_s, call.scored_at)


def attributes(call: Call, outcome: Outcome, method: str) -> dict[str, str | int]:
    """The attributes of a span: those of OpenTelemetry's conventions for HTTP, and our own with a prefix. Never a text."""
    found: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": outcome.route,
        "valence.request_id": outcome.request_id,
        "valence.texts": call.texts,
        "valence.tokens": call.tokens,
    }
    if call.model:
        found["valence.model"] = call.model
    if outcome.status is not None:
        found["http.response.status_code"] = outcome.status
    if call.error_type:
        found["error.type"] = call.error_type
    return found
