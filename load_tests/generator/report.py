"""What came back: responses are recorded one by one and summed up at the end."""

import dataclasses
import math
from array import array
from collections import Counter
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What came back within the measured seconds. Latencies are those of good responses, NaN where there was none. With fewer
    than 1,000 responses the p99.9 is the slowest one. `generator_cpu` is the share of a core that the generator's busiest process
    took; near 1 the generator was the limit, not the server."""

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


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What one process of the generator recorded in `seconds`; it used `cpu_s` of CPU time meanwhile."""

    latencies_s: "array[float]"
    errors: Counter[str]
    seconds: float
    cpu_s: float


def summed(parts: Sequence[Recorded], *, texts_per_request: int) -> Report:
    """Rates and percentiles over all processes."""
    latencies_s = sorted(latency_s for part in parts for latency_s in part.latencies_s)
    requests_per_s = sum(len(part.latencies_s) / part.seconds for part in parts)
    return Report(
        requests=len(latencies_s),
        errors=dict(sum((part.errors for part in parts), Counter())),
        requests_per_s=requests_per_s,
        texts_per_s=requests_per_s * texts_per_request,
        p50_ms=1000 * percentile(latencies_s, 0.50),
        p90_ms=1000 * percentile(latencies_s, 0.90),
        p99_ms=1000 * percentile(latencies_s, 0.99),
        p999_ms=1000 * percentile(latencies_s, 0.999),
        max_ms=1000 * percentile(latencies_s, 1.0),
        generator_cpu=max(part.cpu_s / part.seconds for part in parts),
    )


def percentile(ascending: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that at least this share of the values do not exceed; NaN if there are none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    if not ascending:
        return math.nan
    return ascending[max(0, math.ceil(share * len(ascending)) - 1)]
