"""The shipped checkpoints as `make serve` serves them, two workers for each, in float32 and in int8."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

DOCUMENTS = [Path(__file__).parents[2] / name for name in ("README.md", "docs/http-api.md")]

EXAMPLES = {
    "A wonderful surprise, funny and moving.": "positive",
    "not good at all": "negative",
    "The meeting is on Tuesday.": "neutral",
    "😍😍": "positive",
    "LOVED IT": "positive",
    "The food was great but the service ruined the evening.": "negative",
    "terrible": "negative",
}
CHINESE = {
    "这本书写得很好": "positive",
    "不好": "negative",
    "不错": "positive",
    "外观漂亮，但是质量太差了": "negative",
    "虽然价格贵，但是质量非常好": "positive",
    "😍😍": "positive",
}
LSTMS = {"sentiment-lstm": "float32", "sentiment-lstm-zh": "float32"}
DTYPES = {"float32": {"sentiment-bert": "float32", **LSTMS}, "int8": {"sentiment-bert": "int8", **LSTMS}}


def shown() -> Iterator[tuple[str, str, str]]:
    """(path, body, answer) of each `curl` in the documents whose answer stands below it."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for command, answer in re.findall(r"^```sh\n(curl [^`]*)```\n```json\n([^`]*)```$", text, re.MULTILINE):
            path, body = re.findall(r"localhost:8000(/\S*).*-d '(.*)'", command, re.DOTALL)[0]
            yield path, body, answer


def rounded(answer: str) -> Any:
    """JSON with two digits of each number."""
    return json.loads(answer, parse_float=lambda number: round(float(number), 2))


@pytest.mark.parametrize("shipped", ["float32"], indirect=True)
@pytest.mark.parametrize(("path", "body", "answer"), list(shown()))
def test_what_the_documents_show_is_answered(shipped: tuple[str, Any], path: str, body: str, answer: str) -> None:
    found = shipped[1].client.post(path, content=body, headers={"content-type": "application/json"})
    assert rounded(found.text) == rounded(answer)


def test_info_says_the_dtype_of_each_model(shipped: tuple[str, Any]) -> None:
    dtype, server = shipped
    found = {model["name"]: model["workers"][0]["dtype"] for model in server.client.get("/info").json()["models"]}
    assert found == DTYPES[dtype]


@pytest.mark.parametrize(("text", "label"), list(EXAMPLES.items()), ids=list(EXAMPLES.values()))
def test_plain_cases_are_right(shipped: tuple[str, Any], text: str, label: str) -> None:
    assert shipped[1].predict(text).json()[0]["label"] == label


@pytest.mark.parametrize(("text", "label"), list(CHINESE.items()))
def test_plain_chinese_cases_are_right(shipped: tuple[str, Any], text: str, label: str) -> None:
    scores = shipped[1].predict(text, model="sentiment-lstm-zh").json()
    assert {item["label"] for item in scores} == {"positive", "negative"}
    assert scores[0]["label"] == label


@pytest.mark.parametrize("model", ["sentiment-bert", *LSTMS])
def test_a_text_scores_the_same_alone_in_a_list_and_among_others(shipped: tuple[str, Any], model: str) -> None:
    _, server = shipped
    texts = [*EXAMPLES, *CHINESE, *(f"{text} {text}" for text in EXAMPLES)]
    alone = [server.predict(text, model=model).json() for text in texts]
    together = server.predict(texts, model=model).json()
    with ThreadPoolExecutor(32) as pool:
        crowded = list(pool.map(lambda text: server.predict(text, model=model).json(), texts * 8))
    for place, found in enumerate([*together, *crowded]):
        expected = {item["label"]: item["score"] for item in alone[place % len(texts)]}
        assert {item["label"]: item["score"] for item in found} == pytest.approx(expected, abs=1e-5)
