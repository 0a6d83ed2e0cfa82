"""Which users a load test has, and how their number changes. Locust is not imported here: the command and tests do without it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """`crowd` times as many users as `--users`, until the share `until` of the run time has passed."""

    until: float
    crowd: float


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`users` are classes of `load_tests.locust_load.users`; each has its own weight. All arrive within a second, or within the
    share `ramp_share` of the run time. `refused_ratio`: share of 429s tolerated unless the command line says otherwise."""

    description: str
    users: tuple[str, ...]
    stages: tuple[Stage, ...] = (Stage(until=1.0, crowd=1.0),)
    ramp_share: float = 0.0
    seconds: int = 30
    refused_ratio: float = 0.0


MIX = ("SingleTextUser", "BatchUser", "MixedModelUser")
SCENARIOS: Mapping[str, Scenario] = {
    "steady": Scenario(description="of 8 users 6 send single texts, 1 batches, 1 asks each model in turn", users=MIX),
    "spike": Scenario(
        description="single texts; in the middle fifth of the time five times as many users, who may be refused",
        users=("SingleTextUser",),
        stages=(Stage(until=0.4, crowd=1.0), Stage(until=0.6, crowd=5.0), Stage(until=1.0, crowd=1.0)),
        refused_ratio=1.0,
    ),
    "soak": Scenario(
        description="steady and long texts for an hour; users arrive over the first twentieth of it",
        users=(*MIX, "LongTextUser"),
        ramp_share=0.05,
        seconds=3600,
    ),
    "client-batch": Scenario(description="batches of 32 texts only", users=("BatchUser",)),
    "long-text": Scenario(
        description="one long text among six short ones, whose latency shows who waits for whom",
        users=("SingleTextUser", "LongTextUser"),
    ),
    "mixed-model": Scenario(description="each served model in turn, by path", users=("MixedModelUser",)),
}


def crowd_at(scenario: Scenario, elapsed_s: float, *, run_time_s: float, users: int) -> tuple[int, float] | None:
    """How many users there shall be and how many may come or go in a second; None when the time is over.

    >>> [crowd_at(SCENARIOS["spike"], second, run_time_s=10, users=8) for second in (0, 5, 7, 10)]
    [(8, 8.0), (40, 40.0), (8, 40.0), None]
    """
    elapsed = elapsed_s / run_time_s
    stage = next((stage for stage in scenario.stages if elapsed < stage.until), None)
    if stage is None:
        return None
    widest = max(earlier.crowd for earlier in scenario.stages if earlier.until <= stage.until)
    rate = math.ceil(users * widest) / max(1.0, scenario.ramp_share * run_time_s)
    return math.ceil(users * stage.crowd), rate


def table() -> str:
    """The scenarios for `--help`, one a line."""
    return "\n".join(f"  {name:13} {scenario.description}" for name, scenario in SCENARIOS.items())
