"""An HTTP/1.1 load generator for one route, light enough to share a small machine with the server it measures.

Requests are rendered before the clock starts and sent over keep-alive connections by an `asyncio.Protocol`, on uvloop where that
is installed. A response is good if its status is 200 and it holds a result for each text of the request; only good ones are
counted, anything else is an error with a name.

Closed loop (the default): a connection sends its next request when the last is answered, so the server sets the pace.
Open loop (`--rate`): requests fall due at a fixed rate whatever the server does, and latency is counted from when a request was
due, so that waiting for a free connection is part of it, and so is the event loop's timer, up to 1 ms.

    python -m load_tests.generator --url http://127.0.0.1:8000/predict --connections 64 --seconds 10
"""

import argparse
import asyncio
import dataclasses
import json
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from load_tests.texts import user_texts

RECONNECT_AFTER_S = 0.1
DEFAULT_TEXTS = 4096
# Each label of a result has one. Counting them is the cheapest look at a response's shape.
RESULT_MARK = b'"score"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to send. `rate` is in requests/s; None: closed loop. `drain_s`: how long to wait for the last answers."""

    url: str
    connections: int = 64
    seconds: float = 10.0
    warmup_s: float = 2.0
    texts_per_request: int = 1
    model: str | None = None
    rate: float | None = None
    drain_s: float = 30.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What came back within the measured seconds. Latencies are those of good responses, NaN where there was none;
    `generator_cpu` is this process's share of one core: near 1, the generator was the limit and not the server."""

    requests: int
    errors: dict[str, int]
    requests_per_s: float
    texts_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    generator_cpu: float


class Recorder:
    """Collects latencies and errors while it is open."""

    def __init__(self) -> None:
        self.is_open = False
        self.latencies_s = array("d")
        self.errors: Counter[str] = Counter()

    def good(self, latency_s: float) -> None:
        if self.is_open:
            self.latencies_s.append(latency_s)

    def error(self, name: str) -> None:
        if self.is_open:
            self.errors[name] += 1


class Pace(Protocol):
    """Decides when a connection sends."""

    stopped: bool

    def free(self, connection: "Connection") -> None:
        """`connection` has nothing in flight."""


class ClosedLoop:
    """Sends at once, until stopped."""

    def __init__(self) -> None:
        self.stopped = False

    def free(self, connection: "Connection") -> None:
        if not self.stopped:
            connection.send(due_at=time.perf_counter())


