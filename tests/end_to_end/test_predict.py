"""`POST /predict`: forms of input, shapes of answer, errors, and scores that do not depend on the other texts of a batch."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

ByLabel = Callable[[Sequence[Mapping[str, Any]]], dict[str, float]]
LABELS = {"negative", "neutral", "positive"}
HEADERS = ("x-request-id", "x-model", "x-tokens", "x-queue-time-ms", "x-inference-time-ms", "x-total-time-ms")
LONG = "wonderful film " * 60
SAFETY_S = 60


def is_scores(answer: Any) -> bool:
    """Whether an answer holds all labels, best first."""
    ranked = [item["score"] for item in answer]
    return {item["label"] for item in answer} == LABELS and ranked == sorted(ranked, reverse=True)


@pytest.mark.parametrize("inputs", ["a wonderful film", {"text": "a film"}, {"text": "a film", "text_pair": "good"}])
@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm"])
def test_one_text_is_answered_by_one_list(server: Any, inputs: Any, model: str) -> None:
    answer = server.predict(inputs, model=model)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert is_scores(answer.json())


@pytest.mark.parametrize(
    "inputs",
    [
        ["a wonderful film"],
        ["a wonderful film", "the train leaves"],
        [["a film", "good"]],
        [["a film", "good"], ["a phone", "bad"], ["alone"]],
        [{"text": "a film"}, {"text": "a phone", "text_pair": "bad"}],
        ["a film", ["a phone", "bad"], {"text": "the train"}],
        [f"text {number}" for number in range(64)],
    ],
)
def test_a_list_is_answered_by_a_list_for_each(server: Any, inputs: list[Any]) -> None:
    answer = server.predict(inputs).json()
    assert len(answer) == len(inputs)
    assert all(is_scores(one) for one in answer)


def test_the_field_may_be_called_text(server: Any) -> None:
    assert server.client.post("/predict", json={"text": "good"}).json() == server.predict("good").json()


@pytest.mark.parametrize(("top_k", "kept"), [(1, 1), (2, 2), (9, 3), (None, 3)])
def test_parameters_give_the_shape_of_inference_clients(server: Any, top_k: int | None, kept: int) -> None:
    (answer,) = server.predict("good", parameters={"top_k": top_k}).json()
    assert answer == server.predict("good").json()[:kept]


@pytest.mark.parametrize(
    ("fields", "total"),
    [({}, 1.0), ({"parameters": {"function_to_apply": "softmax"}}, 1.0), ({"raw_scores": True}, None)],
)
def test_scores_are_probabilities_unless_raw(server: Any, fields: dict[str, Any], total: float | None) -> None:
    answer = server.predict(["good"], **fields).json()[0]
    summed = sum(item["score"] for item in answer)
    assert summed == pytest.approx(1.0) if total else summed != pytest.approx(1.0)


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-lstm", "keyword", "failing"])
def test_a_model_is_chosen_by_field_or_by_path(server: Any, name: str) -> None:
    by_field = server.predict("good food", model=name)
    by_path = server.predict("good food", path=f"/models/{name}/predict")
    assert by_field.status_code == by_path.status_code == 200
    assert by_field.headers["x-model"] == by_path.headers["x-model"] == name
    assert by_field.json() == by_path.json()


@pytest.mark.parametrize("path", ["/predict", "/"])
def test_the_first_model_is_the_default(server: Any, path: str) -> None:
    assert server.predict("good", path=path).headers["x-model"] == "tiny-bert"


def test_the_example_architecture_knows_good_from_bad(server: Any) -> None:
    good, bad = server.predict(["I love this great film", "terrible, the worst"], model="keyword").json()
    assert (good[0]["label"], bad[0]["label"]) == ("positive", "negative")


@pytest.mark.parametrize("header", HEADERS)
def test_an_answer_tells_of_its_way(server: Any, header: str) -> None:
    value = server.predict("a wonderful film").headers[header]
    assert float(value) >= 0 if header.endswith("-ms") else value


def test_x_tokens_counts_special_tokens(server: Any) -> None:
    assert server.predict(["good", "good film"]).headers["x-tokens"] == "7"


@pytest.mark.parametrize("inputs", ["good", 3], ids=["200", "422"])
def test_the_request_id_is_echoed_or_made(server: Any, inputs: Any) -> None:
    assert server.predict(inputs, headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = {server.predict(inputs).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3


@pytest.mark.parametrize(
    "fields", [{"truncate": True}, {"overflow": "truncate"}, {}, {"parameters": {"truncation": True}}], ids=json.dumps
)
def test_a_long_text_is_cut_at_the_limit(server: Any, fields: dict[str, Any]) -> None:
    answer = server.predict([LONG], **fields)
    assert answer.status_code == 200
    assert answer.headers["x-tokens"] == "48"


def test_the_direction_says_which_end_is_cut(server: Any, scores_by_label: ByLabel) -> None:
    text = "good " * 46 + "terrible"
    right, left, kept = (
        scores_by_label(server.predict(inputs, truncation_direction=direction).json())
        for inputs, direction in ((text, "RIGHT"), (text, "left"), ("good " * 46, "right"))
    )
    assert right == pytest.approx(kept, abs=1e-5)
    assert left != pytest.approx(kept, abs=1e-4)


# -- errors -----------------------------------------------------------------------------------------------------------------


def assert_error(answer: httpx.Response, status: int, error_type: str, said: str = "") -> None:
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "error_type"}
    assert answer.json()["error_type"] == error_type
    assert said in answer.json()["error"]
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("body", [b"", b"{", b"hello", b"\xff"])
def test_a_body_that_is_not_json_is_400(server: Any, body: bytes) -> None:
    assert_error(server.client.post("/predict", content=body), 400, "validation", "not valid JSON")


@pytest.mark.parametrize("inputs", ["", [], ["good", ""]])
def test_nothing_to_score_is_400(server: Any, inputs: Any) -> None:
    assert_error(server.predict(inputs), 400, "empty")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs"),
        ([], "inputs"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": ["a", 3]}, "inputs[1]"),
        ({"inputs": "a", "truncate": "x"}, "truncate"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k"),
        ({"inputs": ["a"] * 65}, "65 texts exceed the limit of 64"),
        ({"inputs": LONG, "truncate": False}, "tokens exceed the model's limit of 48"),
        ({"inputs": LONG, "overflow": "error"}, "tokens exceed the model's limit of 48"),
    ],
)
def test_a_wrong_request_is_422(server: Any, body: Any, said: str) -> None:
    assert_error(server.client.post("/predict", json=body), 422, "validation", said)


@pytest.mark.parametrize(
    ("path", "fields"), [("/predict", {"model": "none"}), ("/models/none/predict", {}), ("/models//predict", {})]
)
def test_an_unknown_model_is_404(server: Any, path: str, fields: dict[str, str]) -> None:
    assert_error(server.predict("good", path=path, **fields), 404, "not_found", "no such model")


@pytest.mark.parametrize("path", ["/none", "/predict/", "/../etc/passwd", "/shutdown"])
def test_an_unknown_route_is_404(server: Any, path: str) -> None:
    assert_error(server.client.post(path, json={"inputs": "good"}), 404, "not_found", "no such route")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/predict"), ("PUT", "/"), ("DELETE", "/models/tiny-bert/predict"), ("POST", "/health"), ("POST", "/metrics")],
)
def test_a_wrong_verb_is_405(server: Any, method: str, path: str) -> None:
    assert_error(server.client.request(method, path), 405, "method")


def chunks() -> Iterator[bytes]:
    yield b'{"inputs": "'
    yield from (b"a" * 50_000 for _ in range(4))
    yield b'"}'


@pytest.mark.parametrize("body", [b" " * 100_001, chunks()], ids=["content-length", "chunked"])
def test_a_body_over_the_limit_is_413(server: Any, body: Any) -> None:
    assert_error(server.client.post("/predict", content=body), 413, "payload_too_large", "100000 bytes")


def test_a_body_at_the_limit_is_taken(server: Any) -> None:
    body = b'{"inputs": "good"}'.ljust(100_000)
    assert server.client.post("/predict", content=body).status_code == 200


def test_a_body_that_is_announced_too_large_is_not_waited_for(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SAFETY_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000000\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 413 ")


def test_the_connection_serves_on_after_an_error(server: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=SAFETY_S, trust_env=False) as client:
        for inputs, status in (("good", 200), (3, 422), ("", 400), ("good", 200)):
            assert client.post("/predict", json={"inputs": inputs}).status_code == status


@pytest.mark.parametrize("timeout_s", ["0", "-1", "soon", "nan"])
def test_a_deadline_that_is_no_positive_number_is_422(server: Any, timeout_s: str) -> None:
    assert_error(server.predict("good", headers={"x-request-timeout-s": timeout_s}), 422, "validation", "x-request-timeout-s")


@pytest.mark.parametrize("timeout_s", ["0.0005", "0.00001"])
def test_a_deadline_that_passes_is_504(server: Any, timeout_s: str) -> None:
    answer = server.predict("slow", model="failing", headers={"x-request-timeout-s": timeout_s})
    assert_error(answer, 504, "timeout", "no answer within")


@pytest.mark.parametrize(("inputs", "index"), [("poison", 0), (["good", "food poison", "bad"], 1), (["poison"] * 3, 0)])
def test_a_text_that_the_model_fails_on_is_424(server: Any, inputs: Any, index: int) -> None:
    assert_error(server.predict(inputs, model="failing"), 424, "backend", f"text {index} of this request")


def test_neighbours_of_a_failing_text_are_answered(server: Any) -> None:
    texts = ["good food", "the poison", "a film", "a phone"] * 16
    alone = {text: server.predict(text, model="failing").json() for text in set(texts) - {"the poison"}}
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda text: server.predict(text, model="failing"), texts))
    assert [answer.status_code for answer in answers] == [424 if "poison" in text else 200 for text in texts]
    for text, answer in zip(texts, answers, strict=True):
        if "poison" not in text:
            assert [item["score"] for item in answer.json()] == pytest.approx([item["score"] for item in alone[text]], abs=1e-5)


@pytest.mark.parametrize("body", [b"{", b'{"inputs": 3}', b'{"inputs": "poison", "model": "failing"}'])
def test_an_error_shows_no_inside(server: Any, body: bytes) -> None:
    said = server.client.post("/predict", content=body).text
    assert not any(word in said for word in ("Traceback", ".py", "pydantic", "can't bear", "/"))


# -- scores -----------------------------------------------------------------------------------------------------------------

WORDS = [
    "a",
    "wonderful",
    "terrible",
    "film",
    "phone",
    "the",
    "train",
    "good",
    "bad",
    "not",
    "at",
    "all",
    "😍",
    "funny",
    "boring",
    "day",
]
TEXTS = [" ".join(WORDS[place % 7 : place % 7 + 1 + place % 11] + WORDS[-(place % 5) - 1 :]) for place in range(32)]


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm", "keyword"])
def test_a_score_does_not_depend_on_its_company(server: Any, scores_by_label: ByLabel, model: str) -> None:
    alone = [scores_by_label(server.predict(text, model=model).json()) for text in TEXTS]
    batch = [scores_by_label(scores) for scores in server.predict(TEXTS, model=model).json()]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda text: server.predict(text, model=model).json(), TEXTS * 4))
    crowd = [scores_by_label(scores) for scores in answers]
    assert len({round(scores["positive"], 4) for scores in alone}) > 16
    for place, scores in enumerate(alone):
        assert batch[place] == pytest.approx(scores, abs=1e-5)
        assert all(crowded == pytest.approx(scores, abs=1e-5) for crowded in crowd[place :: len(TEXTS)])
