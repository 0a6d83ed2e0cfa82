"""The body of a request: all of it, within a limit of bytes and of time."""

import asyncio
from dataclasses import dataclass, field

from service.edge.http import compression, errors
from service.edge.http.call import Call, ClientGone
from service.edge.http.connection import BODY
from service.edge.http.errors import ServiceError

# So many bodies of the largest size may be on their way into one process at a time.
MOST_BODIES = 64
# A body must come within so long, and a second more for so many bytes of it that have come.
PATIENCE_S = 5.0
LEAST_BYTES_PER_S = 1000


@dataclass(eq=False, slots=True)
class UnderWay:
    """A body that has not come whole. `failure`: why it is given up."""

    content: bytearray = field(default_factory=bytearray)
    time: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    failure: ServiceError | None = None


class BodyReader:
    """Reads the bodies of one HTTP process, and bounds the memory of all that are on their way."""

    def __init__(self, *, limit: int) -> None:
        """`limit`: bytes of one body, once it is decompressed."""
        self.limit = limit
        self._under_way: dict[UnderWay, None] = {}  # the oldest first
        self._bytes = 0

    async def read(self, call: Call) -> bytes:
        """The whole body, decompressed.

        ServiceError 413 as soon as it is known to be too large, 415 for an unknown encoding, 408 if it comes too slowly, 504 if
        it does not come within the request's time, 429 if too many bodies are on their way and it is the oldest."""
        encoding = call.headers.get(b"content-encoding")
        if encoding is not None:
            compression.check_encoding(encoding)
        declared = call.headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit:
            raise errors.payload_too_large(self.limit)
        whole = call.scope.get(BODY)
        if whole is not None and len(whole) > self.limit:
            raise errors.payload_too_large(self.limit)
        body = await self._received(call) if whole is None else bytes(whole)
        return body if encoding is None else await compression.decompressed(body, encoding, limit=self.limit)

    async def _received(self, call: Call) -> bytes:
        body = UnderWay()
        self._under_way[body] = None
        try:
            async with body.time:
                return await self._pieces(call, body)
        except TimeoutError:
            raise body.failure or errors.body_too_slow(LEAST_BYTES_PER_S) from None
        finally:
            self._drop(body)

    async def _pieces(self, call: Call, body: UnderWay) -> bytes:
        now = asyncio.get_running_loop().time()
        slow_at, late_at = now + PATIENCE_S, now + call.timeout_s
        body.time.reschedule(min(slow_at, late_at))
        while True:
            if slow_at >= late_at:
                body.failure = errors.timed_out(call.timeout_s)
            message = await call.receive()
            if body not in self._under_way:  # given up
                raise TimeoutError
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            body.content += piece
            self._bytes += len(piece)
            slow_at += len(piece) / LEAST_BYTES_PER_S
            body.time.reschedule(min(slow_at, late_at))
            if len(body.content) > self.limit:
                raise errors.payload_too_large(self.limit)
            if not message.get("more_body"):
                return bytes(body.content)
            if self._bytes > MOST_BODIES * self.limit:
                self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        """Makes room: who sends fast is not refused for those who send slowly."""
        oldest = next(iter(self._under_way))
        oldest.failure = errors.too_many_bodies(MOST_BODIES * self.limit)
        oldest.time.reschedule(0)
        self._drop(oldest)

    def _drop(self, body: UnderWay) -> None:
        if body in self._under_way:
            del self._under_way[body]
            self._bytes -= len(body.content)