class OpenLoop:
    """Requests fall due at `rate` a second; what finds no free connection waits for one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.stopped = False
        self.waiting: deque[float] = deque()
        self._idle: deque[Connection] = deque()

    def free(self, connection: "Connection") -> None:
        if self.waiting and not self.stopped:
            connection.send(due_at=self.waiting.popleft())
        else:
            self._idle.append(connection)

    async def tick(self) -> None:
        """Runs until stopped or cancelled."""
        due_at = time.perf_counter()
        while not self.stopped:
            await asyncio.sleep(due_at - time.perf_counter())
            while due_at <= time.perf_counter() and not self.stopped:
                self._fall_due(due_at)
                due_at += 1 / self.rate

    def _fall_due(self, due_at: float) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_usable:
                connection.send(due_at=due_at)
                return
        self.waiting.append(due_at)


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, requests: Iterator[bytes], *, results: int, pace: Pace, recorder: Recorder) -> None:
        self.lost = asyncio.Event()
        self.failed = False
        self.due_at: float | None = None
        self._requests = requests
        self._results = results
        self._pace = pace
        self._recorder = recorder
        self._received = bytearray()
        self._body_at = self._end = 0
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
        self._received += data
        if not self._end and not self._read_head():
            return
        if len(self._received) >= self._end:
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed = self.due_at is not None
        if self.failed:
            self._recorder.error("connection lost")
        self.due_at = None
        self.lost.set()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _read_head(self) -> bool:
        """Whether the head is here; then it is known where the response ends."""
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return False
        self._body_at = head_end + 4
        length = header(self._received[:head_end], b"content-length")
        if length is None:  # chunked, which no server measured here sends
            self._recorder.error("no content-length")
            self.due_at = None
            self.close()
            return False
        self._end = self._body_at + int(length)
        return True

    def _answered(self) -> None:
        assert self.due_at is not None
        latency_s = time.perf_counter() - self.due_at
        status = bytes(self._received[9:12])
        if status != b"200":
            self._recorder.error(f"status {status.decode('latin-1')}")
        elif self._received.count(RESULT_MARK, self._body_at) < self._results:
            self._recorder.error("wrong shape")
        else:
            self._recorder.good(latency_s)
        closing = header(self._received[: self._body_at - 4], b"connection") == b"close"
        self.due_at = None
        self._received.clear()
        self._end = 0
        if closing:
            self.close()
        else:
            self._pace.free(self)


def header(head: bytearray, name: bytes) -> bytes | None:
    """The value of a header, in lower case.

    >>> header(bytearray(b"HTTP/1.1 200 OK\\r\\nContent-Length: 12"), b"content-length")
    b'12'
    """
    lowered = head.lower()
    start = lowered.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = lowered.find(b"\r\n", start)
    return bytes(lowered[start : end if end >= 0 else None]).strip()


def render_requests(load: Load, texts: Sequence[str]) -> list[bytes]:
    """Whole HTTP requests that send each text once, `texts_per_request` at a time; a remainder is left out.
    ValueError if there is not one full request."""
    target = urlsplit(load.url)
    head = f"POST {target.path or '/'} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    size = load.texts_per_request
    requests = []
    for start in range(0, len(texts) - size + 1, size):
        fields: dict[str, object] = {"inputs": texts[start] if size == 1 else list(texts[start : start + size])}
        if load.model is not None:
            fields["model"] = load.model
        body = json.dumps(fields, ensure_ascii=False).encode()
        requests.append(f"{head}{len(body)}\r\n\r\n".encode() + body)
    if not requests:
        raise ValueError(f"{len(texts)} texts do not fill one request of {size}")
    return requests


async def measure(load: Load, texts: Sequence[str]) -> Report:
    """Runs the load: warm-up, measured seconds, wait for the last answers. ValueError if the URL is not plain http."""
    target = urlsplit(load.url)
    if target.scheme != "http" or target.hostname is None:
        raise ValueError(f"the URL must be http://host[:port]/path, not {load.url!r}")
    recorder = Recorder()
    pace = ClosedLoop() if load.rate is None else OpenLoop(load.rate)
    requests = cycle(render_requests(load, texts))
    slots = [Slot(requests, load=load, pace=pace, recorder=recorder) for _ in range(load.connections)]
    tasks = [asyncio.create_task(slot.keep_connected(target.hostname, target.port or 80)) for slot in slots]
    if isinstance(pace, OpenLoop):
        tasks.append(asyncio.create_task(pace.tick()))
    await asyncio.sleep(load.warmup_s)
    recorder.is_open = True
    started_at, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.sleep(load.seconds)
    seconds, cpu_s = time.perf_counter() - started_at, time.process_time() - cpu_started
    recorder.is_open = False
    pace.stopped = True
    if isinstance(pace, OpenLoop) and pace.waiting:
        recorder.errors["never sent"] = len(pace.waiting)
    await _drain(slots, recorder, load.drain_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return report(recorder, load=load, seconds=seconds, cpu_s=cpu_s)


class Slot:
    """A place for one connection, filled again when the connection is lost."""

    def __init__(self, requests: Iterator[bytes], *, load: Load, pace: Pace, recorder: Recorder) -> None:
        self.connection: Connection | None = None
        self._requests = requests
        self._load = load
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
        return Connection(self._requests, results=self._load.texts_per_request, pace=self._pace, recorder=self._recorder)


async def _drain(slots: Sequence[Slot], recorder: Recorder, drain_s: float) -> None:
    """Waits for what is in flight; what has no answer then is an error."""
    give_up_at = time.perf_counter() + drain_s
    while any(slot.in_flight for slot in slots) and time.perf_counter() < give_up_at:
        await asyncio.sleep(0.05)
    if unanswered := sum(slot.in_flight for slot in slots):
        recorder.errors["unanswered"] = unanswered


def report(recorder: Recorder, *, load: Load, seconds: float, cpu_s: float) -> Report:
    """Rates and percentiles."""
    latencies_s = sorted(recorder.latencies_s)
    requests_per_s = len(latencies_s) / seconds
    return Report(
        requests=len(latencies_s),
        errors=dict(recorder.errors),
        requests_per_s=requests_per_s,
        texts_per_s=requests_per_s * load.texts_per_request,
        p50_ms=1000 * percentile(latencies_s, 0.50),
        p90_ms=1000 * percentile(latencies_s, 0.90),
        p99_ms=1000 * percentile(latencies_s, 0.99),
        max_ms=1000 * percentile(latencies_s, 1.0),
        generator_cpu=cpu_s / seconds,
    )


def percentile(ascending: Sequence[float], share: float) -> float:
    """Nearest rank: the least value that at least `share` of the values do not exceed; NaN of nothing.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]


def run(load: Load, texts: Sequence[str]) -> Report:
    """`measure` in a new event loop, uvloop's where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(measure(load, texts))


def main() -> None:
    """Prints the report."""
    options = parser().parse_args()
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(Load)}
    texts = options.texts.read_text(encoding="utf-8").splitlines() if options.texts else user_texts(DEFAULT_TEXTS)
    found = dataclasses.asdict(run(Load(**fields), texts))
    print(json.dumps(found) if options.json else "\n".join(f"{name}: {value}" for name, value in found.items()))


def parser() -> argparse.ArgumentParser:
    """The command line: `Load`'s fields, texts and the output's form."""
    result = argparse.ArgumentParser(prog="python -m load_tests.generator")
    result.add_argument("--url", default="http://127.0.0.1:8000/predict")
    result.add_argument("--connections", type=int, default=Load.connections)
    result.add_argument("--seconds", type=float, default=Load.seconds, help="measured; the warm-up comes before")
    result.add_argument("--warmup-s", type=float, default=Load.warmup_s)
    result.add_argument("--texts-per-request", type=int, default=Load.texts_per_request)
    result.add_argument("--model", help="the body's field model; none: not sent")
    result.add_argument("--rate", type=float, help="requests/s of an open loop; none: closed loop")
    result.add_argument("--drain-s", type=float, default=Load.drain_s)
    result.add_argument("--texts", type=Path, help="a file with a text a line; none: this package's own")
    result.add_argument("--json", action="store_true", help="print JSON")
    return result


if __name__ == "__main__":
    main()
