"""What a load found: responses are recorded one by one, and summed up at the end."""

import dataclasses
import math
from array import array
from collections import Counter
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What came back within the measured seconds. Latencies are those of good responses, NaN where there was none; of fewer than
    1,000 responses the p99.9 is the slowest one. `generator_cpu` is the generator's share of one core: near 1, it was the limit
    and not the server."""

    requests: int
    errors: dict[str, int]
    requests_per_s: float
    texts_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    generator_cpu: float


class Recorder:
    """Collects latencies and errors while it is open."""

    def __init__(self) -> None:
        self.is_open = False
        self.latencies_s = array("d")
        self.errors: Counter[str] = Counter()

    def good(self, latency_s: float) -> None:
        if self.is_open:
            self.latencies_s.append(latency_s)

    def error(self, name: str) -> None:
        if self.is_open:
            self.errors[name] += 1

    def report(self, *, texts_per_request: int, seconds: float, cpu_s: float) -> Report:
        """Rates and percentiles."""
        latencies_s = sorted(self.latencies_s)
        requests_per_s = len(latencies_s) / seconds
        return Report(
            requests=len(latencies_s),
            errors=dict(self.errors),
            requests_per_s=requests_per_s,
            texts_per_s=requests_per_s * texts_per_request,
            p50_ms=1000 * percentile(latencies_s, 0.50),
            p90_ms=1000 * percentile(latencies_s, 0.90),
            p99_ms=1000 * percentile(latencies_s, 0.99),
            p999_ms=1000 * percentile(latencies_s, 0.999),
            max_ms=1000 * percentile(latencies_s, 1.0),
            generator_cpu=cpu_s / seconds,
        )


def percentile(ascending: Sequence[float], share: float) -> float:
    """Nearest rank: the least value that at least `share` of the values do not exceed; NaN of nothing.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
