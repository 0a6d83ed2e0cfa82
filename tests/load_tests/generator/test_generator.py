"""The generator against a server of the test's own that speaks just enough HTTP."""

import asyncio
import json
import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from load_tests.generator.__main__ import parser
from load_tests.generator.connection import Response
from load_tests.generator.load import Load, measure, render_requests, shares
from load_tests.generator.pace import OpenLoop
from load_tests.generator.report import Recorded, Report, percentile, summed
from load_tests.texts import user_texts

TEXTS = user_texts(64)
RESULT = [{"label": "positive", "score": 0.9}, {"label": "negative", "score": 0.1}]
Respond = Callable[["Server"], tuple[int, object]]


def scores(server: "Server") -> tuple[int, object]:
    """What a classifier answers to the last body."""
    inputs: Any = server.bodies[-1]["inputs"]
    return 200, RESULT if isinstance(inputs, str) else [RESULT] * len(inputs)


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


@dataclass
class Server:
    """Answers by `respond`, and remembers what it was sent."""

    respond: Respond = scores
    delay_s: float = 0.001
    close_after_each: bool = False
    chunk_bytes: int = 0
    connections: int = 0
    bodies: list[dict[str, object]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().split("content-length:")[1].split("\r\n")[0])
                self.heads.append(head)
                self.bodies.append(json.loads(await reader.readexactly(length)))
                await asyncio.sleep(self.delay_s)
                status, content = self.respond(self)
                body = json.dumps(content).encode()
                connection = "close" if self.close_after_each else "keep-alive"
                length_header = "Transfer-Encoding: chunked" if self.chunk_bytes else f"content-length: {len(body)}"
                answer = f"HTTP/1.1 {status} X\r\n{length_header}\r\nConnection: {connection}\r\n\r\n".encode()
                writer.write(answer[:20])  # a head may come in two pieces
                await writer.drain()
                writer.write(answer[20:] + (chunked(body, self.chunk_bytes) if self.chunk_bytes else body))
                if self.close_after_each:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def against(server: Server, **fields: object) -> Report:
    listening = await asyncio.start_server(server.serve_connection, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = {"connections": 4, "seconds": 0.4, "warmup_s": 0.1, "drain_s": 2.0, **fields}
    try:
        load = Load(url=f"http://127.0.0.1:{port}/predict", **settings)  # type: ignore[arg-type]
        return summed([await measure(load, TEXTS)], texts_per_request=load.texts_per_request)
    finally:
        listening.close()
        await listening.wait_closed()


def run(server: Server, **fields: object) -> Report:
    return asyncio.run(against(server, **fields))


def test_every_good_response_within_the_measured_time_is_counted() -> None:
    server = Server()
    report = run(server, warmup_s=0.0)
    assert not report.errors
    # Those in flight when the time is up are answered and not counted, at most one a connection.
    assert len(server.bodies) - 4 <= report.requests <= len(server.bodies)
    assert 0 < report.p50_ms <= report.p90_ms <= report.p99_ms <= report.p999_ms <= report.max_ms
    assert report.requests_per_s == pytest.approx(report.texts_per_s)


def test_warm_up_is_not_counted() -> None:
    server = Server()
    report = run(server, seconds=0.3, warmup_s=0.5)
    assert 0 < report.requests < len(server.bodies) - 4


def test_connections_are_kept_alive() -> None:
    server = Server()
    run(server, connections=3)
    assert server.connections == 3
    assert len(server.bodies) > 3


def test_a_connection_that_the_server_closes_after_its_answer_is_no_error() -> None:
    server = Server(close_after_each=True)
    report = run(server)
    assert report.requests > 0
    assert not report.errors
    assert server.connections > 4


def test_a_request_holds_the_texts_the_model_and_the_host() -> None:
    server = Server()
    run(server, model="sentiment-lstm")
    assert server.bodies[0] == {"inputs": TEXTS[0], "model": "sentiment-lstm"}
    assert server.heads[0].startswith("POST /predict HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_body_has_the_form_that_is_asked_for() -> None:
    load = Load(url="", texts_field="input", always_list=True, extra_fields={"model": "any", "raw": False})
    assert json.loads(load.body(["fine"])) == {"input": ["fine"], "model": "any", "raw": False}


def test_the_command_line_takes_every_field_of_a_load() -> None:
    options = parser().parse_args(["--extra-fields", '{"model": "any"}', "--always-list", "--texts-field", "input"])
    assert {field.name for field in fields(Load)} <= set(vars(options))
    assert options.extra_fields == {"model": "any"}


def test_results_are_counted_by_the_mark() -> None:
    answer = {"data": [{"probs": [0.9, 0.1]}] * 8}
    server = Server(respond=lambda _: (200, answer))
    assert not run(server, texts_per_request=8, result_mark='"probs"').errors
    assert set(run(server, texts_per_request=8, result_mark='"score"').errors) == {"wrong shape"}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 4096])
def test_a_chunked_response_is_read(chunk_bytes: int) -> None:
    report = run(Server(chunk_bytes=chunk_bytes), texts_per_request=8)
    assert report.requests > 0
    assert not report.errors


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_a_chunked_response_may_come_in_any_pieces(size: int) -> None:
    """With an extension of a chunk and a trailer, which both are left out."""
    sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nab\r\nc\r\n2\r\nde\r\n0\r\nExpires: 0\r\n\r\n"
    response = Response()
    complete = [response.feed(sent[start : start + size]) for start in range(0, len(sent), size)]
    assert complete == [False] * (len(complete) - 1) + [True]
    assert response.status == b"200"
    assert response.count(b"ab\r\ncde") == 1
    assert response.count(b"Expires") == 0


