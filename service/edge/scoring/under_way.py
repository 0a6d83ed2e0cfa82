"""How much each worker has to do: all HTTP processes share the counts, so that none sends to a worker that others keep busy."""

import mmap
import random
from collections.abc import Sequence

COUNT_BYTES = 8


class TokensUnderWay:
    """Counts the tokens that each worker was asked for and has not answered, in memory that forked processes share.

    Each process writes at its own place, so none needs a lock; all read the sums."""

    def __init__(self, *, processes: int, workers: int) -> None:
        self.workers = workers
        self._counts = memoryview(mmap.mmap(-1, processes * workers * COUNT_BYTES)).cast("q")
        self._start = 0
        self._last = -1

    def enter(self, place: int) -> None:
        """Makes this process, or the next that it forks, count at `place`. The counts there begin at 0: who had them is gone."""
        self._start = place * self.workers
        for worker in range(self.workers):
            self._counts[self._start + worker] = 0

    def of(self, worker: int) -> int:
        """What all processes have asked of a worker."""
        return sum(self._counts[worker :: self.workers])

    def add(self, worker: int, tokens: int) -> None:
        """Counts tokens that this process asks for; less than 0 for those that it no longer waits for."""
        self._counts[self._start + worker] += tokens

    def least(self, workers: Sequence[int]) -> int:
        """The one of `workers` with the fewest tokens; by lot where several have as few.

        Of idle ones it is the one that this process asked last. On a CPU it has all cores while the others are quiet: taken in
        turns, two workers answered 501 lone requests a second instead of 694."""
        if self._last not in workers or self.of(self._last):
            self._last = min(workers, key=lambda worker: (self.of(worker), random.random()))
        return self._last
