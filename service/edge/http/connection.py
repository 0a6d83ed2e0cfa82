"""One HTTP/1.1 connection: uvicorn's, with bounds that it lacks, and refusals in the form of our errors.

uvicorn bounds neither the size nor the time of a head, or of the trailers after a chunked body. It reads for ever what is left of
a body after its request was answered. It takes any number of connections, and any number of requests behind an unanswered one.
"""

from asyncio import BaseTransport, TimerHandle
from collections.abc import Sequence
from typing import Any, cast

import orjson
from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service import metrics
from service.edge.http import errors
from service.edge.http.errors import ServiceError

# Bytes that may come between two pieces of body: a head, or trailers.
HEAD_BYTES = 32_768
# How long a head may take, and how long the rest of a body is read and dropped after its request was answered.
HEAD_S = 10.0
# How many bytes of such a rest are dropped. If more come, the connection is closed after LINGER_S: closing it at once might lose
# the answer.
DROPPED_BYTES = 1_048_576
LINGER_S = 1.0
# Requests behind one that is not answered yet.
MAX_PIPELINED = 1000
# The key of uvicorn's own state of a request in the request's scope. Using it instead of ASGI's messages saves a tenth of a
# request's time: uvicorn looks at each header that it sends, and waiting for a message needs a timer.
CYCLE = "valence.cycle"
# The key of the body in the scope, once all of it has come.
BODY = "valence.body"


class Connection(HttpToolsProtocol):
    """A connection of one HTTP process; `uvicorn.Config(http=...)` takes this class with its limit bound."""

    def __init__(self, *arguments: Any, max_connections: int, **named: Any) -> None:
        """`max_connections`: of this process. One more is answered 429 and closed."""
        super().__init__(*arguments, **named)
        self.max_connections = max_connections
        # The edge, without FastAPI's and Starlette's layers around it: FastAPI looks for telemetry at each request.
        self.app = self.app.middleware_stack
        self._in_body = False
        self._bytes_without_body = 0
        self._dropped_bytes = 0
        self._timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) > self.max_connections:
            self._refuse(errors.too_many_connections(self.max_connections))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._bytes_without_body > HEAD_BYTES:
            self._refuse(errors.head_too_large(HEAD_BYTES))
        elif self._bytes_without_body and not self._in_body and self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._stop_timer()
        # only then, by the head's own size: the piece that completed the head may hold other requests
        if self._bytes_without_body > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._refuse(errors.head_too_large(HEAD_BYTES))
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(errors.too_many_pipelined(MAX_PIPELINED))
        if not self.transport.is_closing():
            super().on_headers_complete()
            cast(dict[str, Any], self.scope)[CYCLE] = self.cycle

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        if self.transport.is_closing():
            return
        super().on_body(body)
        if self.cycle.response_complete:
            self._drop(len(body))

    def on_message_complete(self) -> None:
        self._in_body = False
        self._bytes_without_body = 0
        self._dropped_bytes = 0
        self._stop_timer()
        if self.transport.is_closing():
            return
        super().on_message_complete()
        cast(dict[str, Any], self.scope)[BODY] = self.cycle.body
        if self.cycle.response_complete:  # answered before its body had come, which ended uvicorn's wait for another
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(errors.not_http())

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: a client may ask for HTTP/2 or a WebSocket, and gets HTTP/1.1."""

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._end_slow_head)

    def _end_slow_head(self) -> None:
        if self._bytes_without_body:
            self._refuse(errors.head_too_slow(HEAD_S))
        self.transport.close()

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > DROPPED_BYTES and not self.flow.read_paused:
            self.flow.pause_reading()
            self.loop.call_later(LINGER_S, self.transport.close)

    def _refuse(self, error: ServiceError) -> None:
        """Closes the connection. The client is told why, unless it could take that for the answer to another request."""
        if self.transport.is_closing():
            return
        metrics.FAILURES.labels(error.error_type).inc()
        if self._may_answer():
            self.app.tally.answered("other", "", error.status)
            body = orjson.dumps({"error": error.message, "error_type": error.error_type})
            head = [STATUS_LINE[error.status], *(b"%b: %b\r\n" % header for header in self.server_state.default_headers)]
            if error.retry_after_s is not None:
                head.append(b"retry-after: %d\r\n" % error.retry_after_s)
            head.append(b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
            self.transport.write(b"".join(head) + body)
        self.transport.close()

    def _may_answer(self) -> bool:
        """Whether no answer to an earlier request is due, and none has begun."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def respond(
    scope: Scope, send: Send, *, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, last: bool = False
) -> None:
    """Sends a whole answer. Where it is the `last` of its connection, the connection ends with it.

    Headers are not checked. Where one repeats a client's value, that value has passed the parser, which refuses control
    characters."""
    cycle: RequestResponseCycle | None = scope.get(CYCLE)
    if cycle is None:  # not our connection
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.keep_alive = cycle.keep_alive and not last
    parts = [STATUS_LINE[status]]
    for header in (*cycle.default_headers, *headers):
        parts.append(b"%b: %b\r\n" % header)
    parts.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    if scope["method"] != "HEAD":
        parts.append(body)
    cycle.transport.write(b"".join(parts))
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
