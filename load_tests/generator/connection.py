"""HTTP/1.1 connections of the load generator: one request in flight on each; a lost connection is opened again."""

import asyncio
import time
from collections.abc import Iterator

from load_tests.generator.pace import Pace
from load_tests.generator.report import Recorder

RECONNECT_AFTER_S = 0.1


class Response:
    """One response, fed as it arrives. Its length stands in a header, or it comes in chunks.

    >>> response = Response()
    >>> response.feed(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n3\\r\\nabc")
    False
    >>> response.feed(b"\\r\\n2\\r\\nde\\r\\n0\\r\\n\\r\\n"), response.status, response.count(b"cd")
    (True, b'200', 1)
    """

    def __init__(self) -> None:
        self._received = bytearray()
        self._body_at = 0
        self._length: int | None = None
        self._chunks = bytearray()
        self._chunk_at = 0

    def feed(self, data: bytes) -> bool:
        """Whether the response is complete. ValueError if its length is given in neither way."""
        self._received += data
        if not self._body_at and not self._read_head():
            return False
        if self._length is None:
            return self._read_chunks()
        return len(self._received) >= self._body_at + self._length

    @property
    def status(self) -> bytes:
        return bytes(self._received[9:12])

    @property
    def closes(self) -> bool:
        """Whether the server closes the connection after it."""
        return self._header(b"connection") == b"close"

    def count(self, mark: bytes) -> int:
        """How often `mark` stands in the body."""
        return self._chunks.count(mark) if self._length is None else self._received.count(mark, self._body_at)

    def _read_head(self) -> bool:
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        self._body_at = self._chunk_at = head_end + 4
        length = self._header(b"content-length")
        if length is not None:
            self._length = int(length)
        elif self._header(b"transfer-encoding") != b"chunked":
            raise ValueError("neither content-length nor chunked")
        return True

    def _read_chunks(self) -> bool:
        while (line_end := self._received.find(b"\r\n", self._chunk_at)) >= 0:
            size = int(bytes(self._received[self._chunk_at : line_end]).split(b";")[0], 16)
            if size == 0:  # trailers may follow, and an empty line
                return self._received.find(b"\r\n\r\n", line_end) >= 0
            start, end = line_end + 2, line_end + 2 + size
            if len(self._received) < end + 2:
                return False
            self._chunks += self._received[start:end]
            self._chunk_at = end + 2
        return False

    def _header(self, name: bytes) -> bytes | None:
        """The value of a header, in lower case."""
        lowered = bytes(self._received[: self._body_at - 2]).lower()
        start = lowered.find(b"\r\n" + name + b":")
        if start < 0:
            return None
        start += len(name) + 3
        return lowered[start : lowered.find(b"\r\n", start)].strip()


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight. A response is good if its status is 200 and it holds `mark`
    at least `results` times."""

    def __init__(self, requests: Iterator[bytes], *, results: int, mark: bytes, pace: Pace, recorder: Recorder) -> None:
        self.lost = asyncio.Event()
        self.failed = False
        self.due_at: float | None = None
        self._requests = requests
        self._results = results
        self._mark = mark
        self._pace = pace
        self._recorder = recorder
        self._response = Response()
        self._transport: asyncio.Transport | None = None

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport = transport  # type: ignore[assignment] # uvloop's transports have no common base with asyncio's
        self._pace.free(self)

    def send(self, *, due_at: float) -> None:
        """The next request; its latency counts from `due_at`."""
        assert self._transport is not None
        assert self.due_at is None
        self.due_at = due_at
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        if self.due_at is None:  # more than was asked for
            self._recorder.error("unasked data")
            self.close()
            return
        try:
            complete = self._response.feed(data)
        except ValueError:
            self._recorder.error("no length")
            self.due_at = None
            self.close()
            return
        if complete:
            self._answered(self.due_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = self.due_at is not None
        if self.failed:
            self._recorder.error("connection lost")
        self.due_at = None
        self.lost.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _answered(self, due_at: float) -> None:
        latency_s = time.perf_counter() - due_at
        response, self._response = self._response, Response()
        if response.status != b"200":
            self._recorder.error(f"status {response.status.decode('latin-1')}")
        elif response.count(self._mark) < self._results:
            self._recorder.error("wrong shape")
        else:
            self._recorder.good(latency_s)
        self.due_at = None
        if response.closes:
            self.close()
        else:
            self._pace.free(self)


class Slot:
    """A place for one connection, filled again when the connection is lost."""

    def __init__(self, requests: Iterator[bytes], *, results: int, mark: bytes, pace: Pace, recorder: Recorder) -> None:
        self.connection: Connection | None = None
        self._requests = requests
        self._results = results
        self._mark = mark
        self._pace = pace
        self._recorder = recorder

    @property
    def in_flight(self) -> bool:
        return self.connection is not None and self.connection.due_at is not None

    async def keep_connected(self, host: str, port: int) -> None:
        """Runs until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    _, self.connection = await loop.create_connection(self._new_connection, host, port)
                    await self.connection.lost.wait()
                except OSError:
                    self._recorder.error("connect failed")
                    await asyncio.sleep(RECONNECT_AFTER_S)
                else:
                    await asyncio.sleep(RECONNECT_AFTER_S if self.connection.failed else 0)
        finally:
            if self.connection is not None:
                self.connection.close()
                await asyncio.sleep(0)  # lets the transport close within its loop

    def _new_connection(self) -> Connection:
        return Connection(self._requests, results=self._results, mark=self._mark, pace=self._pace, recorder=self._recorder)
