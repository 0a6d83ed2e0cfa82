"""A load: what is sent, and how it is run in one process or several.

Requests are rendered before the clock starts and sent over keep-alive connections by an `asyncio.Protocol`, on uvloop where that
is installed. A response is good if its status is 200 and it holds a result for each text of the request; only good ones are
counted, anything else is an error with a name.

Closed loop (the default): a connection sends its next request when the last is answered, so the server sets the pace.
Open loop (`--rate`): requests fall due at random, at a set rate whatever the server does, and latency is counted from when a
request was due. So waiting for a free connection is part of it, and so is the event loop's timer, up to 1 ms.
"""

import asyncio
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from urllib.parse import urlsplit

from load_tests.generator.connection import Slot
from load_tests.generator.pace import ClosedLoop, OpenLoop
from load_tests.generator.report import Recorded, Recorder, Report, summed

DEFAULT_TEXTS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to send. `rate` is in requests/s; None: closed loop. `drain_s`: how long to wait for the last answers.

    A body holds its texts in `texts_field`, a single one as a string unless `always_list`, and `extra_fields` beside them.
    `processes` share the connections and the rate; several are for a server that one process can't keep busy.
    `result_mark` stands at least once for each text in a response. Counting it is the cheapest check of a response's shape."""

    url: str
    connections: int = 64
    seconds: float = 10.0
    warmup_s: float = 2.0
    texts_per_request: int = 1
    model: str | None = None
    rate: float | None = None
    seed: int = 0
    drain_s: float = 30.0
    processes: int = 1
    texts_field: str = "inputs"
    always_list: bool = False
    extra_fields: Mapping[str, object] = dataclasses.field(default_factory=dict)
    result_mark: str = '"score"'

    def body(self, texts: Sequence[str]) -> bytes:
        """JSON.

        >>> Load(url="", model="bert").body(["fine"])
        b'{"inputs": "fine", "model": "bert"}'
        """
        single = len(texts) == 1 and not self.always_list
        fields: dict[str, object] = {self.texts_field: texts[0] if single else list(texts), **self.extra_fields}
        if self.model is not None:
            fields["model"] = self.model
        return json.dumps(fields, ensure_ascii=False).encode()


def render_requests(load: Load, texts: Sequence[str]) -> list[bytes]:
    """Whole HTTP requests that send each text once, `texts_per_request` at a time; a remainder is left out.
    ValueError if there is not one full request."""
    target = urlsplit(load.url)
    head = f"POST {target.path or '/'} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    size = load.texts_per_request
    bodies = [load.body(texts[start : start + size]) for start in range(0, len(texts) - size + 1, size)]
    if not bodies:
        raise ValueError(f"{len(texts)} texts do not fill one request of {size}")
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


async def measure(load: Load, texts: Sequence[str]) -> Recorded:
    """One process's load: warm-up, measured seconds, wait for the last answers. ValueError if the URL is not plain http."""
    target = urlsplit(load.url)
    if target.scheme != "http" or target.hostname is None:
        raise ValueError(f"the URL must be http://host[:port]/path, not {load.url!r}")
    recorder = Recorder()
    pace = ClosedLoop() if load.rate is None else OpenLoop(load.rate, seed=load.seed)
    requests = cycle(render_requests(load, texts))
    mark = load.result_mark.encode()
    slots = [
        Slot(requests, results=load.texts_per_request, mark=mark, pace=pace, recorder=recorder) for _ in range(load.connections)
    ]
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
    return Recorded(recorder.latencies_s, recorder.errors, seconds, cpu_s)


async def _drain(slots: Sequence[Slot], recorder: Recorder, drain_s: float) -> None:
    """Waits at most `drain_s` for the last answers; what is then unanswered is an error."""
    give_up_at = time.perf_counter() + drain_s
    while any(slot.in_flight for slot in slots) and time.perf_counter() < give_up_at:
        await asyncio.sleep(0.05)
    if unanswered := sum(slot.in_flight for slot in slots):
        recorder.errors["unanswered"] = unanswered


def run(load: Load, texts: Sequence[str]) -> Report:
    """The whole load, in as many processes as it asks for."""
    parts = shares(load)
    if len(parts) == 1:
        return summed([run_one(parts[0], texts)], texts_per_request=load.texts_per_request)
    with ProcessPoolExecutor(len(parts), mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(run_one, part, [*texts[len(texts) * place // len(parts) :], *texts[: len(texts) * place // len(parts)]])
            for place, part in enumerate(parts)
        ]
        return summed([job.result() for job in jobs], texts_per_request=load.texts_per_request)


def shares(load: Load) -> list[Load]:
    """The load divided among its processes, each of which has a connection at least.

    >>> [share.connections for share in shares(Load(url="", connections=9, processes=2))]
    [5, 4]
    """
    count = min(load.processes, load.connections)
    return [
        dataclasses.replace(
            load,
            connections=load.connections // count + (place < load.connections % count),
            rate=None if load.rate is None else load.rate / count,
            seed=load.seed + place,
        )
        for place in range(count)
    ]


def run_one(load: Load, texts: Sequence[str]) -> Recorded:
    """`measure` in a new event loop."""
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        return runner.run(measure(load, texts))


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's, where it is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return new_event_loop
