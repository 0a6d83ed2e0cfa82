"""How many requests are on their way through the service: one number for all HTTP processes, which share one limit."""

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
# An overload is summed up for so long before it is logged.
REFUSALS_S = 5.0
# Explanations are long: so few at a time, over all HTTP processes.
MAX_EXPLANATIONS = 8


class InFlight:
    """Counts in memory that forked processes share. Each writes at its own place, so none needs a lock; all read the sum.

    A limit divided among them instead would refuse clients of a process that has more than its part of the connections while the
    others are idle. Two that admit at the same moment may exceed the limit by one."""

    def __init__(self, *, processes: int, limit: int) -> None:
        self.limit = limit
        self._counts = memoryview(mmap.mmap(-1, processes * COUNT_BYTES)).cast("i")
        self._place = 0

    @property
    def total(self) -> int:
        """In all processes."""
        return sum(self._counts)

    def enter(self, place: int) -> None:
        """This process, or one that is forked from it next, counts at `place`, from 0: who counted there before is gone."""
        self._place = place
        self._counts[place] = 0

    def check(self) -> None:
        """ServiceError 429 where the limit is reached."""
        if sum(self._counts) >= self.limit:
            raise errors.overloaded(self.limit)

    def add(self) -> None:
        """One more in this process. ServiceError 429 where the limit is reached."""
        self.check()
        self._counts[self._place] += 1

    def remove(self) -> None:
        """One that was added has ended."""
        self._counts[self._place] -= 1


class Admission:
    """What every route that takes texts begins with."""

    def __init__(self, settings: Settings, in_flight: InFlight) -> None:
        self.settings = settings
        self.in_flight = in_flight
        self.bodies = BodyReader(limit=settings.payload_limit)
        self._refused = 0

    async def admit(self, call: Call, handle: Callable[[Call], Awaitable[Response]]) -> Response:
        """Answers by `handle` once the body is there, and not before holds one of the requests in flight: a client that sends
        slowly takes none from the others. ServiceError 429 where there is none to be had, at the head already."""
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
        """Has an overload logged: a line for `REFUSALS_S` of it, not one for each request."""
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
    """How many explanations one HTTP process asks for at a time: an equal share for each."""

    def __init__(self, *, steps: int, http_processes: int) -> None:
        """`steps` 0: none."""
        self.limit = math.ceil(MAX_EXPLANATIONS / http_processes) if steps else 0
        self.in_flight = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds one of them. ServiceError 404 where there are none, 429 where none is left."""
        if not self.limit:
            raise errors.not_found("explanations are switched off in this service")
        if self.in_flight >= self.limit:
            raise errors.too_many_explanations(MAX_EXPLANATIONS)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


def timeout_s(headers: Mapping[bytes, bytes], limit_s: float) -> float:
    """The deadline that the client asks for, if it is shorter than the service's. ServiceError 422 for what is none.

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
