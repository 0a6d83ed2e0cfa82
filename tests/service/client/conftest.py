"""A small HTTP server that answers by a script, and one function that calls either client."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from service.client import AsyncClient, Client


@dataclass(frozen=True)
class Scripted:
    """An answer of the script. `status` 0: the connection is closed without an answer. `after_s`: how long the answer takes."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    after_s: float = 0.0


@dataclass
class Seen:
    """A request as it came."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: Any


class Server(ThreadingHTTPServer):
    """A client that gives up before it is answered, as some of the tests' do, is no fault of the server's: no stack for it."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ScriptedService:
    """Answers each request with the next answer of `script`, then requests with scores: the label is the text itself."""

    def __init__(self, script: Sequence[Scripted] = ()) -> None:
        self.script = list(script)
        self.seen: list[Seen] = []
        self.connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.http = Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Takes a request and gives the next answer."""
        content = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        body = json.loads(content) if content else None
        with self.lock:
            headers = {name.lower(): value for name, value in handler.headers.items()}
            self.seen.append(Seen(time.monotonic(), handler.path, headers, body))
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            scripted = self.script.pop(0) if self.script else Scripted(200, after_s=self.delay_s())
        self.closing.wait(scripted.after_s)
        with self.lock:
            self.in_flight -= 1
        self._write(handler, scripted, body)

    def _write(self, handler: BaseHTTPRequestHandler, scripted: Scripted, body: Any) -> None:
        if scripted.status == 0:
            handler.close_connection = True
            return
        if scripted.body is not None:
            said = scripted.body
        elif scripted.status == 200:
            said = json.dumps([[{"label": text, "score": 1.0}] for text in body["inputs"]] if body else {}).encode()
        else:
            said = json.dumps({"error": f"said {scripted.status}", "error_type": f"type-{scripted.status}"}).encode()
        handler.send_response(scripted.status)
        for name, value in {"content-length": str(len(said)), "x-request-id": "id-1", **scripted.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(said)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                service.connections += 1
                super().setup()

            def do_POST(self) -> None:
                service.answer(self)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


@pytest.fixture
def service() -> Iterator[Callable[..., ScriptedService]]:
    """Starts services with a script."""
    running: list[ScriptedService] = []

    def start(*script: Scripted) -> ScriptedService:
        running.append(ScriptedService(script))
        return running[-1]

    yield start
    for one in running:
        one.close()


def call_once(url: str, method: str, *arguments: Any, client: Mapping[str, Any], **options: Any) -> Any:
    with Client(url, **client) as one:
        return getattr(one, method)(*arguments, **options)


async def call_async(url: str, method: str, *arguments: Any, client: Mapping[str, Any], **options: Any) -> Any:
    async with AsyncClient(url, **client) as one:
        return await getattr(one, method)(*arguments, **options)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`call(url, "predict", "good", client={"api_key": ...})` calls that method of a new client."""

    def made(url: str, method: str, *arguments: Any, client: Mapping[str, Any] | None = None, **options: Any) -> Any:
        if request.param == "sync":
            return call_once(url, method, *arguments, client=client or {}, **options)
        return asyncio.run(call_async(url, method, *arguments, client=client or {}, **options))

    return made
