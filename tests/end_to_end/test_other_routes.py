"""Health, information, documentation and metrics."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


@pytest.mark.parametrize(("path", "status"), [("/health", "alive"), ("/ready", "ready")])
def test_a_serving_service_is_alive_and_ready(server: Any, path: str, status: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": status})


@pytest.mark.parametrize("path", ["/health", "/ready", "/info", "/metrics"])
def test_head_is_get_without_a_body(server: Any, path: str) -> None:
    answer = server.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


# These routes change the service. This server has no admin key, so they are closed.
CHANGES = {("post", "/models"), ("delete", "/models/{name}")}


def test_info_tells_models_and_limits(server: Any) -> None:
    info = server.client.get("/info").json()
    assert [model["name"] for model in info["models"]] == ["tiny-bert", "tiny-lstm", "keyword", "failing"]
    bert, _, keyword, _ = info["models"]
    assert bert["architecture"] == "custom_bert"
    assert bert["id2label"] == {"0": "negative", "1": "neutral", "2": "positive"}
    assert bert["max_length"] == 48
    assert (bert["workers"][0]["dtype"], bert["workers"][0]["device"], bert["workers"][0]["batching"]) == (
        "float32",
        "cpu",
        "packed",
    )
    assert keyword["workers"][0]["batching"] == "padded"
    assert info["limits"]["payload_limit"] == 100_000
    assert info["limits"]["max_client_batch_size"] == 64
    assert info["version"]


def test_docs_are_a_page_that_needs_no_other_server(server: Any) -> None:
    answer = server.client.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "http" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="([^"]+)"', answer.text) + re.findall(r'url: "([^"]+)"', answer.text)
    kinds = {path: server.client.get("/" + path).headers["content-type"] for path in named if path != "data:,"}
    assert kinds == {
        "docs/swagger-ui.css": "text/css; charset=utf-8",
        "docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
        "openapi.json": "application/json",
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "$ref")
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(child)


def test_openapi_documents_what_is_served(server: Any) -> None:
    document = server.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for reference in set(references(document)):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    operations = [
        (path, method, operation)
        for path, found in document["paths"].items()
        for method, operation in found.items()
        if method != "parameters"
    ]
    for path, method, operation in operations:
        body = operation["requestBody"]["content"]["application/json"]["example"] if method == "post" else None
        answer = server.client.request(method, path.replace("{name}", "tiny-bert").replace("{version}", "1"), json=body)
        assert answer.status_code == (403 if (method, path) in CHANGES else 200)
        assert set(operation["responses"]["200"]["headers"]) <= set(answer.headers)


def test_metrics_count_exactly_what_was_sent(server: Any, wait: Callable[..., None]) -> None:
    requests = [(["good", "bad", "film"], 200)] * 60 + [(3, 422)] * 12 + [("", 400)] * 8 + [("good", 200)] * 20
    counted = {
        "ok": ("valence_requests_total", {"route": "/predict", "model": "tiny-lstm", "status": "200"}),
        "wrong": ("valence_requests_total", {"route": "/predict", "status": "422"}),
        "empty": ("valence_requests_total", {"route": "/predict", "status": "400"}),
        "failures": ("valence_failures_total", {}),
        "durations": ("valence_request_duration_seconds_count", {"model": "tiny-lstm"}),
        "tokenizations": ("valence_tokenization_duration_seconds_count", {"model": "tiny-lstm"}),
        "texts": ("valence_texts_total", {"model": "tiny-lstm"}),
        "inputs": ("valence_input_tokens_count", {"model": "tiny-lstm"}),
        "waits": ("valence_queue_duration_seconds_count", {"model": "tiny-lstm"}),
    }
    expected = {"ok": 80, "wrong": 12, "empty": 8, "failures": 20, "durations": 80, "tokenizations": 80}
    expected |= dict.fromkeys(("texts", "inputs", "waits"), 60 * 3 + 20)

    def read() -> dict[str, float]:
        return {key: server.metric(name, **labels) for key, (name, labels) in counted.items()}

    before = read()
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda request: server.predict(request[0], model="tiny-lstm"), requests))
    assert [answer.status_code for answer in answers] == [status for _, status in requests]

    def difference() -> dict[str, float]:
        after = read()
        return {key: after[key] - before[key] for key in counted}

    # Each process writes its counts within 50 ms.
    wait(lambda: all(count >= expected[key] for key, count in difference().items()), timeout_s=10)
    assert difference() == expected


def test_tokens_are_counted_as_the_header_says(server: Any, wait: Callable[..., None]) -> None:
    labels = {"model": "tiny-bert", "kind": "real"}
    before = server.metric("valence_tokens_total", **labels)
    sent = int(server.predict(["a wonderful film", "good"]).headers["x-tokens"])
    wait(lambda: server.metric("valence_tokens_total", **labels) - before == sent, timeout_s=10)


def test_gauges_tell_the_present(server: Any) -> None:
    assert server.metric("valence_requests_in_flight") == 0
    assert server.metric("valence_worker_up") == 1
    assert server.metric("valence_build_info") == 1
    assert server.metric("valence_model_info", model="tiny-bert", architecture="custom_bert") == 1


def test_no_label_holds_what_a_client_sent(server: Any) -> None:
    server.client.get("/secret-path")
    server.client.post("/models/secret-model/predict", json={"inputs": "secret text"})
    server.predict("good", model="secret-name", headers={"x-request-id": "secret-id"})
    assert "secret" not in server.client.get("/metrics").text
