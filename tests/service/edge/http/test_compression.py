"""Compressed bodies: how far a request is expanded, and which encoding an answer gets."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest

from service.edge.http.compression import check_encoding, compressed, decompress, decompressed, preferred
from service.edge.http.errors import ServiceError

LIMIT = 100_000
PACK = {b"gzip": gzip.compress, b"deflate": zlib.compress}


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"GZIP"])
@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_body_up_to_the_limit_is_decompressed(encoding: bytes, size: int) -> None:
    body = PACK[encoding.lower()](b"a" * size)
    assert asyncio.run(decompressed(body, encoding, limit=LIMIT)) == b"a" * size


def test_identity_is_the_body_itself() -> None:
    assert asyncio.run(decompressed(b"abc", b"identity", limit=LIMIT)) == b"abc"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_is_413_and_not_expanded(encoding: bytes) -> None:
    bomb = PACK[encoding](b"a" * 20_000_000)
    tracemalloc.start()
    with pytest.raises(ServiceError) as caught:
        decompress(bomb, bits=31 if encoding == b"gzip" else 15, limit=LIMIT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.status == 413
    assert peak < 3_000_000  # the limit, zlib's window and the unread rest of the bomb


@pytest.mark.parametrize(
    "body",
    [b"", b"abc", gzip.compress(b"abc" * 99)[:-9], gzip.compress(b"a") + b"b", gzip.compress(b"a") * 2, zlib.compress(b"a")],
    ids=["nothing", "plain", "cut", "with a tail", "two", "the other format"],
)
def test_what_is_not_one_whole_stream_is_400(body: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        decompress(body, bits=31, limit=LIMIT)
    assert (caught.value.status, caught.value.error_type) == (400, "validation")


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip, gzip", b"", b"compress"])
def test_another_encoding_is_415(encoding: bytes) -> None:
    with pytest.raises(ServiceError) as caught:
        check_encoding(encoding)
    assert (caught.value.status, caught.value.error_type) == (415, "validation")


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (b"gzip, deflate, br, zstd", b"gzip"),
        (b"deflate", b"deflate"),
        (b"br;q=1.0, gzip; q=0.8, *;q=0.1", b"gzip"),
        (b"GZIP", b"gzip"),
        (b"gzip;q=0, deflate", b"deflate"),
        (b"gzip;q=0.000", None),
        (b"identity", None),
        (b"", None),
        (b"br", None),
    ],
)
def test_the_client_says_what_it_takes(accepted: bytes, chosen: bytes | None) -> None:
    assert preferred(accepted) == chosen


@pytest.mark.parametrize("size", [2000, 200_000])
def test_an_answer_is_compressed_as_asked(size: int) -> None:
    body, headers = asyncio.run(compressed(b"a" * size, b"deflate"))
    assert zlib.decompress(body) == b"a" * size
    assert (b"content-encoding", b"deflate") in headers