def test_a_response_whose_length_is_not_said_is_refused() -> None:
    with pytest.raises(ValueError, match="neither content-length nor chunked"):
        Response().feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_batch_counts_its_texts() -> None:
    server = Server()
    report = run(server, texts_per_request=32)
    assert server.bodies[0]["inputs"] == TEXTS[:32]
    assert server.bodies[1]["inputs"] == TEXTS[32:]
    assert report.texts_per_s == pytest.approx(32 * report.requests_per_s)


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (lambda _: (429, {"error": "busy", "error_type": "overloaded"}), "status 429"),
        (lambda _: (500, RESULT), "status 500"),
        (lambda _: (200, {"scores": 0.5}), "wrong shape"),
        (lambda _: (200, []), "wrong shape"),
    ],
)
def test_what_is_not_an_answer_is_an_error_and_has_no_latency(respond: Respond, error: str) -> None:
    report = run(Server(respond=respond))
    assert set(report.errors) == {error}
    assert report.errors[error] > 0
    assert report.requests == 0
    assert math.isnan(report.p50_ms)


def test_a_batch_with_a_result_missing_is_an_error() -> None:
    one_label = [{"label": "positive", "score": 0.9}]
    report = run(Server(respond=lambda _: (200, [one_label] * 7)), texts_per_request=8)
    assert set(report.errors) == {"wrong shape"}


def test_a_server_that_drops_the_connection_is_an_error() -> None:
    def drop(server: Server) -> tuple[int, object]:
        raise ConnectionResetError

    report = run(Server(respond=drop))
    assert set(report.errors) == {"connection lost"}


def test_a_request_that_is_never_answered_is_an_error() -> None:
    report = run(Server(delay_s=60.0), connections=2, drain_s=0.1)
    assert report.errors == {"unanswered": 2}


def test_a_server_that_is_not_there_is_an_error() -> None:
    report = asyncio.run(measure(Load(url="http://127.0.0.1:9/predict", connections=2, seconds=0.2, warmup_s=0.0), TEXTS))
    assert set(report.errors) == {"connect failed"}


def test_an_open_loop_sends_at_its_rate() -> None:
    server = Server(delay_s=0.0)
    report = run(server, rate=50.0, seconds=1.0)
    assert report.requests_per_s == pytest.approx(50.0, rel=0.3)
    assert not report.errors


def test_gaps_of_an_open_loop_are_exponential() -> None:
    """Mean and standard deviation are both 1 / rate; the standard error of either is 1% of that here."""
    loop = OpenLoop(20.0)
    gaps_s = [loop.gap_s() for _ in range(10_000)]
    assert statistics.mean(gaps_s) == pytest.approx(0.05, rel=0.04)
    assert statistics.stdev(gaps_s) == pytest.approx(0.05, rel=0.04)


def test_a_seed_determines_the_gaps() -> None:
    first, again, other = OpenLoop(20.0, seed=1), OpenLoop(20.0, seed=1), OpenLoop(20.0, seed=2)
    gaps_s = [first.gap_s() for _ in range(5)]
    assert gaps_s == [again.gap_s() for _ in range(5)]
    assert gaps_s != [other.gap_s() for _ in range(5)]


def test_an_open_loop_counts_the_wait_for_a_free_connection() -> None:
    """One connection serves 20 requests/s of 100/s that fall due: the queue grows, and latency with it."""
    report = run(Server(delay_s=0.05), connections=1, rate=100.0, seconds=1.0, warmup_s=0.0)
    assert report.max_ms > 3 * 50
    assert report.errors["never sent"] > 20


def test_processes_share_connections_and_rate() -> None:
    parts = shares(Load(url="", connections=10, rate=90.0, processes=3))
    assert [part.connections for part in parts] == [4, 3, 3]
    assert [part.rate for part in parts] == [30.0] * 3
    assert len({part.seed for part in parts}) == 3


def test_no_process_goes_without_a_connection() -> None:
    assert [part.connections for part in shares(Load(url="", connections=2, processes=4))] == [1, 1]


def test_what_processes_found_is_summed() -> None:
    parts = [
        Recorded(array("d", [0.001] * 90), Counter({"status 500": 1}), seconds=1.0, cpu_s=0.2),
        Recorded(array("d", [0.003] * 10), Counter({"status 500": 2}), seconds=2.0, cpu_s=1.6),
    ]
    report = summed(parts, texts_per_request=4)
    assert (report.requests, report.errors, report.requests_per_s, report.texts_per_s) == (100, {"status 500": 3}, 95.0, 380.0)
    assert (report.p50_ms, report.p99_ms, report.generator_cpu) == (1.0, 3.0, 0.8)


def test_too_few_texts_for_one_request_are_refused() -> None:
    with pytest.raises(ValueError, match="3 texts do not fill one request of 32"):
        render_requests(Load(url="http://127.0.0.1/predict", texts_per_request=32), ["a", "b", "c"])


def test_a_url_that_is_not_plain_http_is_refused() -> None:
    with pytest.raises(ValueError, match="must be http://"):
        asyncio.run(measure(Load(url="https://127.0.0.1/predict"), TEXTS))


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 5.0), (0.9, 9.0), (0.99, 10.0), (1.0, 10.0)])
def test_percentiles_are_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 11)], share) == expected
