"""Keys, overload, a worker that dies, and how the service starts and stops. The tests of a server run in order."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

KEY = {"authorization": "Bearer s3cret"}
LIMIT = 4
BODIES = {"/v2/models/failing/infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}}
SAFETY_S = 60


@pytest.fixture(scope="module")
def guarded(start_server: Callable[..., Any]) -> Any:
    """A server with one HTTP process and a key, which takes few requests at a time."""
    return start_server("--http-processes", "1", "--api-key", "s3cret", "--max-concurrent-requests", str(LIMIT), headers=KEY)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"x-api-key": "wrong"}, 401),
        ({"authorization": "Bearer s3cret"}, 200),
        ({"x-api-key": "s3cret"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/info", "/tokenize", "/v2/models/failing/infer"])
def test_a_key_is_asked_for(guarded: Any, path: str, headers: dict[str, str], status: int) -> None:
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=SAFETY_S, trust_env=False) as client:
        answer = client.get(path) if path == "/info" else client.post(path, json=BODIES.get(path, {"inputs": "good"}))
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error_type"] == "unauthorized"
        assert "s3cret" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/metrics", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/v2/health/live", "/v2/health/ready"],
)
def test_no_key_is_asked_for_by_monitors(guarded: Any, path: str) -> None:
    assert httpx.get(guarded.url + path, timeout=SAFETY_S, trust_env=False).status_code == 200


def test_requests_over_the_limit_are_429_and_the_others_are_answered(guarded: Any) -> None:
    with guarded.slow_requests(LIMIT) as accepted:
        with ThreadPoolExecutor(8) as pool:
            refused = list(pool.map(lambda _: guarded.predict("good"), range(8)))
        overloaded = [answer for answer in refused if answer.status_code == 429]
        assert overloaded
        assert {answer.status_code for answer in refused} <= {200, 429}
        assert {answer.headers["retry-after"] for answer in overloaded} == {"1"}
        assert {answer.json()["error_type"] for answer in overloaded} == {"overloaded"}
        assert [future.result(SAFETY_S).status_code for future in accepted] == [200] * LIMIT
    assert guarded.predict("good").status_code == 200


def test_a_client_that_leaves_frees_its_place(guarded: Any, wait: Callable[..., None]) -> None:
    with (
        httpx.Client(base_url=guarded.url, headers=KEY, timeout=0.5, trust_env=False) as client,
        pytest.raises(httpx.ReadTimeout),
    ):
        client.post("/predict", json={"inputs": "slow"})
    wait(lambda: guarded.metric("valence_requests_in_flight") == 0, timeout_s=SAFETY_S, alive=guarded)


def test_a_worker_that_dies_answers_503_and_comes_back(guarded: Any, wait: Callable[..., None]) -> None:
    restarts = guarded.metric("valence_worker_restarts_total")
    with guarded.slow_requests(LIMIT) as futures:
        guarded.worker().kill()
        answers = [future.result(SAFETY_S) for future in futures]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error_type"] for answer in answers} == {"unhealthy"}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    assert guarded.client.get("/ready").status_code == 503
    assert guarded.client.get("/health").status_code == 200
    assert guarded.predict("good").status_code == 503
    assert guarded.metric("valence_requests_in_flight") == 0
    guarded.wait_until_ready()
    assert guarded.predict("good").status_code == 200
    assert guarded.metric("valence_worker_restarts_total") == restarts + 1
    assert guarded.metric("valence_worker_up") == 1


def test_sigterm_answers_what_was_accepted(guarded: Any) -> None:
    with guarded.slow_requests(LIMIT) as futures:
        guarded.process.send_signal(signal.SIGTERM)
        assert [future.result(SAFETY_S).status_code for future in futures] == [200] * LIMIT
    guarded.assert_stopped_cleanly()


def test_ctrl_c_of_the_whole_group_answers_what_was_accepted(start_server: Callable[..., Any]) -> None:
    server = start_server("--http-processes", "2")
    with server.slow_requests(6) as futures:
        os.killpg(server.process.pid, signal.SIGINT)
        assert [future.result(SAFETY_S).status_code for future in futures] == [200] * 6
    server.assert_stopped_cleanly()


def test_no_process_outlives_a_main_process_that_is_killed(start_server: Callable[..., Any], wait: Callable[..., None]) -> None:
    server = start_server("--http-processes", "2")
    assert len(server.leftovers()) >= 4  # main, two HTTP processes, a worker
    server.process.kill()
    server.process.wait(SAFETY_S)
    wait(lambda: not server.leftovers(), timeout_s=10)


def test_a_broken_checkpoint_is_refused_in_one_sentence(
    launch: Callable[..., tuple[int, str]], models: Mapping[str, Path], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(models["tiny-bert"], tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "vocab_size": 10}))
    code, log = launch({"good": models["tiny-lstm"], "broken": broken})
    assert code == 2
    (line,) = log.strip().splitlines()
    said = json.loads(line)
    assert (said["level"], said["logger"]) == ("error", "valence")
    assert "this tokenizer belongs to another checkpoint" in said["message"]
