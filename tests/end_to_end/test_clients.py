"""Clients that others made, unchanged: huggingface_hub's InferenceClient, and those of text-embeddings-inference."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from tei_client import HttpClient
from tei_client.models import ModelType, TruncationDirection

TEXT = "a wonderful film"
LONG = "good " * 46 + "terrible"


def scores(elements: Any) -> dict[str, float]:
    return {element.label: element.score for element in elements}


# -- huggingface_hub --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/predict", "/models/tiny-lstm/predict"])
def test_inference_client_classifies(server: Any, path: str) -> None:
    found = InferenceClient(server.url + path).text_classification(TEXT)
    expected = server.predict(TEXT, path=path or "/").json()
    assert [(element.label, element.score) for element in found] == [(item["label"], item["score"]) for item in expected]


@pytest.mark.parametrize("top_k", [1, 2])
def test_inference_client_takes_the_best(server: Any, top_k: int) -> None:
    found = InferenceClient(server.url).text_classification(TEXT, top_k=top_k)
    assert [element.label for element in found] == [item["label"] for item in server.predict(TEXT).json()[:top_k]]


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_inference_client_chooses_the_function(server: Any, function: Any) -> None:
    found = InferenceClient(server.url).text_classification(TEXT, function_to_apply=function)
    expected = server.predict(TEXT, parameters={"function_to_apply": function}).json()[0]
    assert scores(found) == {item["label"]: item["score"] for item in expected}


@pytest.mark.parametrize(
    ("text", "options", "error", "status", "said"),
    [
        ("", {}, BadRequestError, 400, "nothing to score"),
        (TEXT, {"top_k": 0}, HfHubHTTPError, 422, "parameters.top_k: "),
        (TEXT, {"function_to_apply": "tanh"}, HfHubHTTPError, 422, "parameters.function_to_apply: "),
        ("good " * 30_000, {}, HfHubHTTPError, 413, "larger than the limit of 100000 bytes"),
    ],
)
def test_inference_client_shows_what_went_wrong(
    server: Any, text: str, options: Mapping[str, Any], error: type[HfHubHTTPError], status: int, said: str
) -> None:
    with pytest.raises(error) as caught:
        InferenceClient(server.url).text_classification(text, **options)
    assert caught.value.response.status_code == status
    assert said in str(caught.value)


# -- text-embeddings-inference ----------------------------------------------------------------------------------------------


@pytest.fixture
def tei(server: Any) -> Iterator[HttpClient]:
    opened = HttpClient(server.url, timeout=60, trust_env=False)
    with opened.client:
        yield opened


async def classify(client: HttpClient, inputs: Any) -> list[Any]:
    async with client.async_client:
        return await client.async_classify(inputs)


def test_tei_client_finds_a_classifier(server: Any, tei: HttpClient) -> None:
    assert tei.health()
    info = tei.info()
    assert info.server_model_type is ModelType.Classifier
    assert info.server_model_metadata.id2label == {"0": "negative", "1": "neutral", "2": "positive"}
    assert info.server_model_metadata.label2id == {"negative": 0, "neutral": 1, "positive": 2}
    assert (info.server_model_id, info.server_model_dtype, info.max_input_length) == ("tiny-bert", "float32", 48)
    assert (info.max_client_batch_size, info.max_concurrent_requests) == (64, 512)


@pytest.mark.parametrize("inputs", [TEXT, [TEXT, "terrible"], (TEXT, "good"), [(TEXT, "good"), ("a phone", "bad")]])
def test_tei_client_classifies(server: Any, tei: HttpClient, inputs: Any) -> None:
    sent = [list(item) if isinstance(item, tuple) else [item] for item in (inputs if isinstance(inputs, list) else [inputs])]
    expected = [{item["label"]: item["score"] for item in row} for row in server.predict(sent).json()]
    found = [scores(result.scores) for result in tei.classify(inputs)]
    assert found == [pytest.approx(row, abs=1e-5) for row in expected]
    assert [scores(result.scores) for result in asyncio.run(classify(tei, inputs))] == found


@pytest.mark.parametrize("direction", list(TruncationDirection))
def test_tei_client_truncates_at_either_end(server: Any, tei: HttpClient, direction: TruncationDirection) -> None:
    (found,) = tei.classify([LONG], truncate=True, truncation_direction=direction, raw_scores=True)
    (expected,) = server.predict([LONG], truncation_direction=direction.value.lower(), raw_scores=True).json()
    assert scores(found.scores) == pytest.approx({item["label"]: item["score"] for item in expected}, abs=1e-5)


@pytest.mark.parametrize(("special", "ids"), [(True, 5), (False, 3)])
def test_tei_client_tokenizes(tei: HttpClient, special: bool, ids: int) -> None:
    (found,) = tei.tokenize(TEXT, add_special_tokens=special)
    assert len(found.get_ids()) == ids
    assert [token.text for token in found.tokens if not token.special] == TEXT.split()
    assert [(token.start, token.stop) for token in found.tokens if not token.special] == [(0, 1), (2, 11), (12, 16)]


@pytest.mark.parametrize(
    ("body", "nested"),
    [
        ({"inputs": "I like you."}, False),
        ({"inputs": "I like you.", "raw_scores": False, "truncate": False, "truncation_direction": "Right"}, False),
        ({"inputs": [["I like you."], ["I hate pineapples"]], "raw_scores": True, "truncate": True}, True),
        ({"inputs": [["I like you.", "I hate you."], ["I like you."]], "truncation_direction": "Left"}, True),
    ],
)
def test_requests_of_teis_documentation_are_answered_in_its_shape(server: Any, body: dict[str, Any], nested: bool) -> None:
    answer = server.client.post("/predict", json=body).json()
    rows = answer if nested else [answer]
    assert len(rows) == (len(body["inputs"]) if nested else 1)
    for row in rows:
        assert [set(item) for item in row] == [{"score", "label"}] * 3
        assert all(isinstance(item["score"], float) for item in row)


def test_info_has_every_field_of_teis(server: Any) -> None:
    found = server.client.get("/info").json()
    expected = {
        "model_id": str, "model_sha": None, "model_dtype": str, "model_type": dict, "max_concurrent_requests": int,
        "max_input_length": int, "max_batch_tokens": int, "max_batch_requests": None, "max_client_batch_size": int,
        "auto_truncate": bool, "tokenization_workers": int, "version": str, "sha": None, "docker_label": None,
    }  # fmt: skip
    for field, kind in expected.items():
        assert found[field] is None if kind is None else type(found[field]) is kind, field
