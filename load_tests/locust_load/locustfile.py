"""What Locust loads: users and their number by `--scenario`, and bounds that decide the exit status.

locust -f load_tests/locust_load/locustfile.py --host http://127.0.0.1:8000 --scenario spike --users 32
"""

from typing import Any

from locust import LoadTestShape, events
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import RequestStats, StatsEntry

from load_tests.locust_load import users
from load_tests.locust_load.bounds import Bounds, Outcome, judge
from load_tests.locust_load.scenarios import SCENARIOS, crowd_at
from load_tests.locust_load.users import REFUSED, BatchUser, LongTextUser, MixedModelUser, SingleTextUser

__all__ = ["BatchUser", "LongTextUser", "MixedModelUser", "ScenarioShape", "SingleTextUser"]  # what Locust looks for here


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Locust reads these from the environment too, and its web page has a field for each. Arguments in a group would get none."""

    def number(flag: str, default: float, help: str) -> None:
        parser.add_argument(flag, type=float, default=default, env_var="LOAD_" + flag[2:].upper().replace("-", "_"), help=help)

    parser.add_argument("--api-key", type=str, default="", env_var="LOAD_API_KEY", is_secret=True, help="sent as a bearer token")
    parser.add_argument(
        "--scenario", choices=list(SCENARIOS), default="steady", env_var="LOAD_SCENARIO", help="who asks, and when"
    )
    number("--pace", 1.0, "requests/s of one user; 0: no pause")
    number("--slo-p95-ms", 1000.0, "most that p95 may be; 0: any")
    number("--slo-p99-ms", 0.0, "most that p99 may be; 0: any")
    number("--slo-failure-ratio", 0.0, "most that may fail")
    number("--slo-refused-ratio", -1.0, "most that may be refused (429); below 0: as the scenario says")
    number("--slo-min-rps", 0.0, "least requests/s that are answered")


class ScenarioShape(LoadTestShape):
    """The scenario's users and their number, asked for once a second."""

    use_common_options = True  # --users and --run-time

    def tick(self) -> tuple[int, float, list[Any]] | None:
        options = self.runner.environment.parsed_options
        scenario = SCENARIOS[options.scenario]
        run_time_s = options.run_time or scenario.seconds
        crowd = crowd_at(scenario, self.get_run_time(), run_time_s=run_time_s, users=options.num_users or 1)
        return None if crowd is None else (*crowd, [getattr(users, name) for name in scenario.users])


@events.quitting.add_listener
def check_bounds(environment: Environment, **_: object) -> None:
    """Prints of each bound whether it was kept, and sets the exit status. A worker of `--processes` does not hold the sums."""
    if isinstance(environment.runner, WorkerRunner):
        return
    judgements = judge(outcome(environment.stats), bounds(environment.parsed_options))
    for judgement in judgements:
        print(f"{'kept' if judgement.kept else 'MISSED'}: {judgement.sentence}")
    environment.process_exit_code = 0 if all(judgement.kept for judgement in judgements) else 1


def bounds(options: Any) -> Bounds:
    """From the command line; where it sets no share of refusals, from the scenario."""
    refused_ratio = options.slo_refused_ratio
    return Bounds(
        p95_ms=options.slo_p95_ms,
        p99_ms=options.slo_p99_ms,
        failure_ratio=options.slo_failure_ratio,
        refused_ratio=SCENARIOS[options.scenario].refused_ratio if refused_ratio < 0 else refused_ratio,
        min_rps=options.slo_min_rps,
    )


def outcome(stats: RequestStats) -> Outcome:
    """The sum of all rows of the tables but the refusals' row. Locust rounds latencies to two digits."""
    total = StatsEntry(stats, "all but refused", "")
    refused = 0
    for (name, _), entry in stats.entries.items():
        if name == REFUSED:
            refused += entry.num_requests
        else:
            total.extend(entry)
    answered = total.num_requests - total.num_failures
    return Outcome(
        answered=answered,
        failed=total.num_failures,
        refused=refused,
        p95_ms=total.get_response_time_percentile(0.95),
        p99_ms=total.get_response_time_percentile(0.99),
        answered_per_s=answered / seconds if (seconds := (stats.last_request_timestamp or 0) - stats.start_time) > 0 else 0.0,
    )
