"""`python -m load_tests.known_answers`: many requests whose answers are known, compared one by one, while memory is watched.

Each text is first scored alone on an idle service. Then many connections send requests of one or a few texts to all served
models at once, and every logit that comes back is compared with the known one. Memory is read after each tenth of the requests;
the first tenth is the warm-up. Prints what was found. The exit status is 1 if an answer was wrong or missing, if a process ended,
or if a process was ever larger than after the warm-up by more than `GROWTH_LIMIT`.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil

from load_tests.generator.load import event_loop
from load_tests.servers import ROOT, ServerError, exit_on_sigterm, running
from load_tests.texts import user_texts

MODELS = ",".join(f"{name}={ROOT / 'models' / 'checkpoints' / name}" for name in ("sentiment-bert", "sentiment-lstm"))
LOOKS = 10
GROWTH_LIMIT = 0.02
Logits = Mapping[str, float]


@dataclass
class Found:
    """What came back. `worst`: the largest difference of a logit. `resident`: bytes of each process, at each look."""

    requests: int = 0
    texts: int = 0
    worst: float = 0.0
    wrong: list[str] = field(default_factory=list)
    resident: list[dict[int, int]] = field(default_factory=list)

    def growths(self) -> dict[int, float]:
        """The most by which each process was larger than after the warm-up; infinite for one that ended or came later."""
        first, *later = self.resident
        return {
            pid: max((look[pid] / first[pid] - 1 if pid in look and pid in first else math.inf) for look in later)
            for pid in first.keys() | later[-1].keys()
        }


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, model: str, texts: Sequence[str]) -> list[Logits]:
        """Logits by label for each text. ValueError for any status but 200."""
        body = orjson.dumps({"model": model, "inputs": list(texts), "raw_scores": True})
        self._writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(answer.decode())
        return [{row["label"]: row["score"] for row in rows} for rows in orjson.loads(answer)]


def main() -> int:
    """0 if every answer was right and memory stayed flat; 1 if not; 2 if the service did not start."""
    options = parser().parse_args()
    exit_on_sigterm()
    arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(options.port), "--dtype", options.dtype]
    with tempfile.TemporaryDirectory() as folder:
        try:
            ready_url = f"http://127.0.0.1:{options.port}/ready"
            with (
                running([*arguments, "--models", options.models], ready_url=ready_url, log=Path(folder) / "log") as process,
                asyncio.Runner(loop_factory=event_loop()) as runner,
            ):
                return runner.run(check(options, process))
        except ServerError as error:
            print(error, file=sys.stderr)
            return 2


async def check(options: argparse.Namespace, process: psutil.Process) -> int:
    """The whole run against one server."""
    texts = user_texts(options.texts)
    models = [entry.partition("=")[0] for entry in options.models.split(",")]
    known = await ask_alone(options.port, models, texts)
    print(f"{len(texts)} texts scored alone by {', '.join(models)}", flush=True)
    started_at = time.perf_counter()
    found = await ask_all(options, models, texts, known, look=lambda: resident(process))
    seconds = time.perf_counter() - started_at
    print(
        f"{found.requests} requests, {found.texts} texts in {seconds:.0f} s over {options.connections} connections, "
        f"{options.dtype}: {len(found.wrong)} wrong; largest difference of a logit {found.worst:.2g} "
        f"(tolerance {options.tolerance:g})"
    )
    for line in found.wrong[:5]:
        print(f"  {line}")
    names = {child.pid: child.name() for child in tree(process)}
    growths = found.growths()
    for pid, growth in growths.items():
        sizes = " ".join(f"{look[pid] / 2**20:.0f}" if pid in look else "-" for look in found.resident)
        print(f"  {names.get(pid, 'ended')} {pid}: {sizes} MiB; at most {growth:+.1%} after the warm-up")
    is_flat = max(growths.values()) <= GROWTH_LIMIT
    return 0 if not found.wrong and found.requests == options.requests and is_flat else 1


async def ask_alone(port: int, models: Sequence[str], texts: Sequence[str]) -> dict[tuple[str, str], Logits]:
    """The known answers, by (model, text)."""
    client = Client(port)
    await client.open()
    return {(model, text): (await client.ask(model, [text]))[0] for model in models for text in texts}


async def ask_all(
    options: argparse.Namespace,
    models: Sequence[str],
    texts: Sequence[str],
    known: Mapping[tuple[str, str], Logits],
    *,
    look: Callable[[], dict[int, int]],
) -> Found:
    """Sends all requests over all connections, with a look at the memory after each tenth."""
    found = Found()
    left = looking(options.requests, found, look)

    async def keep_asking(seed: int) -> None:
        generator = random.Random(seed)
        client = Client(options.port)
        await client.open()
        for _ in left:
            model = generator.choice(models)
            chosen = generator.choices(texts, k=generator.randint(1, options.most_texts))
            try:
                answers = await client.ask(model, chosen)
            except (ValueError, EOFError, OSError) as error:  # refused, or the connection was lost
                found.wrong.append(str(error))
                continue
            found.requests += 1
            found.texts += len(chosen)
            compare(found, answers, [known[model, text] for text in chosen], tolerance=options.tolerance)

    await asyncio.gather(*(keep_asking(seed) for seed in range(options.connections)))
    found.resident.append(look())
    return found


def looking(requests: int, found: Found, look: Callable[[], dict[int, int]]) -> Iterator[int]:
    """Yields the requests' numbers, and adds a look at the memory to `found` after each tenth but the last."""
    step = max(1, requests // LOOKS)
    for number in range(requests):
        if number and number % step == 0 and len(found.resident) < LOOKS - 1:
            found.resident.append(look())
            print(f"  {number} of {requests}", file=sys.stderr, flush=True)
        yield number


def compare(found: Found, answers: Sequence[Logits], expected: Sequence[Logits], *, tolerance: float) -> None:
    """Counts a difference above the tolerance, another set of labels, or another number of answers as wrong."""
    if len(answers) != len(expected):
        found.wrong.append(f"{len(answers)} answers to {len(expected)} texts")
        return
    for answer, right in zip(answers, expected, strict=True):
        differences = [abs(answer[label] - right[label]) for label in right] if answer.keys() == right.keys() else [math.inf]
        found.worst = max(found.worst, *differences)
        if not all(difference <= tolerance for difference in differences):  # written so that NaN counts as wrong
            found.wrong.append(f"{dict(answer)} where {dict(right)} is right")


def resident(process: psutil.Process) -> dict[int, int]:
    """Bytes of memory held by each process of the service."""
    return {child.pid: child.memory_info().rss for child in tree(process)}


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all below it."""
    return [process, *process.children(recursive=True)]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.known_answers", description=__doc__)
    result.add_argument("--requests", type=int, default=100_000)
    result.add_argument("--connections", type=int, default=64)
    result.add_argument("--most-texts", type=int, default=4, help="in one request")
    result.add_argument("--texts", type=int, default=2000, help="different texts")
    result.add_argument("--models", default=MODELS, help="as the service takes it: name=folder, comma-separated")
    result.add_argument("--dtype", default="float32")
    result.add_argument(
        "--tolerance", type=float, default=1e-5, help="of a logit; float32 sums in another order for another batch"
    )
    result.add_argument("--port", type=int, default=8100)
    return result


if __name__ == "__main__":
    sys.exit(main())
