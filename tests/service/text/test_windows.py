"""Long texts as windows, and the windows' logits as one row."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest
from tokenizers import Tokenizer

from service.edge.http import errors
from service.frames import id_array
from service.served.catalog import ServedModel, load_tokenizer
from service.text.encoder import TextEncoder, Tokens
from service.text.refusal import TextRefused
from service.text.windows import combined, spans

LIMIT = 12
ROOM = LIMIT - 2
OVERLAP = 2
CLS, SEP = 2, 3
SENTENCE = "the film was good and funny and moving a terrible boring slow train leaves at nine on monday"
WORDS = SENTENCE.split()
MANY = 1000


def text(words: int) -> str:
    """A text of so many tokens: each of its words is one token of the tiny tokenizer."""
    return " ".join(WORDS[place % len(WORDS)] for place in range(words))


@pytest.fixture
def tokenizer(catalog: Mapping[str, ServedModel]) -> Tokenizer:
    return load_tokenizer(catalog["tiny-bert"].tokenizer_path).backend_tokenizer


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    return TextEncoder(tokenizer, max_length=LIMIT)


def rows(tokens: Tokens, data: bytes) -> list[list[int]]:
    ids = iter(id_array(data).tolist())
    return [[next(ids) for _ in range(length)] for length in tokens.lengths]


@pytest.mark.parametrize("words", [ROOM + 1, 2 * ROOM - OVERLAP, 2 * ROOM - OVERLAP + 1, 57, 400])
def test_windows_of_a_text_are_those_of_the_tokenizers_library(encoder: TextEncoder, tokenizer: Tokenizer, words: int) -> None:
    tokenizer.enable_truncation(LIMIT, stride=OVERLAP)
    first = tokenizer.encode(text(words))
    expected = [first, *first.overflowing]
    tokens = encoder.encode_windows([(text(words), None)], max_windows=MANY)
    assert rows(tokens, tokens.ids) == [window.ids for window in expected]
    assert list(tokens.weights) == [len(window) - sum(window.special_tokens_mask) for window in expected]
    assert set(tokens.owners) == {0}


@pytest.mark.parametrize("words", [1, 5, ROOM])
def test_a_text_that_fits_is_not_touched(encoder: TextEncoder, words: int) -> None:
    texts = [(text(words), None), (text(words), "good")] if words < ROOM - 1 else [(text(words), None)]
    assert encoder.encode_windows(texts, max_windows=MANY) == encoder.encode(texts, truncate=True)


@pytest.mark.parametrize(("first", "second"), [(40, 3), (3, 40), (0, 40), (9, 4), (4, 9), (30, ROOM - 2)])
def test_the_longer_text_of_a_pair_is_cut_and_the_other_kept_whole(
    encoder: TextEncoder, tokenizer: Tokenizer, first: int, second: int
) -> None:
    whole = tokenizer.encode(text(first), text(second), add_special_tokens=False)
    longer, shorter = (0, 1) if first >= second else (1, 0)
    members = [[i for i, member in zip(whole.ids, whole.sequence_ids, strict=True) if member == place] for place in (0, 1)]
    tokens = encoder.encode_windows([(text(first), text(second))], max_windows=MANY)
    found = []
    for ids, types in zip(rows(tokens, tokens.ids), rows(tokens, tokens.types), strict=True):
        middle = ids.index(SEP)
        parts = [ids[1:middle], ids[middle + 1 : -1]]
        assert ids == [CLS, *parts[0], SEP, *parts[1], SEP]
        assert types == [0] * (len(parts[0]) + 2) + [1] * (len(parts[1]) + 1)
        assert len(ids) <= LIMIT
        assert parts[shorter] == members[shorter]
        found.append(parts[longer])
    room = LIMIT - 3 - min(first, second)
    assert found == [members[longer][start:end] for start, end in spans(max(first, second), room=room)]
    assert [len(part) for part in found] == list(tokens.weights)


def test_windows_follow_the_texts_of_a_batch(encoder: TextEncoder) -> None:
    texts = [(text(3), None), (text(30), None), (text(20), text(3)), (text(ROOM), None)]
    tokens = encoder.encode_windows(texts, max_windows=MANY)
    assert list(tokens.owners) == sorted(tokens.owners)
    assert [list(tokens.owners).count(place) for place in range(4)] == [1, 4, 4, 1]
    found = rows(tokens, tokens.ids)
    for place, one in enumerate(texts):
        alone = encoder.encode_windows([one], max_windows=MANY)
        assert [row for row, owner in zip(found, tokens.owners, strict=True) if owner == place] == rows(alone, alone.ids)


@pytest.mark.parametrize("first", [LIMIT - 3, LIMIT, 40])
def test_a_pair_that_leaves_no_room_is_422(encoder: TextEncoder, first: int) -> None:
    with pytest.raises(TextRefused) as caught:
        encoder.encode_windows([("good", None), (text(first), text(50))], max_windows=MANY)
    refused = errors.refused(caught.value)
    assert (refused.status, refused.error_type) == (422, "validation")
    assert errors.refused(caught.value).message.startswith(f"inputs[1]: the shorter text of the pair takes {first + 3} tokens")


@pytest.mark.parametrize(("limit", "taken"), [(5, True), (4, False)])
def test_windows_count_against_the_limit(encoder: TextEncoder, limit: int, taken: bool) -> None:
    texts = [("good", None), (text(30), None)]
    if taken:
        assert len(encoder.encode_windows(texts, max_windows=limit).lengths) == 5
        return
    with pytest.raises(TextRefused) as caught:
        encoder.encode_windows(texts, max_windows=limit)
    assert errors.refused(caught.value).status == 422
    assert errors.refused(caught.value).message.startswith("inputs: 5 windows of 12 tokens exceed the limit of 4;")


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 510])
@pytest.mark.parametrize("length", [1, 2, 4, 5, 510, 511, 5000])
def test_every_token_is_in_a_window_and_a_quarter_in_two(length: int, room: int) -> None:
    found = spans(length, room=room)
    assert (found[0][0], found[-1][1]) == (0, length)
    assert all(end - start == room for start, end in found[:-1])
    assert all(earlier[1] - later[0] == room // 4 for earlier, later in pairwise(found))
    assert len(found) == 1 or found[-1][1] > found[-2][1]


@pytest.mark.parametrize(
    ("logits", "owners", "weights", "expected"),
    [
        ([[1.0, 2.0]], [], [], [[1.0, 2.0]]),
        ([[3.0, 0.0], [0.0, 6.0]], [0, 0], [2, 1], [[2.0, 2.0]]),
        ([[0.1], [1.0], [4.0], [0.7]], [0, 1, 1, 2], [9, 1, 2, 3], [[0.1], [3.0], [0.7]]),
    ],
)
def test_logits_are_the_mean_weighted_by_tokens(
    logits: list[list[float]], owners: Sequence[int], weights: Sequence[int], expected: list[list[float]]
) -> None:
    assert combined(logits, owners=owners, weights=weights) == expected


def test_an_empty_partner_is_none_in_windows(encoder: TextEncoder) -> None:
    with_empty = encoder.encode_windows([(text(40), "")], max_windows=MANY)
    assert with_empty == encoder.encode_windows([(text(40), None)], max_windows=MANY)
    assert len(with_empty.lengths) > 1
