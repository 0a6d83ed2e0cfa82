"""An HTTP/1.1 load generator for one route, light enough to share a small machine with the server it measures.

Requests are rendered before the clock starts and sent over keep-alive connections by an `asyncio.Protocol`, on uvloop where that
is installed. A response is good if its status is 200 and it holds a result for each text of the request; only good ones are
counted, anything else is an error with a name.

Closed loop (the default): a connection sends its next request when the last is answered, so the server sets the pace.
Open loop (`--rate`): requests fall due at random, at a set rate whatever the server does, and latency is counted from when a
request was due, so that waiting for a free connection is part of it, and so is the event loop's timer, up to 1 ms.

    python -m load_tests.generator --url http://127.0.0.1:8000/predict --connections 64 --seconds 10
"""

import argparse
import asyncio
import dataclasses
import json
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from load_tests.connection import Slot
from load_tests.pace import ClosedLoop, OpenLoop
from load_tests.report import Recorded, Recorder, Report, summed
from load_tests.texts import user_texts

DEFAULT_TEXTS = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What to send. `rate` is in requests/s; None: closed loop. `drain_s`: how long to wait for the last answers.

    A body holds its texts in `texts_field`, a single one as a string unless `always_list`, and `extra_fields` beside them.
    `processes` share the connections and the rate, where one is too slow to keep the server busy.
    `result_mark` stands in a response once or more for each text; counting it is the cheapest look at a response's shape."""

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
    """Waits for what is in flight; what has no answer then is an error."""
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
    """The load cut for its processes, none of which goes without a connection.

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
    result.add_argument("--seed", type=int, default=Load.seed, help="of the open loop's gaps")
    result.add_argument("--drain-s", type=float, default=Load.drain_s)
    result.add_argument("--processes", type=int, default=Load.processes, help="that share the connections")
    result.add_argument("--texts-field", default=Load.texts_field, help="the body's field that holds the texts")
    result.add_argument("--always-list", action="store_true", help="send a single text as a list of one")
    result.add_argument("--extra-fields", type=json.loads, default={}, help="more fields of the body, as a JSON object")
    result.add_argument("--result-mark", default=Load.result_mark, help="what a response holds for each text")
    result.add_argument("--texts", type=Path, help="a file with a text a line; none: this package's own")
    result.add_argument("--json", action="store_true", help="print JSON")
    return result


if __name__ == "__main__":
    main()
