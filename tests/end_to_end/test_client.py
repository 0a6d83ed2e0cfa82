"""The Python client against the real server."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from service.client import (
    AsyncClient,
    Client,
    InvalidRequest,
    LabelScore,
    ModelFailed,
    NotFound,
    Retries,
    Scores,
    TimedOut,
    Unauthorized,
    ValenceError,
)

SAFETY_S = 60


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def client(server: Any) -> Iterator[Client]:
    with Client(server.url, timeout_s=SAFETY_S) as one:
        yield one


@pytest.fixture(scope="module")
def busy(start_server: Callable[..., Any]) -> Any:
    """A server that takes one request at a time and asks for a key."""
    return start_server("--http-processes", "1", "--api-key", "s3cret", "--max-concurrent-requests", "1")


def as_dicts(scores: Scores) -> list[dict[str, Any]]:
    return [{"label": item.label, "score": item.score} for item in scores]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({}, {}),
        ({"model": "tiny-lstm"}, {"model": "tiny-lstm"}),
        ({"top_k": 1}, {"parameters": {"top_k": 1}}),
        ({"raw_scores": True}, {"raw_scores": True}),
        ({"overflow": "window"}, {"overflow": "window"}),
    ],
    ids=lambda value: "-".join(value) or "plain",
)
@pytest.mark.parametrize("text", ["a wonderful film", "a film " * 100], ids=["short", "long"])
def test_scores_are_those_of_the_service(
    server: Any, client: Client, text: str, options: dict[str, Any], fields: dict[str, Any]
) -> None:
    (expected,) = server.predict([text], **fields).json()
    assert as_dicts(client.predict(text, **options)) == expected
    assert [as_dicts(scores) for scores in client.predict([text, text], **options)] == server.predict([text] * 2, **fields).json()


def test_pairs_are_scored_as_pairs(server: Any, client: Client) -> None:
    expected = server.predict([["a film", "good"], "alone"]).json()
    assert [as_dicts(scores) for scores in client.predict([("a film", "good"), "alone"])] == expected
    alone = {item.label: item.score for item in client.predict(("a film", "good"))}
    assert alone == pytest.approx({item["label"]: item["score"] for item in expected[0]}, abs=1e-5)
    assert alone != pytest.approx({item.label: item.score for item in client.predict("a film")}, abs=1e-3)


def test_a_list_longer_than_the_services_limit_keeps_its_order(server: Any, client: Client) -> None:
    texts = [f"film {'good ' * (number % 9)}{number}" for number in range(300)]

    async def predict() -> list[list[LabelScore]]:
        async with AsyncClient(server.url, timeout_s=SAFETY_S, texts_per_request=32) as other:
            return await other.predict(texts)

    once, many = client.predict(texts), asyncio.run(predict())
    assert len({scores[0].score for scores in once}) > 8
    for place in (0, 63, 64, 255, 299):
        assert as_dicts(once[place])[0]["score"] == pytest.approx(client.predict(texts[place])[0].score, abs=1e-5)
    for first, second in zip(once, many, strict=True):
        assert [item.score for item in first] == pytest.approx([item.score for item in second], abs=1e-5)


def test_ready_and_info(client: Client) -> None:
    assert client.ready()
    info = client.info()
    assert [model.name for model in info.models] == ["tiny-bert", "tiny-lstm", "keyword", "failing"]
    assert info.models[0].labels == ("negative", "neutral", "positive")
    assert info.models[0].max_length == 48
    assert info.limits["max_client_batch_size"] == 64


@pytest.mark.parametrize(
    ("inputs", "options", "kind", "status", "error_type", "said"),
    [
        ("", {}, InvalidRequest, 400, "empty", "nothing to score"),
        ("good", {"model": "none"}, NotFound, 404, "not_found", "no such model"),
        ("a " * 100_000, {}, InvalidRequest, 413, "payload_too_large", "100000 bytes"),
        ("a film " * 99, {"overflow": "error"}, InvalidRequest, 422, "validation", "the model's limit of 48"),
        ("good", {"top_k": 0}, InvalidRequest, 422, "validation", "parameters.top_k"),
        (["good", "poison"], {"model": "failing"}, ModelFailed, 424, "backend", "text 1 of this request"),
    ],
)
def test_errors_are_exceptions_that_say_what_the_service_said(
    client: Client, inputs: Any, options: Any, kind: type[ValenceError], status: int, error_type: str, said: str
) -> None:
    with pytest.raises(kind) as caught:
        client.predict(inputs, **options)
    assert (caught.value.status, caught.value.error_type) == (status, error_type)
    assert said in caught.value.message
    assert caught.value.request_id


def test_a_call_past_its_deadline_is_timed_out_and_the_client_serves_on(client: Client) -> None:
    with pytest.raises(TimedOut):
        client.predict("slow", model="failing", timeout_s=0.2)
    assert client.predict("good")


def test_a_wrong_key_is_told(busy: Any) -> None:
    # pragma: allowlist nextline secret
    with Client(busy.url, api_key="wrong", timeout_s=SAFETY_S) as client, pytest.raises(Unauthorized) as caught:
        client.predict("good")
    assert caught.value.status == 401


def test_an_overloaded_service_is_asked_again_until_it_answers(busy: Any) -> None:
    async def predict() -> list[list[LabelScore]]:
        retries = Retries(count=100, longest_s=1.0)
        # pragma: allowlist nextline secret
        async with AsyncClient(busy.url, api_key="s3cret", timeout_s=SAFETY_S, retries=retries, texts_per_request=1) as client:
            return await client.predict(["slow", "slow again", "good"])

    before = busy.metric("valence_failures_total", error_type="overloaded")
    assert len(asyncio.run(predict())) == 3
    assert busy.metric("valence_failures_total", error_type="overloaded") > before
