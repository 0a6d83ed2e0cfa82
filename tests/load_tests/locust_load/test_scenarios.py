"""Who comes, how many, when; and that Locust is told so."""

import ast
from pathlib import Path

import pytest

from load_tests.locust_load.__main__ import locust_command, parser
from load_tests.locust_load.scenarios import SCENARIOS, crowd_at

USERS = ast.parse((Path(__file__).parents[3] / "load_tests/locust_load/users.py").read_text())


def test_every_scenario_that_the_documentation_names_is_there() -> None:
    assert set(SCENARIOS) == {"steady", "spike", "soak", "client-batch", "long-text", "mixed-model"}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_names_users_that_exist(name: str) -> None:
    """Read as text: importing Locust would patch this process's sockets."""
    classes = {node.name for node in USERS.body if isinstance(node, ast.ClassDef)}
    assert set(SCENARIOS[name].users) <= classes


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_stages_of_a_scenario_fill_its_time(name: str) -> None:
    ends = [stage.until for stage in SCENARIOS[name].stages]
    assert ends == sorted(set(ends))
    assert ends[-1] == 1.0


@pytest.mark.parametrize(("elapsed_s", "crowd"), [(0, 8), (3.9, 8), (4, 40), (5.9, 40), (6, 8), (9.9, 8)])
def test_a_spike_is_five_times_as_many_in_the_middle_fifth(elapsed_s: float, crowd: int) -> None:
    found = crowd_at(SCENARIOS["spike"], elapsed_s, run_time_s=10, users=8)
    assert found is not None
    assert found[0] == crowd


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_run_ends_with_its_time(name: str) -> None:
    assert crowd_at(SCENARIOS[name], 9.99, run_time_s=10, users=8) is not None
    assert crowd_at(SCENARIOS[name], 10, run_time_s=10, users=8) is None


def test_users_of_a_spike_come_and_go_within_a_second() -> None:
    assert crowd_at(SCENARIOS["spike"], 50, run_time_s=100, users=8) == (40, 40)
    assert crowd_at(SCENARIOS["spike"], 61, run_time_s=100, users=8) == (8, 40)


def test_users_of_a_soak_arrive_slowly() -> None:
    assert crowd_at(SCENARIOS["soak"], 0, run_time_s=1000, users=100) == (100, 2)


def command(*arguments: str) -> list[str]:
    options, more = parser().parse_known_args(arguments)
    return locust_command("http://127.0.0.1:9", options, Path("/results"), more)


@pytest.mark.parametrize(("arguments", "run_time"), [((), "3600s"), (("--seconds", "5"), "5s")])
def test_a_scenario_has_a_time_of_its_own(arguments: tuple[str, ...], run_time: str) -> None:
    found = command("--scenario", "soak", *arguments)
    assert found[found.index("--scenario") + 1] == "soak"
    assert found[found.index("--run-time") + 1] == run_time


def test_what_is_locusts_goes_on_to_it() -> None:
    assert command("--users", "3", "--slo-p99-ms", "250", "--pace", "2")[-4:] == ["--slo-p99-ms", "250", "--pace", "2"]
