"""When a connection sends: as soon as it is free (closed loop), or when a request falls due (open loop)."""

import asyncio
import random
import time
from collections import deque
from typing import Protocol


class Sender(Protocol):
    """A connection, as a pace sees it."""

    @property
    def is_usable(self) -> bool: ...

    def send(self, *, due_at: float) -> None:
        """The next request; its latency counts from `due_at`."""


class Pace(Protocol):
    """Decides when a connection sends."""

    stopped: bool

    def free(self, connection: Sender) -> None:
        """Called when `connection` has nothing in flight."""


class ClosedLoop:
    """A free connection sends at once, until stopped."""

    def __init__(self) -> None:
        self.stopped = False

    def free(self, connection: Sender) -> None:
        if not self.stopped:
            connection.send(due_at=time.perf_counter())


class OpenLoop:
    """Poisson arrivals: requests fall due `rate` a second on average, with exponential gaps, as they come from many independent
    users. A request that finds no free connection waits for one."""

    def __init__(self, rate: float, *, seed: int = 0) -> None:
        self.rate = rate
        self.stopped = False
        self.waiting: deque[float] = deque()
        self._idle: deque[Sender] = deque()
        self._rng = random.Random(seed)

    def free(self, connection: Sender) -> None:
        if self.waiting and not self.stopped:
            connection.send(due_at=self.waiting.popleft())
        else:
            self._idle.append(connection)

    def gap_s(self) -> float:
        """From one request to the next."""
        return self._rng.expovariate(self.rate)

    async def tick(self) -> None:
        """Runs until stopped or cancelled."""
        due_at = time.perf_counter()
        while not self.stopped:
            await asyncio.sleep(due_at - time.perf_counter())
            while due_at <= time.perf_counter() and not self.stopped:
                self._fall_due(due_at)
                due_at += self.gap_s()

    def _fall_due(self, due_at: float) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.is_usable:
                connection.send(due_at=due_at)
                return
        self.waiting.append(due_at)
