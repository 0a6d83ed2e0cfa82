"""A connection over real sockets, with a small application in the place of the edge."""

import asyncio
import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.edge.http import connection as module
from service.edge.http.connection import Connection, respond
from service.shared import Flag

SAFETY_S = 30
LARGE = 20_000_000
GET = b"GET %b HTTP/1.1\r\nhost: test\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nhost: test\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"


class App:
    """Answers with the path. `/early` does not wait for the body, `/slow` takes a moment, `/large` is a large answer."""

    def __init__(self) -> None:
        self.middleware_stack = self
        self.tally = SimpleNamespace(answered=lambda *_: None)
        self.failures: list[BaseException] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.answer(scope, receive, send)
        except BaseException as error:
            self.failures.append(error)
            raise

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        while path != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message["more_body"]:
                break
        if path == "/slow":
            await asyncio.sleep(0.3)
        body = b"a" * LARGE if path == "/large" else path.encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await respond(scope, send, status=413 if path == "/early" else 200, headers=headers, body=body)


class Service:
    """A server in a thread of its own."""

    def __init__(self, *, max_connections: int) -> None:
        self.app, self.draining = App(), Flag()
        http = partial(Connection, max_connections=max_connections, draining=self.draining)
        config = uvicorn.Config(
            self.app,
            http=http,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            loop="uvloop",
            proxy_headers=False,
        )
        self.server = uvicorn.Server(config)
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.listening.getsockname()
        self.thread = threading.Thread(target=self.server.run, args=([self.listening],), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.address[1]}"

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(self.address, timeout=SAFETY_S) as client:
            yield client

    def send(self, *pieces: bytes, pause_s: float = 0.05) -> bytes:
        """All that comes back until the connection ends."""
        with self.connected() as client:
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause_s)
            return read_to_end(client)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(SAFETY_S)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65_536):
        received += piece
    return received


@pytest.fixture
def start() -> Iterator[Callable[..., Service]]:
    """Starts services. At the end none of them has failed inside."""
    running: list[Service] = []

    def start_one(*, max_connections: int = 64) -> Service:
        running.append(Service(max_connections=max_connections))
        return running[-1]

    yield start_one
    for one in running:
        one.stop()
        assert one.app.failures == []


