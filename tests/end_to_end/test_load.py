"""The load test itself: Locust, headless, against a real service."""

import csv
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SECONDS = "3"
SAFETY_S = 240


def run_load(*arguments: str, results: Path) -> tuple[int, str]:
    """Runs the load test: (exit status, its output)."""
    command = [sys.executable, "-m", "load_tests.locust_load", "--seconds", SECONDS, "--results", str(results), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SAFETY_S, check=False)
    return done.returncode, done.stdout + done.stderr


def requests(results: Path) -> dict[str, int]:
    """How many requests of each name Locust's table counts."""
    with (results / "run_stats.csv").open(newline="") as table:
        return {row["Name"]: int(row["Request Count"]) for row in csv.DictReader(table)}


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("steady", {"one text", "32 texts", "one text to tiny-bert"}),
        ("long-text", {"one text", "a long text"}),
        ("mixed-model", {"one text to tiny-bert", "one text to tiny-lstm"}),
    ],
)
def test_a_scenario_sends_what_it_says_and_keeps_wide_bounds(server: Any, tmp_path: Path, scenario: str, names: set[str]) -> None:
    bounds = ("--slo-p95-ms", "60000", "--slo-p99-ms", "60000", "--slo-min-rps", "0.1")
    status, said = run_load("--url", server.url, "--scenario", scenario, "--users", "8", *bounds, results=tmp_path)
    assert status == 0, said
    assert said.count("kept: ") == 5
    assert names <= requests(tmp_path / scenario).keys()
    assert "<html" in (tmp_path / scenario / "report.html").read_text()[:1000].lower()


def test_a_missed_bound_is_the_exit_status(server: Any, tmp_path: Path) -> None:
    arguments = ("--url", server.url, "--users", "2", "--scenario", "long-text", "--slo-min-rps", "100000")
    status, said = run_load(*arguments, results=tmp_path)
    assert status == 1
    assert "MISSED: answered requests/s" in said


def test_a_spike_counts_refusals_apart_from_failures(models: Mapping[str, Path], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    service = f"--models tiny-bert={models['tiny-bert']} --device cpu --http-processes 1 --max-concurrent-requests 1"
    arguments = ("--scenario", "spike", "--users", "8", "--pace", "0", "--slo-p95-ms", "60000")
    status, said = run_load(*arguments, "--port", port, "--service", service, results=tmp_path)
    assert status == 0, said
    assert "kept: share of failures 0, at most 0" in said
    assert requests(tmp_path / "spike")["refused (429)"] > 0
    assert (tmp_path / "spike" / "service.log").stat().st_size > 0
