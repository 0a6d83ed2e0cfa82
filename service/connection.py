"""One HTTP/1.1 connection: uvicorn's, with bounds that it lacks, and its refusals in the contract's shape.

uvicorn reads a head, or the trailers after a chunked body, of any size for any time, and the rest of a body whose request it has
answered for ever.
"""

from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Bytes that may come between two pieces of body: a head, or trailers.
HEAD_BYTES = 32_768
# Time that a head may take, and that the rest of an answered request's body is read and dropped.
HEAD_S = 10.0


class Connection(HttpToolsProtocol):
    """What `uvicorn.Config(http=...)` takes."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._in_head = True
        self._bytes_without_body = 0
        self._timer: TimerHandle | None = None
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_without_body += len(data)
        super().data_received(data)
        if self._bytes_without_body > HEAD_BYTES:
            self._refuse_head()
        elif self._in_head and self._timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        # only then: the piece that completed a head may hold other requests
        if self._bytes_without_body > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._refuse_head()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes_without_body = 0
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_without_body = 0
        self._stop_timer()
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:
            self._timer = self.loop.call_later(HEAD_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "validation", "not a valid HTTP/1.1 request")

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._end_slow_head)

    def _end_slow_head(self) -> None:
        if self._bytes_without_body:
            self._refuse(408, "timeout", f"the request's head did not come within {HEAD_S:g} s")
        self.transport.close()

    def _refuse_head(self) -> None:
        self._refuse(431, "validation", f"the request's head is larger than the limit of {HEAD_BYTES} bytes")

    def _refuse(self, status: int, error_type: str, message: str) -> None:
        """The last words on this connection, where they can't be taken for another request's answer."""
        if self.transport.is_closing():
            return
        if self._may_answer():
            body = orjson.dumps({"error": message, "error_type": error_type})
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _may_answer(self) -> bool:
        """No answer to an earlier request is due, and none has begun."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
