"""`POST /tokenize`."""

from typing import Any

import pytest


def tokenize(server: Any, inputs: Any, **fields: Any) -> Any:
    return server.client.post("/tokenize", json={"inputs": inputs, **fields})


def test_a_text_is_listed_token_by_token(server: Any) -> None:
    answer = tokenize(server, "good film")
    assert answer.status_code == 200
    ((first, good, film, last),) = answer.json()
    assert (first["special"], first["start"], first["stop"]) == (True, None, None)
    assert (last["special"], last["start"], last["stop"]) == (True, None, None)
    assert (good["text"], good["special"], good["start"], good["stop"]) == ("good", False, 0, 4)
    assert (film["text"], film["special"], film["start"], film["stop"]) == ("film", False, 5, 9)
    assert all(isinstance(token["id"], int) for token in (first, good, film, last))


def test_as_many_tokens_are_listed_as_predict_computes(server: Any) -> None:
    inputs = ["a wonderful film", "good", "😍 naïve café"]
    listed = tokenize(server, inputs).json()
    assert sum(map(len, listed)) == int(server.predict(inputs).headers["x-tokens"])


def test_special_tokens_can_be_left_out(server: Any) -> None:
    (listed,) = tokenize(server, ["good film"], add_special_tokens=False).json()
    assert [token["special"] for token in listed] == [False, False]


def test_a_control_token_that_a_text_spells_is_text(server: Any) -> None:
    (listed,) = tokenize(server, ["good [SEP]"]).json()
    assert [token["text"] for token in listed if not token["special"]] == ["good", "[", "SEP", "]"]
    assert [token["special"] for token in listed].count(True) == 2


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm"])
def test_places_count_bytes_of_utf8(server: Any, model: str) -> None:
    text = "naïve 😍 good"
    (listed,) = tokenize(server, [text], model=model).json()
    for token in listed:
        if not token["special"]:
            assert text.encode()[token["start"] : token["stop"]].decode() == token["text"]
    assert listed[-2]["text"].strip() == "good"


@pytest.mark.parametrize("model", ["tiny-bert", "tiny-lstm"])
def test_nothing_is_cut(server: Any, model: str) -> None:
    (listed,) = tokenize(server, ["good " * 3000], model=model).json()
    assert len(listed) >= 3000


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "inputs: field required"),
        ({"inputs": 3}, 422, "inputs"),
        ({"inputs": ["a", 3]}, 422, "inputs"),
        ({"inputs": "a", "add_special_tokens": "no"}, 422, "add_special_tokens: "),
        ({"inputs": []}, 400, "nothing to score"),
        ({"inputs": ["a", ""]}, 400, "nothing to score"),
        ({"inputs": ["a"] * 65}, 422, "65 texts exceed the limit of 64"),
        ({"inputs": "a", "model": "none"}, 404, "no such model"),
        ({"inputs": "a" * 100_001}, 413, "100000 bytes"),
    ],
)
def test_what_is_wrong_is_said(server: Any, body: Any, status: int, said: str) -> None:
    answer = server.client.post("/tokenize", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]
