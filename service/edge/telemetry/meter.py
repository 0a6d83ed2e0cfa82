"""What an HTTP process counts of its requests."""

import asyncio
import collections
import time

from prometheus_client import Histogram

from service import metrics
from service.edge.http.call import Call

# What an HTTP process counts is there after so long for a scrape that another HTTP process answers.
TALLY_S = 0.05


class RequestMeter:
    """The histograms of one model's requests."""

    def __init__(self, model: str) -> None:
        self.duration = metrics.REQUEST_DURATION.labels(model)
        self.tokenization = metrics.TOKENIZATION_DURATION.labels(model)


class Tally:
    """What an HTTP process has counted and not written yet: to write one number takes 3 us, a hundred together hardly more."""

    def __init__(self) -> None:
        self._meters: dict[str, RequestMeter] = {}
        self._answers: collections.Counter[tuple[str, str, int]] = collections.Counter()
        self._amounts: dict[Histogram, list[float]] = {}
        self._is_due = False

    def ended(self, route: str, call: Call, status: int | None) -> None:
        """Counts how a request ended, and observes how long its parts took. `status` None: the client had gone."""
        if status is not None:
            self.answered(route, call.model, status)
        if call.tokenized_at:
            meter = self._meters.get(call.model) or self._meters.setdefault(call.model, RequestMeter(call.model))
            self.observed(meter.tokenization, call.tokenized_at - call.tokenization_started_at)
            if call.is_scored:
                self.observed(meter.duration, time.perf_counter() - call.started_at)

    def answered(self, route: str, model: str, status: int) -> None:
        """Counts an answer. All three labels come from closed sets."""
        self._answers[route, model, status] += 1
        self._write_soon()

    def observed(self, histogram: Histogram, amount: float) -> None:
        """Notes an amount for a histogram that is bound to its labels."""
        self._amounts.setdefault(histogram, []).append(amount)
        self._write_soon()

    def write(self) -> None:
        """Writes all that was noted to where a scrape finds it."""
        answers, self._answers = self._answers, collections.Counter()
        amounts, self._amounts = self._amounts, {}
        self._is_due = False
        for (route, model, status), count in answers.items():
            metrics.REQUESTS.labels(route, model, str(status)).inc(count)
        for histogram, found in amounts.items():
            metrics.observe_all(histogram, found)

    def _write_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(TALLY_S, self.write)
