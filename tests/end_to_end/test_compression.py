"""Compressed requests and answers over HTTP."""

import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}


def post(server: Any, body: bytes, encoding: str, path: str = "/predict") -> httpx.Response:
    answer: httpx.Response = server.client.post(path, content=body, headers={"content-encoding": encoding})
    return answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_request_is_answered_as_a_plain_one(server: Any, encoding: str) -> None:
    packed = PACK[encoding](json.dumps({"inputs": "good film"}).encode())
    assert post(server, packed, encoding).json() == server.predict("good film").json()


@pytest.mark.parametrize("path", ["/predict", "/tokenize", "/v2/models/tiny-bert/infer"])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_413(server: Any, encoding: str, path: str) -> None:
    bomb = PACK[encoding](b'{"inputs": "' + b"a" * 50_000_000 + b'"}')
    assert len(bomb) < 100_000
    answer = post(server, bomb, encoding, path)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "payload_too_large")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_an_encoding_that_is_not_known_is_415(server: Any, encoding: str) -> None:
    answer = post(server, b"{}", encoding)
    assert (answer.status_code, answer.json()["error_type"]) == (415, "validation")


@pytest.mark.parametrize(
    "body", [b"", b'{"inputs": "good"}', gzip.compress(b'{"inputs": "good"}')[:-4]], ids=["nothing", "plain", "cut"]
)
def test_a_body_that_is_not_what_it_says_is_400(server: Any, body: bytes) -> None:
    answer = post(server, body, "gzip")
    assert (answer.status_code, answer.json()["error_type"]) == (400, "validation")


@pytest.mark.parametrize("accepted", ["gzip", "deflate"])
def test_a_large_answer_is_compressed_where_the_client_asks(server: Any, accepted: str) -> None:
    plain = server.predict(["good film"] * 64, headers={"accept-encoding": "identity"})
    packed = server.predict(["good film"] * 64, headers={"accept-encoding": accepted})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == accepted
    assert packed.headers["vary"] == "accept-encoding"
    assert int(packed.headers["content-length"]) < len(plain.content) / 4
    assert packed.json() == plain.json()


def test_a_small_answer_is_sent_as_it_is(server: Any) -> None:
    assert "content-encoding" not in server.predict("good film", headers={"accept-encoding": "gzip"}).headers
