"""One HTTP/1.1 connection: uvicorn's, with bounds that it lacks, and refusals in the form of our errors.

uvicorn bounds neither the size nor the time of a head, or of the trailers after a chunked body. It reads for ever what is left of
a body after its request was answered. It takes any number of connections, and any number of requests behind an unanswered one. It
waits for ever for a client that does not read its answer.
"""

import math
from asyncio import BaseTransport, TimerHandle
from collections.abc import Sequence
from typing import Any, cast

import orjson
from starlette.types import Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service import metrics
from service.edge.http import errors
from service.edge.http.errors import ServiceError
from service.shared import Flag

# Bytes that may come between two pieces of body: a head, or trailers.
HEAD_BYTES = 32_768
# How long a head may take.
HEAD_S = 10.0
# A client may send all of a body before it reads that the request was refused, as requests and urllib do. So what comes after
# an answer is read and dropped, for so long in all and for so long without a byte; closing at once would lose the answer.
LINGER_S = 30.0
SILENCE_S = 5.0
# After a request that is no HTTP, or whose head is too large, so many bytes are dropped at most.
DROPPED_BYTES = 16_777_216
# So many connections over the limit are read in this way at a time.
LINGERING = 1024
# A client that takes no byte of its answer for so long is cut off.
UNREAD_S = 30.0
# When the service stops, an idle connection is closed once nothing has come on it for so long.
QUIET_S = 0.5
# Requests behind one that is not answered yet.
MAX_PIPELINED = 1000
# The key of the connection in a request's scope. Using it instead of ASGI's messages saves a tenth of a request's time: uvicorn
# looks at each header that it sends, and waiting for a message needs a timer.
CONNECTION = "valence.connection"
# The key of the body in the scope, once all of it has come.
BODY = "valence.body"


