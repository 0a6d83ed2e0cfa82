"""More requests come than the service can answer. `make drills` sends them for a minute."""

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

import psutil
import pytest

SAFETY_S = 60
Drill = Callable[[str], None]


class Answered(NamedTuple):
    """An answer to "nap"."""

    status: int
    seconds: float
    retry_after: str | None


class Naps:
    """Sends "nap" over kept connections, at hardly any CPU time of the client."""

    BODY = b'{"inputs": "nap"}'
    REQUEST = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)

    def __init__(self, server: Any) -> None:
        self.host, self.port = server.url.removeprefix("http://").split(":")
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.answers: list[Answered] = []

    async def send(self) -> None:
        connection = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, int(self.port))
        reader, writer = connection
        started_at = time.perf_counter()
        writer.write(self.REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.lower().split(": ", 1) for line in head.strip().split("\r\n")[1:])
        await reader.readexactly(int(fields["content-length"]))
        self.answers.append(Answered(int(head.split()[1]), time.perf_counter() - started_at, fields.get("retry-after")))
        self.idle.append(connection)

    async def close(self) -> None:
        for _, writer in self.idle:
            writer.close()
            await writer.wait_closed()


async def closed_loop(server: Any, *, connections: int, seconds: float) -> list[Answered]:
    """Each connection sends its next request as soon as it is answered."""
    naps = Naps(server)
    end = time.perf_counter() + seconds

    async def keep_sending() -> None:
        while time.perf_counter() < end:
            await naps.send()

    async with asyncio.timeout(seconds + SAFETY_S):
        await asyncio.gather(*(keep_sending() for _ in range(connections)))
    await naps.close()
    return naps.answers


async def open_loop(server: Any, *, rate: int, seconds: int) -> list[Answered]:
    """Requests are sent at a fixed rate, however fast they are answered."""
    naps = Naps(server)
    first = time.perf_counter()
    async with asyncio.timeout(seconds + SAFETY_S), asyncio.TaskGroup() as sending:
        for number in range(rate * seconds):
            await asyncio.sleep(first + number / rate - time.perf_counter())
            sending.create_task(naps.send())
    await naps.close()
    return naps.answers


def p99(durations: Iterable[float]) -> float:
    ordered = sorted(durations)
    return ordered[max(0, int(0.99 * len(ordered)) - 1)]


def resident(server: Any) -> int:
    """The memory of all processes in bytes."""
    main = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in [main, *main.children(recursive=True)])


@pytest.mark.fault(
    "10 times the capacity", "accepted p99 within 2 times that at capacity, the rest 429 in under 10 ms; memory flat"
)
def test_overload_is_refused_at_once(start_server: Callable[..., Any], full: bool, drill: Drill) -> None:
    """Every text takes the worker 50 ms. So on any machine it can answer 20 requests a second at most."""
    server = start_server("--http-processes", "1", "--max-concurrent-requests", "4", "--max-batch-tokens", "1")
    seconds = 60 if full else 3
    at_capacity = asyncio.run(closed_loop(server, connections=4, seconds=seconds / 2))
    memory = resident(server)
    refused_before = server.metric("valence_failures_total", error_type="overloaded")
    overload = asyncio.run(open_loop(server, rate=200, seconds=seconds))
    growth = resident(server) / memory - 1
    assert {answer.status for answer in at_capacity} == {200}
    assert len(overload) == 200 * seconds  # every request was answered
    accepted = [answer.seconds for answer in overload if answer.status == 200]
    refused = [answer for answer in overload if answer.status == 429]
    assert len(accepted) + len(refused) == len(overload)
    assert len(refused) > 4 * len(accepted)
    assert all(answer.retry_after == "1" for answer in refused)
    assert server.metric("valence_failures_total", error_type="overloaded") == refused_before + len(refused)
    p99_at_capacity, p99_accepted = p99(answer.seconds for answer in at_capacity), p99(accepted)
    p99_refused = p99(answer.seconds for answer in refused)
    assert p99_accepted < 2 * p99_at_capacity
    assert p99_refused < (0.01 if full else p99_at_capacity)  # other work of the machine weighs more in a short run
    assert growth < (0.02 if full else 0.05)
    assert server.predict("good").status_code == 200
    drill(
        f"{len(overload) / seconds:.0f} requests/s against a capacity of 20 for {seconds} s: p99 of accepted ones "
        f"{1000 * p99_accepted:.0f} ms, at capacity {1000 * p99_at_capacity:.0f} ms; p99 of a 429 {1000 * p99_refused:.1f} ms; "
        f"memory {growth:+.1%}"
    )


@pytest.mark.fault("16 bodies that drip, against a limit of 16 requests in flight", "other clients get 200 all the time")
def test_clients_that_send_slowly_take_no_place_from_others(start_server: Callable[..., Any], drill: Drill) -> None:
    server = start_server("--http-processes", "1", "--max-concurrent-requests", "16")
    host, port = server.url.removeprefix("http://").split(":")
    with ExitStack() as stack:
        drippers = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(16)]
        for dripper in drippers:
            dripper.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        statuses: Counter[int] = Counter()
        for _ in range(20):
            for dripper in drippers:
                dripper.sendall(b" ")
            statuses[server.predict("good").status_code] += 1
            time.sleep(0.1)
        assert server.metric("valence_requests_in_flight") == 0
        for dripper in drippers:
            assert dripper.recv(4096).startswith(b"HTTP/1.1 408")
    assert statuses == {200: 20}
    drill("20 requests of another client answered 200; the 16 slow ones 408")
