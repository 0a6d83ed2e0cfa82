"""How many requests are on their way through the service: one number for all HTTP processes, which share one limit."""

import mmap

from service.edge import errors

COUNT_BYTES = 4


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

    def add(self) -> None:
        """One more in this process. ServiceError 429 where the limit is reached."""
        if sum(self._counts) >= self.limit:
            raise errors.overloaded(self.limit)
        self._counts[self._place] += 1

    def remove(self) -> None:
        """One that was added has ended."""
        self._counts[self._place] -= 1
