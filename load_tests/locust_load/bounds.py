"""Whether a load test's bounds were kept."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to. Refusals (429) are not in `failed`, nor in the latencies, which they would make look better."""

    answered: int
    failed: int
    refused: int
    p95_ms: float
    p99_ms: float
    answered_per_s: float

    @property
    def requests(self) -> int:
        return self.answered + self.failed + self.refused


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What was promised. A latency or a rate of 0 is no bound. A ratio is a share of all requests; 0 allows none."""

    p95_ms: float = 0.0
    p99_ms: float = 0.0
    failure_ratio: float = 0.0
    refused_ratio: float = 0.0
    min_rps: float = 0.0


@dataclass(frozen=True)
class Judgement:
    """One bound beside what was measured."""

    kept: bool
    sentence: str


def judge(outcome: Outcome, bounds: Bounds) -> list[Judgement]:
    """Every bound that was set, in the order of `Bounds`. If no request was answered, a single judgement says so.

    >>> judge(Outcome(answered=9, failed=1, refused=0, p95_ms=80, p99_ms=90, answered_per_s=2), Bounds())[0].sentence
    'share of failures 0.1, at most 0'
    """
    if not outcome.answered:
        return [Judgement(False, f"no request was answered: {outcome.failed} failed, {outcome.refused} were refused")]
    judgements = [
        _at_most("share of failures", outcome.failed / outcome.requests, bounds.failure_ratio),
        _at_most("share of refusals (429)", outcome.refused / outcome.requests, bounds.refused_ratio),
    ]
    if bounds.p99_ms:
        judgements.insert(0, _at_most("p99 in ms", outcome.p99_ms, bounds.p99_ms))
    if bounds.p95_ms:
        judgements.insert(0, _at_most("p95 in ms", outcome.p95_ms, bounds.p95_ms))
    if bounds.min_rps:
        sentence = f"answered requests/s {outcome.answered_per_s:.1f}, at least {bounds.min_rps:g}"
        judgements.append(Judgement(outcome.answered_per_s >= bounds.min_rps, sentence))
    return judgements


def _at_most(what: str, found: float, bound: float) -> Judgement:
    return Judgement(found <= bound, f"{what} {found:.4g}, at most {bound:g}")
