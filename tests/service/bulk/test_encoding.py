"""Rows to token ids, longest first, and back to rows; what can't be encoded is told by row and fails nothing else."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from service.bulk.encoding import Chunk, encoded, strings
from service.bulk.setup import Options
from service.served.catalog import load_tokenizer
from service.text.encoder import TextEncoder

LONG = "a wonderful film " * 40


@pytest.fixture(scope="module")
def encoder(checkpoints: Mapping[str, Path]) -> TextEncoder:
    return TextEncoder(load_tokenizer(checkpoints["tiny-bert"]).backend_tokenizer, max_length=48)


def test_texts_are_sorted_and_come_back_in_their_order(encoder: TextEncoder) -> None:
    texts = ["the train leaves at nine", "a", "the book is on the table in the town", None, "a film"]
    found = encoded([texts], encoder, Options(), problems={})
    lengths = found.chunk.lengths.tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert found.errors == {3: "null"}
    first_ids = np.array([[text.ids[1]] for text in found.chunk.texts()], dtype=np.float32)
    kept = [text for text in texts if text is not None]
    expected = [np.frombuffer(encoder.encode([(text, None)], truncate=True).ids, "<i4")[1] for text in kept]
    assert [int(row[0]) for row in found.rows(first_ids)] == expected
    assert list(dict.fromkeys(found.owners)) == [0, 1, 2, 4]


def test_a_bad_row_fails_alone(encoder: TextEncoder) -> None:
    texts = ["good", "", None, LONG, UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "bad", "lost"]
    found = encoded([texts], encoder, Options(overflow="error"), problems={6: "not a row"})
    assert found.errors == {1: "empty", 2: "null", 3: "too long", 4: "not text", 6: "not a row"}
    assert sorted(found.owners) == [0, 5]


@pytest.mark.parametrize("left", [False, True])
def test_a_long_text_is_cut_at_either_end(encoder: TextEncoder, left: bool) -> None:
    found = encoded([[f"funny {LONG} boring"]], encoder, Options(truncate_left=left), problems={})
    expected = encoder.encode([(f"funny {LONG} boring", None)], truncate=True, from_left=left)
    assert found.chunk.ids.tobytes() == expected.ids


def test_windows_become_one_row(encoder: TextEncoder) -> None:
    found = encoded([["good", LONG, "bad"]], encoder, Options(overflow="window"), problems={})
    windows = encoder.encode_windows([(LONG, None)], max_windows=1000)
    assert found.owners == [0, *[1] * len(windows.lengths), 2]
    logits = np.arange(len(found.owners), dtype=np.float32).reshape(-1, 1)
    rows = found.rows(logits[found.order])
    mean = np.average(np.arange(1, 1 + len(windows.lengths)), weights=windows.weights)
    assert [row[0] for row in rows] == pytest.approx([0, mean, len(found.owners) - 1])
    failed = found.order == 2
    assert found.rows_of(failed) == {1}


def test_pairs_have_token_types(encoder: TextEncoder) -> None:
    found = encoded([["good", "bad", "", None], ["film", None, "film", "film"]], encoder, Options(), problems={})
    assert found.errors == {3: "null"}
    assert found.chunk.types is not None
    expected = encoder.encode([("good", "film"), ("bad", None), ("", "film")], truncate=True)
    types = np.frombuffer(expected.types, "<i4")
    bounds = np.cumsum([0, *expected.lengths])
    by_order = np.concatenate([types[bounds[place] : bounds[place + 1]] for place in found.order])
    assert found.chunk.types.tolist() == by_order.tolist()


def test_no_text_at_all(encoder: TextEncoder) -> None:
    found = encoded([[None, None]], encoder, Options(), problems={})
    assert len(found.chunk) == 0
    assert found.rows(np.zeros((0, 3), dtype=np.float32)) == []
    assert found.chunk.cut(10) == []


@pytest.mark.parametrize("budget", [1, 3, 4, 7, 100])
def test_chunks_hold_every_text_once_within_the_budget(budget: int) -> None:
    lengths = np.array([5, 3, 3, 2, 1, 1], dtype=np.int32)
    chunk = Chunk(ids=np.arange(15, dtype=np.int32), lengths=lengths)
    cut = chunk.cut(budget)
    assert np.concatenate([part.ids for part in cut]).tolist() == list(range(15))
    assert all(part.lengths.sum() <= budget or len(part) == 1 for part in cut)
    first, second = chunk.halves()
    assert [text.ids.tolist() for text in (*first.texts(), *second.texts())] == [text.ids.tolist() for text in chunk.texts()]


def test_strings_of_every_kind_of_column() -> None:
    assert strings(pa.chunked_array([pa.array(["a", None]).dictionary_encode()])) == ["a", None]
    assert strings(pa.chunked_array([pa.array(["a"], pa.large_string())])) == ["a"]
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 1, 2], dtype=np.int32)), pa.py_buffer(b"a\xff"))
    first, second = strings(pa.chunked_array([broken]))
    assert first == "a"
    assert isinstance(second, UnicodeDecodeError)
