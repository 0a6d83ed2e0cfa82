"""Counts of several processes add up."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.edge.telemetry import meter
from service.engine.packs import TextIds
from service.worker.meter import BatchMeter
from service.worker.queue import QueuedText

ROOT = Path(__file__).parent.parent.parent
COUNT = "from service import metrics; metrics.REQUESTS.labels('/predict', 'm', '200').inc({}); metrics.IN_FLIGHT.set({}); {}"


def value(exposition: str, name: str, **labels: str) -> float:
    samples = [sample for family in text_string_to_metric_families(exposition) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str], str]:
    """Runs a line of Python in a process of its own, whose metrics lie in this test's folder."""

    def run_line(line: str) -> str:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        return subprocess.run(
            [sys.executable, "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
        ).stdout

    return run_line


def test_counters_outlive_their_process_and_gauges_do_not(run: Callable[[str], str]) -> None:
    pid = run(COUNT.format(2, 5, "import os; print(os.getpid())")).strip()
    shown = run(COUNT.format(3, 1, f"metrics.process_died({pid}); print(metrics.exposition().decode())"))
    assert value(shown, "valence_requests_total", route="/predict", model="m", status="200") == 5
    assert value(shown, "valence_requests_in_flight") == 1


def test_import_without_the_directory_is_refused() -> None:
    environment = {name: setting for name, setting in os.environ.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", "import service.metrics"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "sets the directory before it imports the service" in done.stderr


def test_what_is_tallied_is_written_soon_and_for_a_scrape_at_once() -> None:
    tally, histogram = meter.Tally(), meter.RequestMeter("tallied").duration

    def seen() -> list[float]:
        shown = metrics.exposition().decode()
        names = ("valence_requests_total", "valence_request_duration_seconds_count", "valence_request_duration_seconds_sum")
        return [value(shown, name, model="tallied") for name in names]

    async def serve() -> None:
        tally.answered("/predict", "tallied", 200)
        tally.answered("/predict", "tallied", 429)
        tally.observed(histogram, 0.25)
        assert seen() == [0, 0, 0]
        tally.write()
        assert seen() == [2, 1, 0.25]
        tally.answered("/predict", "tallied", 200)
        tally.observed(histogram, 0.5)
        await asyncio.sleep(10 * meter.TALLY_S)
        assert seen() == [3, 2, 0.75]

    asyncio.run(serve())


def test_a_batch_is_observed_text_by_text() -> None:
    observed = BatchMeter({0: "one", 1: "two"}, device="cpu/0", max_batch_tokens=64)
    batch = [QueuedText(1, 0, index, 99.0, 1.0, TextIds(np.zeros(length, np.int32))) for index, length in enumerate((3, 5, 7))]
    observed.observe(1, batch, started_at=1.5, inference_s=0.25, failed=1, padding=4)
    observed.write()
    shown = metrics.exposition().decode()
    expected = {
        "valence_texts_total": 2,
        "valence_input_tokens_count": 3,
        "valence_input_tokens_sum": 15,
        "valence_queue_duration_seconds_sum": 1.5,
        "valence_inference_duration_seconds_sum": 0.25,
        "valence_batch_texts_sum": 3,
        "valence_batch_tokens_sum": 15,
    }
    assert {name: value(shown, name, model="two") for name in expected} == expected
    assert value(shown, "valence_tokens_total", model="two", kind="real") == 15
    assert value(shown, "valence_tokens_total", model="two", kind="padding") == 4
    assert value(shown, "valence_texts_total", model="one") == 0


def test_many_amounts_are_observed_as_one_by_one() -> None:
    amounts = [0.0, 0.0002, 0.00021, 0.005, 0.7, 29.9, 30.0, 31.0, 1e6]
    metrics.observe_all(metrics.QUEUE_DURATION.labels("at once"), amounts)
    for amount in amounts:
        metrics.QUEUE_DURATION.labels("singly").observe(amount)
    shown = [line for line in metrics.exposition().decode().splitlines() if line.startswith("valence_queue_duration_seconds")]
    at_once, singly = ([line.replace(name, "") for line in shown if name in line] for name in ("at once", "singly"))
    assert at_once == singly
    assert any(line.endswith(" 9.0") for line in singly)


@pytest.mark.parametrize(("restarted", "counted"), [(False, 0), (True, 1)])
def test_only_a_worker_that_follows_another_counts_as_restart(restarted: bool, counted: int) -> None:
    device = f"test/{restarted}"
    metrics.worker_started(device, restarted=restarted)
    assert value(metrics.exposition().decode(), "valence_worker_restarts_total", device=device) == counted


def test_buckets_span_a_fifth_of_a_millisecond_to_half_a_minute() -> None:
    assert (metrics.SECONDS[0], metrics.SECONDS[-1]) == (0.0002, 30)
    assert list(metrics.SECONDS) == sorted(set(metrics.SECONDS))
