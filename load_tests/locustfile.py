"""Users of the service, for Locust. A response fails by its shape as well as by its status.

    locust -f load_tests/locustfile.py --host http://127.0.0.1:8000

Each user sends `--pace` requests a second (batches: an eighth of it); 0: the next request as soon as the last is answered. At the
end the run fails if a bound is missed: `--slo-failure-ratio`, `--slo-p95-ms`, `--slo-min-rps`.
"""

import argparse
import itertools
import random
from collections.abc import Sequence
from typing import Any

from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser

from load_tests.texts import user_texts

CLIENT_BATCH = 32
# A batch counts for many texts: its users ask more seldom, so that they don't crowd out the others.
BATCH_PACE_SHARE = 1 / 8
TIMING_HEADERS = ("x-queue-time-ms", "x-inference-time-ms", "x-total-time-ms")
TEXTS = user_texts(4096)


@events.init_command_line_parser.add_listener
def add_arguments(parser: Any) -> None:
    """Locust's parser reads the environment too."""
    # A group of arguments knows no is_secret, which keeps the key out of the web page.
    parser.add_argument("--api-key", type=str, default="", env_var="LOAD_API_KEY", is_secret=True, help="sent as a bearer token")
    own = parser.add_argument_group("Valence's load test")
    own.add_argument("--pace", type=float, default=1.0, env_var="LOAD_PACE", help="requests/s of one user; 0: no pause")
    own.add_argument("--slo-p95-ms", type=float, default=1000.0, env_var="LOAD_SLO_P95_MS", help="most that p95 may be; 0: any")
    own.add_argument("--slo-failure-ratio", type=float, default=0.0, env_var="LOAD_SLO_FAILURE_RATIO", help="most that may fail")
    own.add_argument("--slo-min-rps", type=float, default=0.0, env_var="LOAD_SLO_MIN_RPS", help="least requests/s")


@events.quitting.add_listener
def check_bounds(environment: Environment, **_: object) -> None:
    """Sets the exit status, and says which bounds are missed."""
    missed = missed_bounds(environment.stats.total, environment.parsed_options)
    for sentence in missed:
        print(f"missed: {sentence}")
    environment.process_exit_code = 1 if missed else 0


def missed_bounds(total: Any, options: argparse.Namespace) -> list[str]:
    """One sentence for each bound that the run misses."""
    if not total.num_requests:
        return ["no request was answered"]
    p95_ms = total.get_response_time_percentile(0.95)
    missed = []
    if total.fail_ratio > options.slo_failure_ratio:
        missed.append(f"failure ratio {total.fail_ratio:.4f}, at most {options.slo_failure_ratio}")
    if options.slo_p95_ms and p95_ms > options.slo_p95_ms:
        missed.append(f"p95 {p95_ms:.0f} ms, at most {options.slo_p95_ms:.0f} ms")
    if total.total_rps < options.slo_min_rps:
        missed.append(f"{total.total_rps:.1f} requests/s, at least {options.slo_min_rps}")
    return missed


class ServiceUser(FastHttpUser):
    """Sends its own walk through the texts and checks what comes back."""

    abstract = True
    pace_share = 1.0

    def on_start(self) -> None:
        """Users start in different places."""
        first = random.randrange(len(TEXTS))
        self.texts = itertools.cycle([*TEXTS[first:], *TEXTS[:first]])
        key = self.environment.parsed_options.api_key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def wait_time(self) -> float:
        """Exponential pauses: arrivals of many users that don't know of each other."""
        rate = self.environment.parsed_options.pace * self.pace_share
        return random.expovariate(rate) if rate else 0.0

    def predict(self, inputs: str | list[str], *, path: str = "/predict", name: str) -> None:
        """One checked request, listed as `name`."""
        with self.client.post(path, json={"inputs": inputs}, headers=self.headers, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}: {(response.text or str(response.error))[:120]}")
            elif fault := answer_fault(response, inputs):
                response.failure(fault)
            else:
                response.success()


class SingleTextUser(ServiceUser):
    """Steady traffic of one text a request."""

    weight = 6

    @task
    def single(self) -> None:
        self.predict(next(self.texts), name="one text")


class BatchUser(ServiceUser):
    """A client that collects texts before it asks."""

    weight = 1
    pace_share = BATCH_PACE_SHARE

    @task
    def batch(self) -> None:
        self.predict([next(self.texts) for _ in range(CLIENT_BATCH)], name=f"{CLIENT_BATCH} texts")


class MixedModelsUser(ServiceUser):
    """Asks each served model in turn, by path."""

    weight = 1

    def on_start(self) -> None:
        super().on_start()
        response = self.client.get("/info", headers=self.headers, name="/info")
        if response.status_code != 200:  # counted as a failure already
            raise StopUser
        self.models = itertools.cycle([model["name"] for model in response.json()["models"]])

    @task
    def next_model(self) -> None:
        name = next(self.models)
        self.predict(next(self.texts), path=f"/models/{name}/predict", name=f"one text to {name}")


def answer_fault(response: Any, inputs: str | list[str]) -> str | None:
    """What is wrong with a response of status 200, or None."""
    answer = response.json()
    results = [answer] if isinstance(inputs, str) else answer
    if not isinstance(results, list) or len(results) != (1 if isinstance(inputs, str) else len(inputs)):
        return "not one result for each text"
    if not all(is_result(result) for result in results):
        return "a result is not labels with scores, best first, that sum to 1"
    if missing := [name for name in TIMING_HEADERS if name not in response.headers]:
        return f"without the headers {', '.join(missing)}"
    return None


def is_result(result: Sequence[dict[str, Any]]) -> bool:
    """Whether `result` is what a single-label classifier says of one text.

    >>> is_result([{"label": "positive", "score": 0.75}, {"label": "negative", "score": 0.25}])
    True
    """
    try:
        scores = [float(item["score"]) for item in result]
        labels = {str(item["label"]) for item in result}
    except (TypeError, KeyError, ValueError):
        return False
    return len(labels) == len(scores) > 0 and scores == sorted(scores, reverse=True) and abs(sum(scores) - 1) < 1e-2
