"""`POST /explain` on a real server."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

TEXT = "not good at all, naïve 😍"
STEPS = 64


def explain(server: Any, inputs: Any, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return server.client.post("/explain", json={"inputs": inputs, **fields}, headers=headers)


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm", "keyword", "failing"])
def test_attributions_and_error_make_up_the_difference_of_raw_scores(server: Any, model: str) -> None:
    answer = explain(server, TEXT, model=model)
    assert answer.status_code == 200
    found = answer.json()
    raw = {item["label"]: item["score"] for item in server.predict(TEXT, model=model, raw_scores=True).json()}
    assert found["label"] == max(raw, key=raw.__getitem__)
    assert found["score"] == pytest.approx(raw[found["label"]], abs=1e-4)
    given = sum(token["attribution"] for token in found["tokens"])
    assert given + found["completeness_error"] == pytest.approx(found["score"] - found["baseline_score"], abs=1e-9)
    assert abs(found["completeness_error"]) <= found["tolerance"] or found["steps"] > STEPS - 16
    assert 0 < found["steps"] <= STEPS


def test_tokens_are_those_of_the_text_as_it_is_scored(server: Any) -> None:
    answer = explain(server, TEXT)
    tokens = answer.json()["tokens"]
    (listed,) = server.client.post("/tokenize", json={"inputs": TEXT}).json()
    assert [{name: value for name, value in token.items() if name != "attribution"} for token in tokens] == listed
    assert all(token["attribution"] == 0 for token in tokens if token["special"])
    assert int(answer.headers["x-tokens"]) == len(tokens)
    assert (answer.headers["x-model"], float(answer.headers["x-inference-time-ms"]) > 0) == ("tiny-bert", True)


@pytest.mark.parametrize("label", ["negative", "neutral", "positive"])
def test_any_label_can_be_explained(server: Any, label: str) -> None:
    found = explain(server, TEXT, label=label).json()
    raw = {item["label"]: item["score"] for item in server.predict(TEXT, raw_scores=True).json()}
    assert (found["label"], found["score"]) == (label, pytest.approx(raw[label], abs=1e-4))


def test_a_long_text_is_explained_as_far_as_it_is_scored(server: Any) -> None:
    assert len(explain(server, "good " * 100).json()["tokens"]) == 48
    refused = explain(server, "good " * 100, truncate=False)
    assert (refused.status_code, "102 tokens exceed the model's limit of 48" in refused.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("body", "status", "error_type", "said"),
    [
        ({}, 422, "validation", "inputs: field required"),
        ({"inputs": ["a", "b"]}, 422, "validation", "inputs: "),
        ({"inputs": "a", "label": "angry"}, 422, "validation", "label: must be one of negative, neutral, positive"),
        ({"inputs": ""}, 400, "empty", "nothing to score"),
        ({"inputs": "a", "model": "none"}, 404, "not_found", "no such model"),
        ({"inputs": "a poison", "model": "failing"}, 424, "backend", "text 0"),
        ({"inputs": "a" * 100_001}, 413, "payload_too_large", "100000 bytes"),
    ],
)
def test_what_is_wrong_is_said(server: Any, body: Any, status: int, error_type: str, said: str) -> None:
    answer = server.client.post("/explain", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
    assert said in answer.json()["error"]


def test_a_deadline_is_kept(server: Any) -> None:
    answer = explain(server, "slow", model="failing", headers={"x-request-timeout-s": "0.2"})
    assert (answer.status_code, answer.json()["error_type"]) == (504, "timeout")
    assert explain(server, "good").status_code == 200


def test_more_at_a_time_than_the_limit_are_refused_and_scores_go_on(server: Any) -> None:
    with ThreadPoolExecutor(48) as pool:
        explained = [pool.submit(explain, server, "nap", model="failing") for _ in range(24)]
        scores = [pool.submit(server.predict, TEXT) for _ in range(8)]
        statuses = [one.result().status_code for one in explained]
        assert {one.result().status_code for one in scores} == {200}
    assert set(statuses) == {200, 429}


def test_requests_are_counted_by_route(server: Any) -> None:
    before = server.metric("valence_requests_total", route="/explain", model="tiny-bert", status="200")
    explain(server, TEXT)
    assert server.metric("valence_requests_total", route="/explain", model="tiny-bert", status="200") == before + 1


def test_info_says_by_what_it_is_explained(server: Any) -> None:
    models = server.client.get("/info").json()["models"]
    assert {worker["explanations"] for model in models for worker in model["workers"]} == {"by the served weights"}
