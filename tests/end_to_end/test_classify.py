"""vLLM's and SGLang's way to ask a classifier."""

import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
@pytest.mark.parametrize("given", ["not good at all", ["not good at all"], ["a wonderful film", "not good at all", "😍"]])
def test_it_scores_as_predict_does(server: Any, scores_by_label: Callable[..., Any], path: str, given: str | list[str]) -> None:
    texts = [given] if isinstance(given, str) else given
    answer = server.client.post(path, json={"input": given, "model": "tiny-bert", "user": "somebody"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["object"], found["model"]) == ("list", "tiny-bert")
    assert found["id"].startswith("classify-")
    assert abs(found["created"] - time.time()) < 60
    tokens = int(answer.headers["x-tokens"])
    assert found["usage"] == {
        "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None,
    }  # fmt: skip
    wanted = server.predict(texts, model="tiny-bert").json()
    assert len(found["data"]) == len(texts)
    for index, (one, scores) in enumerate(zip(found["data"], wanted, strict=True)):
        assert (one["index"], one["label"], one["num_classes"]) == (index, scores[0]["label"], 3)
        by_label = scores_by_label(scores)
        assert one["probs"] == pytest.approx([by_label[label] for label in ("negative", "neutral", "positive")], abs=1e-5)


def test_logits_are_given_where_they_are_asked_for(server: Any) -> None:
    plain = server.client.post("/classify", json={"input": "good", "use_activation": False}).json()["data"][0]["probs"]
    raw = server.predict("good", raw_scores=True).json()
    assert sorted(plain, reverse=True) == pytest.approx([one["score"] for one in raw], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "error_type", "named"),
    [
        ({"input": ["good", ""]}, 400, "empty", "input[1]: "),
        ({"input": []}, 400, "empty", "nothing"),
        ({"input": ""}, 400, "empty", "nothing"),
        ({}, 422, "validation", "input: "),
        ([], 422, "validation", "the body must be a JSON object with the field input"),
        ({"input": [1, 2, 3]}, 422, "validation", "input"),
        ({"input": "good", "truncate_prompt_tokens": 5}, 422, "validation", "truncate_prompt_tokens"),
        ({"input": "good", "model": "none"}, 404, "not_found", "no such model"),
        ({"input": ["good"] * 65}, 422, "validation", "inputs: 65 texts exceed"),
    ],
)
def test_what_is_wrong_is_named(server: Any, body: Any, status: int, error_type: str, named: str) -> None:
    answer = server.client.post("/classify", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
    assert answer.json()["error"].startswith(named)


def test_models_are_listed_as_their_clients_look_for_them(server: Any) -> None:
    found = server.client.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == ["tiny-bert", "tiny-lstm", "keyword", "failing"]
    assert all(model["object"] == "model" and isinstance(model["created"], int) for model in found["data"])