class Connection(HttpToolsProtocol):
    """A connection of one HTTP process; `uvicorn.Config(http=...)` takes this class with its limit and flag bound.

    `running`: the request that is being answered, or was last. `cycle`, uvicorn's, is the one that is being read, or was last."""

    running: RequestResponseCycle | None = None

    def __init__(self, *arguments: Any, max_connections: int, draining: Flag, **named: Any) -> None:
        """`max_connections`: of this process. One more is answered 429 and closed. `draining`: every answer is the last."""
        super().__init__(*arguments, **named)
        self.max_connections = max_connections
        self.draining = draining
        # The edge, without FastAPI's and Starlette's layers around it: FastAPI looks for telemetry at each request.
        self.app = self.app.middleware_stack
        self._in_body = False
        self._bytes_without_body = 0
        self._timer: TimerHandle | None = None
        # True once no further request is read: what comes is dropped.
        self._is_deaf = False
        self._dropped_bytes = 0
        self._may_drop = math.inf
        self._heard_at = 0.0
        self._refusal: ServiceError | None = None  # said after the answers to earlier requests
        self._unread_bytes = 0
        self._unread_timer: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.transport.set_write_buffer_limits(0)  # so that `pause_writing` is called for every byte that is not taken
        if len(self.connections) > self.max_connections:
            self._refuse(errors.too_many_connections(self.max_connections))
            if len(self.connections) > self.max_connections + LINGERING:
                self.transport.close()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        if self.running is not None:  # uvicorn tells the newest request alone
            self.running.disconnected = True
            self.running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            self._drop(len(data))
            return
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._bytes_without_body > HEAD_BYTES:
            self._refuse(errors.head_too_large(HEAD_BYTES))
        elif self._bytes_without_body and not self._in_body and self._timer is None and not self._is_deaf:
            self._await_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        # only then, by the head's own size: the piece that completed the head may hold other requests
        if self._bytes_without_body > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._refuse(errors.head_too_large(HEAD_BYTES))
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(errors.too_many_pipelined(MAX_PIPELINED))
        if not self._is_deaf and not self.transport.is_closing():
            super().on_headers_complete()
            self._in_body = True
            cast(dict[str, Any], self.scope)[CONNECTION] = self

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        if self._is_deaf or self.transport.is_closing():
            return
        super().on_body(body)
        if self.cycle.response_complete:
            self._heard_at = self.loop.time()

    def on_message_complete(self) -> None:
        if self._is_deaf or self.transport.is_closing():
            return
        self._in_body = False
        self._bytes_without_body = 0
        self._stop_timer()
        super().on_message_complete()
        cast(dict[str, Any], self.scope)[BODY] = self.cycle.body
        if self.cycle.response_complete:  # answered before its body had come, which ended uvicorn's wait for another
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        if self._is_deaf and not self.pipeline:
            self._say_refusal()
            return
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._linger()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def end(self) -> None:
        """Has the last answer close the connection, but only after a client that is still sending has read it."""
        if self.running is not None and self.running.more_body:
            self._is_deaf = True
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """Called when the service stops: closes the connection once all is answered and nothing has come for a moment."""
        if self._is_answered():
            self.loop.call_later(QUIET_S, self._close_if_quiet, self.cycle)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._unread_timer = self.loop.call_later(UNREAD_S, self._check_reading)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

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
        else:
            self.transport.close()

    def _is_answered(self) -> bool:
        return self.running is None or self.running.disconnected or (self.running.response_complete and not self.pipeline)

    def _close_if_quiet(self, newest: RequestResponseCycle | None) -> None:
        if self._in_body or self._bytes_without_body:
            self.shutdown()
        elif self.cycle is newest:
            self.transport.close()

    def _check_reading(self) -> None:
        if self not in self.connections:  # it has ended
            return
        left = self.transport.get_write_buffer_size()
        if left >= self._unread_bytes:
            self.transport.abort()
        else:
            self._unread_bytes = left
            self._unread_timer = self.loop.call_later(UNREAD_S, self._check_reading)

    def _refuse(self, error: ServiceError) -> None:
        """Reads no further request, and closes the connection. The client is told why, after the answers to earlier requests."""
        if self._is_deaf or self.transport.is_closing():
            return
        metrics.FAILURES.labels(error.error_type).inc()
        self._is_deaf, self._refusal, self._may_drop = True, error, DROPPED_BYTES
        self._stop_timer()
        if self._in_body and self.cycle is not self.running:
            self.pipeline.popleft()  # the refusal is the answer to this request
        elif self._in_body and self.cycle.response_complete:
            self._refusal = None
        elif self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self._is_answered():
            self._say_refusal()

    def _say_refusal(self) -> None:
        error, self._refusal = self._refusal, None
        if self.transport.is_closing():
            return
        if error is not None:
            self.app.tally.answered("other", "", error.status)
            body = orjson.dumps({"error": error.message, "error_type": error.error_type})
            head = [STATUS_LINE[error.status], *(b"%b: %b\r\n" % header for header in self.server_state.default_headers)]
            if error.retry_after_s is not None:
                head.append(b"retry-after: %d\r\n" % error.retry_after_s)
            head.append(b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
            self.transport.write(b"".join(head) + body)
        self._end_writing()

    def _end_writing(self) -> None:
        """The client reads all that was written, and that nothing follows. It is heard, but not understood, until it closes."""
        self.transport.write_eof()
        self.flow.resume_reading()
        self._linger()

    def _linger(self) -> None:
        self._stop_timer()
        self._heard_at = self.loop.time()
        self._end_silence(self._heard_at + LINGER_S)

    def _end_silence(self, ends_at: float) -> None:
        """Closes the connection at `ends_at`, or earlier where nothing is heard."""
        now, silent_at = self.loop.time(), self._heard_at + SILENCE_S
        if now >= min(ends_at, silent_at):
            self.transport.close()
        else:
            self._timer = self.loop.call_at(min(ends_at, silent_at), self._end_silence, ends_at)

    def _drop(self, size: int) -> None:
        self._heard_at = self.loop.time()
        self._dropped_bytes += size
        if self._dropped_bytes > self._may_drop:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def is_gone(scope: Scope) -> bool:
    """Whether the client of a request has closed its connection, as far as is known."""
    connection: Connection | None = scope.get(CONNECTION)
    return connection is not None and connection.transport.is_closing()


async def respond(scope: Scope, send: Send, *, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
    """Sends a whole answer.

    Headers are not checked. Where one repeats a client's value, that value has passed the parser, which refuses control
    characters."""
    connection: Connection | None = scope.get(CONNECTION)
    if connection is None:  # not our connection
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    cycle = cast(RequestResponseCycle, connection.running)
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected or cycle.transport.is_closing():
        return
    if (connection.draining and not connection.pipeline) or (cycle.more_body and cycle.waiting_for_100_continue):
        cycle.keep_alive = False
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
        connection.end()
    cycle.on_response()
