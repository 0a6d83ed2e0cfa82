"""`python -m load_tests.known_answers`: many requests whose answers are known, compared one by one, while memory is watched.

Each text is scored alone first, on an otherwise idle service. Then many connections send them in requests of one text to a few,
to all served models at once, and every logit that comes back is held against the one known. Prints what was found; the exit
status is 1 if an answer was wrong or missing, or if a process grew by more than `GROWTH_LIMIT` in the second half.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from load_tests.servers import ServerError, exit_on_sigterm, running
from load_tests.texts import user_texts

MODELS = ("sentiment-bert", "sentiment-lstm", "sentiment-lstm-zh")
GROWTH_LIMIT = 0.02
Logits = Mapping[str, float]


@dataclass
class Found:
    """What came back. `worst`: the largest difference of a logit."""

    requests: int = 0
    texts: int = 0
    worst: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Client:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, model: str, texts: Sequence[str]) -> list[Logits]:
        """Logits by label for each text. ValueError for any status but 200."""
        body = json.dumps({"model": model, "inputs": list(texts), "raw_scores": True}).encode()
        self._writer.write(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        answer = await self._reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise ValueError(answer.decode())
        return [{row["label"]: row["score"] for row in rows} for rows in json.loads(answer)]


def main() -> int:
    """0 if every answer was right and memory stayed flat; 1 if not; 2 if the service did not start."""
    options = parser().parse_args()
    exit_on_sigterm()
    arguments = ["-m", "service", "--host", "127.0.0.1", "--port", str(options.port), "--dtype", options.dtype]
    with tempfile.TemporaryDirectory() as folder:
        try:
            with running(arguments, ready_url=f"http://127.0.0.1:{options.port}/ready", log=Path(folder) / "log") as process:
                return asyncio.run(check(options, process))
        except ServerError as error:
            print(error, file=sys.stderr)
            return 2


async def check(options: argparse.Namespace, process: psutil.Process) -> int:
    """The whole run against one server."""
    texts = user_texts(options.texts)
    known = await ask_alone(options.port, texts)
    print(f"{len(texts)} texts scored alone by {', '.join(MODELS)}", flush=True)
    started_at = time.perf_counter()
    first = await ask_all(options, texts, known, requests=options.requests // 2)
    early = resident(process)
    rest = await ask_all(options, texts, known, requests=options.requests - options.requests // 2)
    late = resident(process)
    seconds = time.perf_counter() - started_at
    wrong = first.wrong + rest.wrong
    requests = first.requests + rest.requests
    print(
        f"{requests} requests, {first.texts + rest.texts} texts in {seconds:.0f} s over {options.connections} connections, "
        f"{options.dtype}: {len(wrong)} wrong; largest difference of a logit {max(first.worst, rest.worst):.2g} "
        f"(tolerance {options.tolerance:g})"
    )
    for line in wrong[:5]:
        print(f"  {line}")
    growths = {pid: late[pid] / early[pid] - 1 for pid in early.keys() & late.keys()}
    for pid, growth in growths.items():
        print(f"  process {pid}: {early[pid] / 2**20:.0f} MiB half way, {late[pid] / 2**20:.0f} MiB at the end ({growth:+.1%})")
    is_flat = early.keys() == late.keys() and max(growths.values()) <= GROWTH_LIMIT
    return 0 if not wrong and requests == options.requests and is_flat else 1


async def ask_alone(port: int, texts: Sequence[str]) -> dict[tuple[str, str], Logits]:
    """The answers, by (model, text)."""
    client = Client(port)
    await client.open()
    return {(model, text): (await client.ask(model, [text]))[0] for model in MODELS for text in texts}


async def ask_all(
    options: argparse.Namespace, texts: Sequence[str], known: Mapping[tuple[str, str], Logits], *, requests: int
) -> Found:
    """`requests` requests over all connections."""
    found = Found()
    left = iter(range(requests))
    step = max(1, requests // 10)

    async def keep_asking(seed: int) -> None:
        generator = random.Random(seed)
        client = Client(options.port)
        await client.open()
        for number in left:
            model = generator.choice(MODELS)
            chosen = generator.choices(texts, k=generator.randint(1, options.most_texts))
            try:
                answers = await client.ask(model, chosen)
            except ValueError as error:
                found.wrong.append(str(error))
                continue
            found.requests += 1
            found.texts += len(chosen)
            compare(found, answers, [known[model, text] for text in chosen], tolerance=options.tolerance)
            if number % step == step - 1:
                print(f"  {number + 1} of {requests}", file=sys.stderr, flush=True)

    await asyncio.gather(*(keep_asking(seed) for seed in range(options.connections)))
    return found


def compare(found: Found, answers: Sequence[Logits], expected: Sequence[Logits], *, tolerance: float) -> None:
    """Counts a difference above the tolerance, another set of labels, or another number of answers as wrong."""
    if len(answers) != len(expected):
        found.wrong.append(f"{len(answers)} answers to {len(expected)} texts")
        return
    for answer, right in zip(answers, expected, strict=True):
        worst = max(abs(answer[label] - right[label]) for label in right) if answer.keys() == right.keys() else float("inf")
        found.worst = max(found.worst, worst)
        if not worst <= tolerance:
            found.wrong.append(f"{dict(answer)} where {dict(right)} is right")


def resident(process: psutil.Process) -> dict[int, int]:
    """Bytes of memory held by each process of the service."""
    return {child.pid: child.memory_info().rss for child in [process, *process.children(recursive=True)]}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m load_tests.known_answers", description=__doc__)
    result.add_argument("--requests", type=int, default=100_000)
    result.add_argument("--connections", type=int, default=64)
    result.add_argument("--most-texts", type=int, default=4, help="in one request")
    result.add_argument("--texts", type=int, default=2000, help="different texts")
    result.add_argument("--dtype", default="float32")
    result.add_argument(
        "--tolerance", type=float, default=1e-5, help="of a logit; float32 sums in another order for another batch"
    )
    result.add_argument("--port", type=int, default=8100)
    return result


if __name__ == "__main__":
    sys.exit(main())
