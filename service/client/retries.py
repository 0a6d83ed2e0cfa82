"""Which failures are tried again, and when."""

import random
import time
from dataclasses import dataclass

from service.client.failures import Overloaded, TimedOut, Unavailable, Unreachable, ValenceError

# Scoring changes nothing, so a request that may have been computed can be sent again.
PASSING = (Overloaded, Unavailable, Unreachable)


@dataclass(frozen=True, slots=True)
class Retries:
    """At most `count` more attempts, each after a random part of a time that doubles from `first_s` up to `longest_s`.

    That is "full jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/. Where the service sends
    `Retry-After` the random part comes on top, so that clients who were turned away together do not return together.
    """

    count: int = 4
    first_s: float = 0.1
    longest_s: float = 5.0

    def pause_s(self, failures: int, *, retry_after_s: float | None) -> float:
        """The wait after so many failures, of which the last asked for `retry_after_s`."""
        return (retry_after_s or 0.0) + random.uniform(0, min(self.longest_s, self.first_s * 2 ** (failures - 1)))


class Attempts:
    """The attempts of one request, all within `deadline` (`time.monotonic()` seconds)."""

    def __init__(self, retries: Retries, *, deadline: float) -> None:
        self.retries = retries
        self.deadline = deadline
        self.failures = 0

    def left_s(self) -> float:
        """What the next attempt may take. TimedOut where nothing is left."""
        left_s = self.deadline - time.monotonic()
        if left_s <= 0:
            raise TimedOut("no answer before the deadline", "timeout")
        return left_s

    def pause_s(self, failure: ValenceError) -> float:
        """The wait before the next attempt. Raises `failure` if there is no further attempt, or none before the deadline."""
        self.failures += 1
        if self.failures > self.retries.count or not isinstance(failure, PASSING):
            raise failure
        pause_s = self.retries.pause_s(self.failures, retry_after_s=failure.retry_after_s)
        if time.monotonic() + pause_s >= self.deadline:
            raise failure
        return pause_s