@pytest.fixture
def service(start: Callable[..., Service]) -> Service:
    return start()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a test can wait for."""
    for name, seconds in {"HEAD_S": 0.5, "LINGER_S": 2.0, "SILENCE_S": 0.5, "UNREAD_S": 0.5}.items():
        monkeypatch.setattr(module, name, seconds)


# -- a body that is still on its way when its request is answered ----------------------------------------------------------


@pytest.mark.parametrize("size", [2_500_000, 20_000_000, 100_000_000])
def test_a_client_that_writes_first_reads_its_refusal(service: Service, size: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{service.url}/early", data=b" " * size, timeout=SAFETY_S)
    assert refused.value.code == 413
    assert refused.value.read() == b"/early"
    refused.value.close()


@pytest.mark.parametrize("size", [2_500_000, 100_000_000])
def test_a_client_that_keeps_its_connection_reads_its_refusal_and_goes_on(service: Service, size: int) -> None:
    client = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=SAFETY_S)
    for path, status in (("/early", 413), ("/next", 200)):
        client.request("POST", path, body=b" " * size if path == "/early" else b"")
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (status, path.encode())
    client.close()


def test_a_chunked_body_is_dropped_too(service: Service) -> None:
    pieces = [b"10000\r\n" + b" " * 65_536 + b"\r\n"] * 100
    with service.connected() as client:
        client.sendall(CHUNKED % b"/early" + b"".join(pieces) + b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
        client.sendall(GET % b"/next")
        assert client.recv(4096).endswith(b"/next")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("head", [b"", b"connection: close\r\n"])
@pytest.mark.parametrize(("sent", "ends_s"), [(b" ", 2.0), (b"", 0.5)], ids=["never stops", "falls silent"])
def test_a_client_that_does_not_end_its_body_is_cut_off(service: Service, head: bytes, sent: bytes, ends_s: float) -> None:
    with service.connected() as client:
        begun_at = time.monotonic()
        client.sendall(POST % b"/early" + head + b"content-length: 100000000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")
        while service.server.server_state.connections:
            with suppress(ConnectionError):
                client.send(sent)
            time.sleep(0.05)
    assert ends_s - 0.1 < time.monotonic() - begun_at < ends_s + 5


def test_a_client_that_waits_for_leave_to_send_is_told_that_the_connection_ends(service: Service) -> None:
    answer = service.send(POST % b"/early" + b"expect: 100-continue\r\ncontent-length: 9000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close\r\n" in answer


def test_what_follows_a_refused_head_is_dropped_up_to_a_bound(service: Service) -> None:
    with service.connected() as client:
        client.sendall(b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 431")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            client.sendall(b"a" * 100_000_000)


# -- one request behind another -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        b"no HTTP\r\n\r\n",
        CHUNKED % b"/b" + b"xyz\r\n",
        POST % b"/b" + b"content-length: abc\r\n\r\n",
        POST % b"/b" + b"x: " + b"a" * 40_000,
    ],
    ids=["no head", "a broken chunk", "a broken length", "too large"],
)
@pytest.mark.parametrize("pause_s", [0.03, 0.1], ids=["soon", "later"])  # a piece of its own: the parser hides its begin
def test_a_broken_request_behind_another_is_answered_in_its_turn(service: Service, broken: bytes, pause_s: float) -> None:
    received = service.send(GET % b"/slow", broken, pause_s=pause_s)
    assert statuses(received) == [200, 431 if len(broken) > 40_000 else 400]
    assert received.index(b"/slow") < received.index(b'"error"')


def test_every_answer_that_is_due_comes_before_the_refusal(service: Service) -> None:
    received = service.send(GET % b"/slow" + GET % b"/a" + GET % b"/b" + CHUNKED % b"/c" + b"xyz\r\n")
    assert statuses(received) == [200, 200, 200, 400]


def test_a_request_that_breaks_off_while_it_is_read_is_refused_once(service: Service) -> None:
    received = service.send(CHUNKED % b"/a" + b"1\r\na\r\n", b"xyz\r\n")
    assert statuses(received) == [400]


# -- clients that do not read -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("requests", [1, 3])
def test_a_client_that_reads_nothing_is_cut_off(service: Service, requests: int) -> None:
    with service.connected() as client:
        client.sendall(GET % b"/large" * requests)
        time.sleep(2)
        assert not service.server.server_state.connections


@pytest.mark.usefixtures("short")
def test_a_client_that_reads_slowly_is_not_cut_off(service: Service) -> None:
    with service.connected() as client:
        client.sendall(GET % b"/large")
        received = 0
        while received < LARGE:
            received += len(client.recv(1_000_000))
            time.sleep(0.1)


def test_a_client_that_leaves_its_pipeline_writes_no_stack(service: Service) -> None:
    with service.connected() as client:
        client.sendall(GET % b"/slow" + GET % b"/a")
        time.sleep(0.1)
    time.sleep(0.5)


# -- more connections than the limit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", GET % b"/a", POST % b"/a" + b"content-length: 1000000\r\n\r\n" + b" " * 1_000_000])
def test_a_connection_over_the_limit_is_told(start: Callable[..., Service], sent: bytes) -> None:
    service = start(max_connections=1)
    with service.connected() as held:
        held.sendall(GET % b"/a")
        assert held.recv(4096).endswith(b"/a")
        for _ in range(5):
            assert service.send(sent).startswith(b"HTTP/1.1 429")


# -- the service stops --------------------------------------------------------------------------------------------------------


def test_every_answer_of_a_drain_is_the_last_of_its_connection(service: Service) -> None:
    with service.connected() as idle, service.connected() as busy, service.connected() as piped:
        idle.sendall(GET % b"/a")
        assert b"connection: close" not in idle.recv(4096)
        busy.sendall(GET % b"/slow")
        piped.sendall(GET % b"/slow" + GET % b"/b")
        time.sleep(0.1)
        service.draining.set()
        idle.sendall(GET % b"/late")
        for client, answers in ((idle, 1), (busy, 1), (piped, 2)):
            received = read_to_end(client)
            assert received.count(b"HTTP/1.1 200") == answers
            assert received.count(b"connection: close\r\n") == 1


@pytest.mark.parametrize("begun", [b"", b"GET /slow HTT", POST % b"/slow" + b"content-length: 1\r\n\r\n"])
def test_what_comes_while_the_service_stops_is_answered(service: Service, begun: bytes) -> None:
    rest = GET % b"/slow" if not begun else (GET % b"/slow")[len(begun) :] if begun.startswith(b"GET") else b" "
    with service.connected() as client:
        client.sendall(begun)
        time.sleep(0.1)
        service.draining.set()
        service.server.should_exit = True
        time.sleep(0.25)
        client.sendall(rest)
        received = read_to_end(client)
    assert received.startswith(b"HTTP/1.1 200")
    assert b"connection: close\r\n" in received


def test_an_idle_connection_ends_with_the_service(service: Service) -> None:
    with service.connected() as client:
        client.sendall(GET % b"/a")
        client.recv(4096)
        service.draining.set()
        service.server.should_exit = True
        assert read_to_end(client) == b""
    service.thread.join(SAFETY_S)
    assert not service.thread.is_alive()
