"""The log of a running service: one line an event, in JSON, no flood, and nothing that a client sent. The tests run in order."""

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

LIMIT = 2
TEXTS = ("good food", "food poison", "slow")
FIELDS = {"time", "level", "logger", "process", "message"}


@pytest.fixture(scope="module")
def logging_server(start_server: Callable[..., Any]) -> Any:
    flags = ("--http-processes", "2", "--workers-per-device", "2", "--max-concurrent-requests", str(2 * LIMIT))
    return start_server(*flags, "--log-requests", "true", "--api-key", "s3cret", headers={"x-api-key": "s3cret"})


def requests_logged(server: Any, request_id: str) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line["logger"] == "valence.access" and line["request_id"] == request_id]


def test_a_start_ends_with_one_line_that_says_what_is_served(logging_server: Any) -> None:
    lines = logging_server.lines()
    assert all(line.keys() >= FIELDS for line in lines)
    (ready,) = [line for line in lines if line["message"].startswith("ready: ")]
    assert "failing (failing, float32 on cpu, no attention, padded batches); 2 workers, 2 HTTP processes;" in ready["message"]
    assert ready["workers"] == ["cpu/0", "cpu/1"]
    assert ready["limits"] == {"max_batch_tokens": 2048, "max_concurrent_requests": 2 * LIMIT, "request_timeout_s": 30}
    assert [model["name"] for model in ready["models"]] == ["failing"]
    assert ready["message"].endswith(logging_server.url)
    for device in ("cpu/0", "cpu/1"):
        assert [line["message"] for line in lines].count(f"worker {device} is ready") == 1


def test_a_request_is_a_line_that_says_how_it_went(logging_server: Any, wait: Callable[..., None]) -> None:
    answer = logging_server.predict(["good food", "bad"], headers={"x-request-id": "mine"})
    wait(lambda: requests_logged(logging_server, "mine"), timeout_s=10)
    (line,) = requests_logged(logging_server, "mine")
    expected = {"route": "/predict", "model": "failing", "status": 200, "error_type": None, "texts": 2}
    assert {name: line[name] for name in expected} == expected
    assert line["tokens"] == int(answer.headers["x-tokens"])
    assert line["queue_ms"] == pytest.approx(float(answer.headers["x-queue-time-ms"]), abs=0.002)
    assert line["inference_ms"] == pytest.approx(float(answer.headers["x-inference-time-ms"]), abs=0.002)
    assert line["total_ms"] >= line["tokenization_ms"] + line["inference_ms"] > 0


@pytest.mark.parametrize(
    ("inputs", "fields", "status", "error_type"),
    [(3, {}, 422, "validation"), ("good", {"model": "none"}, 404, "not_found"), ("food poison", {}, 424, "backend")],
)
def test_a_failed_request_says_why(
    logging_server: Any, wait: Callable[..., None], inputs: Any, fields: dict[str, str], status: int, error_type: str
) -> None:
    logging_server.predict(inputs, headers={"x-request-id": error_type}, **fields)
    wait(lambda: requests_logged(logging_server, error_type), timeout_s=10)
    (line,) = requests_logged(logging_server, error_type)
    assert (line["status"], line["error_type"]) == (status, error_type)
    assert (line["tokenization_ms"] is None) == (status != 424)


def test_a_model_that_keeps_failing_does_not_flood_the_log(logging_server: Any) -> None:
    with ThreadPoolExecutor(LIMIT) as pool:
        list(pool.map(lambda _: logging_server.predict("food poison"), range(60)))
    failures = [line for line in logging_server.lines() if line["message"] == "the model failed on a text: ValueError"]
    assert 1 <= len(failures) <= 6  # one in ten seconds from each of two workers
    assert failures[0]["tokens"] > 0


def test_an_overload_is_summed_up(logging_server: Any, wait: Callable[..., None]) -> None:
    with logging_server.slow_requests(2), ThreadPoolExecutor(16) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: logging_server.predict("slow"), range(64))]
    refused = statuses.count(429)
    assert refused
    wait(lambda: sum(line.get("refused", 0) for line in logging_server.lines()) == refused, timeout_s=20)
    lines = [line for line in logging_server.lines() if "refused" in line]
    assert {line["level"] for line in lines} == {"warning"}
    assert len(lines) < refused


def of_workers(server: Any) -> list[dict[str, Any]]:
    return [line for line in server.lines() if line["logger"] == "valence.workers"]


@pytest.mark.parametrize("replaced", ["none", "the silent one", "the one that speaks", "both"])
def test_a_killed_worker_is_lost_and_found_in_one_line_each(
    logging_server: Any, wait: Callable[..., None], replaced: str
) -> None:
    """It is so whichever of the two HTTP processes was replaced before, though both see that the worker is lost.

    A process leaves out a line that it wrote within the last ten seconds. So the cases come in this order: the first two are
    about different workers, and from the third on another process speaks."""
    speaker = of_workers(logging_server)[-1]["process"]
    processes = {process.pid: process for process in logging_server.http_processes()}
    silent = processes.keys() - {speaker}
    dead = {"none": set(), "the silent one": silent, "the one that speaks": {speaker}, "both": set(processes)}[replaced]
    for pid in dead:
        processes[pid].kill()
    wait(lambda: len({process.pid for process in logging_server.http_processes()} - dead) == 2, timeout_s=60)
    wait(lambda: logging_server.links() == [2, 2], timeout_s=60)
    if speaker in dead:  # another process logs that it found the workers
        wait(lambda: of_workers(logging_server)[-1]["process"] != speaker, timeout_s=60)
        wait(lambda: of_workers(logging_server)[-1]["message"].startswith("ready: "), timeout_s=60)
    before = len(of_workers(logging_server))
    logging_server.workers()[0].kill()
    wait(lambda: not logging_server.is_ready(), timeout_s=10)
    logging_server.wait_until_ready()
    wait(lambda: len(of_workers(logging_server)) >= before + 2, timeout_s=10)
    after = of_workers(logging_server)[before:]
    assert [(line["level"], line["message"].partition("cpu/")[0]) for line in after] == [
        ("warning", "worker "),
        ("info", "worker "),
    ]


def test_a_stop_is_three_lines_and_the_log_holds_nothing_that_a_client_sent(logging_server: Any) -> None:
    before = len(logging_server.lines())
    logging_server.process.send_signal(signal.SIGTERM)
    logging_server.assert_stopped_cleanly()
    lines = logging_server.lines()
    assert [line["message"] for line in lines[before:]] == [
        "SIGTERM: not ready any more; requests are taken for another 0 s",
        "stopping: requests in flight are answered first",
        "stopped",
    ]
    log = logging_server.log.read_text()
    assert not any(secret in log for secret in (*TEXTS, "poison", "s3cret"))
    levels = {line["level"] for line in lines if not line["message"].startswith("an HTTP process ended")}
    assert levels <= {"info", "warning"}
