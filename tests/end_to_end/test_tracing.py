"""Traces of a running service, as a collector gets them over OTLP/HTTP. The tests run in order."""

import gzip
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra `tracing` is not installed")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"  # pragma: allowlist secret


class Collector(ThreadingHTTPServer):
    """A collector that takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.exports: list[ExportTraceServiceRequest] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def spans(self, request_id: str) -> list[Span]:
        """The spans of a request's trace, the server's first."""
        spans = [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        servers = [span for span in spans if attributes(span).get("valence.request_id") == request_id]
        return servers + [span for span in spans if any(span.parent_span_id == server.span_id for server in servers)]


class Receiver(BaseHTTPRequestHandler):
    """Takes one export."""

    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/traces":
            self.server.exports.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def attributes(span: Span) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture(scope="module")
def traced(start_server: Callable[..., Any], collector: Collector) -> Any:
    """A server that exports its spans every 0.1 s, where OpenTelemetry would wait 5 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        return start_server("--http-processes", "2", "--otlp-endpoint", collector.url)


def test_a_request_is_a_span_with_three_below_it(traced: Any, collector: Collector, wait: Callable[..., None]) -> None:
    headers = {"x-request-id": "one", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    answer = traced.predict(["good food", "bad"], headers=headers)
    wait(lambda: len(collector.spans("one")) == 4, timeout_s=20)
    server, *parts = collector.spans("one")
    assert (server.name, server.kind) == ("POST /predict", Span.SPAN_KIND_SERVER)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(server) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "valence.request_id": "one",
        "valence.model": "failing",
        "valence.texts": 2,
        "valence.tokens": int(answer.headers["x-tokens"]),
    }
    tokenize, queue, inference = sorted(parts, key=lambda span: span.start_time_unix_nano)
    assert [tokenize.name, queue.name, inference.name] == ["tokenize", "queue", "inference"]
    assert {span.trace_id.hex() for span in parts} == {TRACE}
    assert server.start_time_unix_nano <= tokenize.start_time_unix_nano <= tokenize.end_time_unix_nano
    assert tokenize.end_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == inference.start_time_unix_nano
    assert inference.end_time_unix_nano <= server.end_time_unix_nano
    taken_ms = (inference.end_time_unix_nano - inference.start_time_unix_nano) / 1e6
    assert taken_ms == pytest.approx(float(answer.headers["x-inference-time-ms"]), abs=0.01)


@pytest.mark.parametrize(
    ("inputs", "fields", "status", "error_type", "parts"),
    [
        (3, {}, 422, "validation", set()),
        ("good", {"model": "none"}, 404, "not_found", set()),
        ("food poison", {}, 424, "backend", {"tokenize", "queue", "inference"}),
    ],
)
def test_a_failed_request_says_why_and_how_far_it_came(
    traced: Any, collector: Collector, wait: Callable[..., None], inputs: Any, fields: dict[str, str], status: int,
    error_type: str, parts: set[str],
) -> None:  # fmt: skip
    traced.predict(inputs, headers={"x-request-id": error_type}, **fields)
    wait(lambda: len(collector.spans(error_type)) == 1 + len(parts), timeout_s=20)
    server, *below = collector.spans(error_type)
    assert (attributes(server)["http.response.status_code"], attributes(server)["error.type"]) == (status, error_type)
    assert {span.name for span in below} == parts
    assert server.status.code == Status.STATUS_CODE_UNSET  # the fault is the client's or its text's


def test_a_deadline_that_passes_is_an_error_of_ours(traced: Any, collector: Collector, wait: Callable[..., None]) -> None:
    traced.predict("slow", headers={"x-request-id": "late", "x-request-timeout-s": "0.2"})
    wait(lambda: collector.spans("late"), timeout_s=20)
    assert collector.spans("late")[0].status.code == Status.STATUS_CODE_ERROR


@pytest.mark.parametrize("parent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "0" * 600, "\xff" * 10], ids=ascii)
def test_a_parent_that_is_none_starts_a_trace(traced: Any, collector: Collector, wait: Callable[..., None], parent: str) -> None:
    name = f"parent-{parent[:9].encode().hex()}"
    headers = {"x-request-id": name, "traceparent": parent.encode("latin-1"), "tracestate": "a=\xff,,=".encode("latin-1")}
    assert traced.predict("good", headers=headers).status_code == 200
    wait(lambda: collector.spans(name), timeout_s=20)
    assert collector.spans(name)[0].parent_span_id == b""


def test_monitors_leave_no_spans_and_a_stop_exports_what_is_left(traced: Any, collector: Collector) -> None:
    for path in ("/health", "/ready", "/metrics"):
        traced.client.get(path, headers={"x-request-id": "monitor"})
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: traced.predict("good", headers={"x-request-id": f"last {number}"}), range(64)))
    traced.process.send_signal(signal.SIGTERM)
    traced.assert_stopped_cleanly()
    assert all(len(collector.spans(f"last {number}")) == 4 for number in range(64))
    assert collector.spans("monitor") == []


def test_a_collector_saw_both_processes_and_no_text(collector: Collector) -> None:
    resources = [resource.resource for export in collector.exports for resource in export.resource_spans]
    found = [{one.key: one.value for one in resource.attributes} for resource in resources]
    assert {one["service.name"].string_value for one in found} == {"valence"}
    assert len({one["process.pid"].int_value for one in found}) == 2
    assert not any(word in str(export) for export in collector.exports for word in ("food", "poison", "slow"))


def test_a_collector_that_is_gone_is_not_missed(start_server: Callable[..., Any]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        server = start_server("--http-processes", "1", "--otlp-endpoint", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: server.predict("good"), range(600)))
        assert {answer.status_code for answer in answers} == {200}
        server.process.send_signal(signal.SIGTERM)
        server.assert_stopped_cleanly()
    complaints = [line for line in server.lines() if line["logger"].startswith("opentelemetry")]
    assert 1 <= len(complaints) <= 2
    assert {line["level"] for line in complaints} == {"error"}
