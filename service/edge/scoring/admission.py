"""How many requests may be on their way through the service: all HTTP processes share one count and one limit."""

import asyncio
import logging
import math
import mmap
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from service.edge.http import errors
from service.edge.http.body import BodyReader
from service.edge.http.call import Call, Response
from service.settings import Settings

log = logging.getLogger("valence.admission")
COUNT_BYTES = 4
# Refusals are counted for so long, then logged in one line.
REFUSALS_S = 5.0
# At a time, over all HTTP processes. They are few, since each is long.
MAX_EXPLANATIONS = 8


class InFlight:
    """Counts requests in memory that forked processes share.

    Each process writes at its own place, so none needs a lock; all read the sum. The limit is not divided among the processes:
    one with more than its part of the connections would refuse clients while the others are idle. Two processes that admit a
    request at the same moment may exceed the limit by one."""

    def __init__(self, *, processes: int, limit: int, refusal: Callable[[int], errors.ServiceError] = errors.overloaded) -> None:
        """`refusal`: the error 429 where the limit is reached."""
        self.processes, self.limit = processes, limit
        self.refusal = refusal
        self._counts = memoryview(mmap.mmap(-1, processes * COUNT_BYTES)).cast("i")
        self._place = 0

    @property
    def total(self) -> int:
        """The requests in flight in all processes."""
        return sum(self._counts)

    def enter(self, place: int) -> None:
        """Makes this process, or the next that it forks, count at `place`. The count there begins at 0: who had it is gone."""
        self._place = place
        self._counts[place] = 0

    def check(self) -> None:
        """ServiceError 429 where the limit is reached."""
        if sum(self._counts) >= self.limit:
            raise self.refusal(self.limit)

    def add(self) -> None:
        """Counts one request more in this process. ServiceError 429 where the limit is reached."""
        self.check()
        self._counts[self._place] += 1

    def remove(self) -> None:
        """Counts one request less: it has ended."""
        self._counts[self._place] -= 1


class Admission:
    """The first step of every route that takes texts."""

    def __init__(self, settings: Settings, in_flight: InFlight) -> None:
        self.settings = settings
        self.in_flight = in_flight
        self.bodies = BodyReader(limit=settings.payload_limit)
        self._refused = 0

    async def admit(self, call: Call, handle: Callable[[Call], Awaitable[Response]]) -> Response:
        """Reads the body, then counts the request as in flight and answers it by `handle`.

        It is not counted before its body is there, so that a client that sends slowly takes no place from others. ServiceError
        429 where the limit is reached; this is checked before the body is read, too."""
        try:
            self.in_flight.check()
            call.timeout_s = timeout_s(call.headers, self.settings.request_timeout_s)
            call.body = await self.bodies.read(call)
            self.in_flight.add()
        except errors.ServiceError as error:
            if error.status == 429:
                self._note_refusal()
            raise
        try:
            return await handle(call)
        finally:
            self.in_flight.remove()

    def _note_refusal(self) -> None:
        """Counts a refusal. All refusals within `REFUSALS_S` are one line of the log."""
        if not self._refused:
            asyncio.get_running_loop().call_later(REFUSALS_S, self._log_refusals)
        self._refused += 1

    def _log_refusals(self) -> None:
        log.warning(
            "overloaded: %d requests were answered 429 within %g s", self._refused, REFUSALS_S,
            extra={"refused": self._refused, "limit": self.in_flight.limit},
        )  # fmt: skip
        self._refused = 0


class Explanations:
    """How many explanations the service may be asked for at a time."""

    def __init__(self, in_flight: InFlight) -> None:
        """`in_flight` with limit 0: the service explains nothing."""
        self.in_flight = in_flight

    @contextmanager
    def held(self) -> Iterator[None]:
        """Counts an explanation as in flight. ServiceError 404 if the service explains nothing, 429 if the limit is reached."""
        if not self.in_flight.limit:
            raise errors.not_found("explanations are switched off in this service")
        self.in_flight.add()
        try:
            yield
        finally:
            self.in_flight.remove()


def timeout_s(headers: Mapping[bytes, bytes], limit_s: float) -> float:
    """The deadline that the client asks for, if it is shorter than the service's. ServiceError 422 if it is no number above 0.

    >>> timeout_s({b"x-request-timeout-s": b"2.5"}, 30), timeout_s({}, 30)
    (2.5, 30)
    """
    asked = headers.get(b"x-request-timeout-s")
    if asked is None:
        return limit_s
    try:
        seconds = float(asked)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise errors.validation("x-request-timeout-s: must be a number of seconds above 0")
    return min(seconds, limit_s)
