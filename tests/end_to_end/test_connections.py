"""How many connections a process takes, and how long it keeps one."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
import pytest

from service.supervisor.server import files_of

LIMIT = 8
SAFETY_S = 60
GET = b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nhost: test\r\n"


@pytest.fixture(scope="module")
def bounded(start_server: Callable[..., Any]) -> Any:
    return start_server(
        "--http-processes", "1", "--max-connections", str(LIMIT), "--keep-alive-s", "1", "--payload-limit", "100000"
    )


@contextmanager
def connected(server: Any) -> Iterator[socket.socket]:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


def ask(connection: socket.socket) -> bytes:
    connection.sendall(GET)
    return one_answer(connection)


def one_answer(connection: socket.socket) -> bytes:
    """One whole answer, which may come in pieces."""
    answer = b""
    while not answer.endswith(b"}"):
        answer += connection.recv(4096)
    return answer


def test_a_connection_over_the_limit_is_429_and_the_others_go_on(bounded: Any, wait: Callable[..., None]) -> None:
    wait(bounded.is_ready, timeout_s=SAFETY_S)
    time.sleep(1.5)  # connections of the start are idle, and closed by now
    with ExitStack() as stack:
        held = [stack.enter_context(connected(bounded)) for _ in range(LIMIT)]
        for connection in held:
            assert ask(connection).startswith(b"HTTP/1.1 200")
        with connected(bounded) as refused:
            answer = read_to_end(refused)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1\r\n" in answer
        assert b"more than 8 connections" in answer
        for connection in held:
            assert ask(connection).startswith(b"HTTP/1.1 200")
    wait(bounded.is_ready, timeout_s=SAFETY_S)


@pytest.mark.parametrize(
    "sent",
    [
        [GET],
        [POST + b"content-length: 200000\r\n\r\n"],
        [POST + b"content-length: 150000\r\n\r\n" + b" " * 140_000, b" " * 10_000],
    ],
    ids=["answered", "refused, its body never comes", "refused, its body comes later"],
)
def test_an_idle_connection_is_closed(bounded: Any, sent: list[bytes]) -> None:
    with connected(bounded) as connection:
        for piece in sent:
            connection.sendall(piece)
            time.sleep(0.3)
        connection.settimeout(8)  # less than the 10 s for which a body is dropped
        assert read_to_end(connection).count(b"HTTP/1.1") == 1


def test_after_a_refused_body_the_connection_goes_on(bounded: Any) -> None:
    with connected(bounded) as connection:
        connection.sendall(POST + b"content-length: 100001\r\n\r\n" + b" " * 40_000)
        assert one_answer(connection).startswith(b"HTTP/1.1 413")
        connection.sendall(b" " * 60_001 + GET)
        assert one_answer(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_sends_all_of_a_refused_body_reads_its_answer(bounded: Any) -> None:
    answer = bounded.predict("good " * 2_000_000)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "payload_too_large")
    assert bounded.predict("good").status_code == 200


def test_requests_queued_without_end_are_refused(bounded: Any) -> None:
    slow = b'{"inputs": "slow"}'
    with connected(bounded) as connection:
        connection.sendall(POST + b"content-length: %d\r\n\r\n" % len(slow) + slow + GET * 3000)
        with suppress(ConnectionResetError):  # the service closed with requests unread
            read_to_end(connection)
    assert bounded.metric("valence_failures_total", error_type="overloaded") > 0


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_an_upgrade_is_not_followed(bounded: Any, upgrade: bytes) -> None:
    with connected(bounded) as connection:
        head = b"GET /health HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: " + upgrade
        connection.sendall(head + b"\r\nsec-websocket-key: dGVzdHRlc3R0ZXN0dGVzdA==\r\nsec-websocket-version: 13\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert "upgrade" not in bounded.log.read_text().lower()


def test_every_connection_of_a_burst_over_the_limit_is_told(bounded: Any, wait: Callable[..., None]) -> None:
    """All are taken before the first is answered: there must be a file for each."""
    (process,) = bounded.http_processes()
    _, hard = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (files_of(LIMIT), hard))
    process.suspend()
    with ExitStack() as stack:
        burst = [stack.enter_context(connected(bounded)) for _ in range(1500)]
        process.resume()
        told = [read_to_end(connection).startswith(b"HTTP/1.1 429") for connection in burst[LIMIT:]]
    assert told.count(False) == 0
    wait(bounded.is_ready, timeout_s=SAFETY_S)
