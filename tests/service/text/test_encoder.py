"""Texts to token ids at a model's limit."""

from collections.abc import Mapping

import pytest

from service.edge.http import errors
from service.frames import id_array
from service.served.catalog import ServedModel, load_tokenizer
from service.text.encoder import TextEncoder
from service.text.refusal import TextRefused

LIMIT = 6
LONG = "the film was good and funny and moving"
PAD, CLS, SEP = 0, 2, 3


@pytest.fixture
def encoder(catalog: Mapping[str, ServedModel]) -> TextEncoder:
    return TextEncoder(load_tokenizer(catalog["tiny-bert"].tokenizer_path).backend_tokenizer, max_length=LIMIT)


@pytest.fixture
def whole(catalog: Mapping[str, ServedModel]) -> list[int]:
    """The ids of the long text, uncut."""
    return load_tokenizer(catalog["tiny-bert"].tokenizer_path)(LONG, truncation=False)["input_ids"]


def test_right_truncation_keeps_the_beginning_and_the_special_tokens(encoder: TextEncoder, whole: list[int]) -> None:
    tokens = encoder.encode([(LONG, None)], truncate=True)
    assert id_array(tokens.ids).tolist() == [CLS, *whole[1 : LIMIT - 1], SEP]


def test_left_truncation_keeps_the_end_and_the_special_tokens(encoder: TextEncoder, whole: list[int]) -> None:
    tokens = encoder.encode([(LONG, None)], truncate=True, from_left=True)
    assert id_array(tokens.ids).tolist() == [CLS, *whole[-LIMIT + 1 : -1], SEP]


def test_a_text_that_is_too_long_is_422_with_limit_and_length(encoder: TextEncoder, whole: list[int]) -> None:
    with pytest.raises(TextRefused) as caught:
        encoder.encode([("good", None), (LONG, None)], truncate=False)
    assert errors.refused(caught.value).status == 422
    assert errors.refused(caught.value).message.startswith(f"inputs[1]: {len(whole)} tokens exceed the model's limit of {LIMIT};")


def test_one_text_does_not_pad_another(encoder: TextEncoder) -> None:
    tokens = encoder.encode([("good", None), ("the film was good", None)], truncate=True)
    assert tokens.lengths == [3, 6]
    assert PAD not in id_array(tokens.ids)
    assert len(id_array(tokens.ids)) == sum(tokens.lengths)


@pytest.mark.parametrize("text", [LONG, "good", "", " "])
@pytest.mark.parametrize("from_left", [False, True])
def test_special_tokens_stand_at_both_ends(encoder: TextEncoder, text: str, from_left: bool) -> None:
    ids = id_array(encoder.encode([(text, None)], truncate=True, from_left=from_left).ids)
    assert (ids[0], ids[-1]) == (CLS, SEP)


def test_types_are_sent_only_where_a_text_has_a_partner(encoder: TextEncoder) -> None:
    assert encoder.encode([("good", None)], truncate=True).types == b""
    types = encoder.encode([("good", None), ("good", "film")], truncate=True).types
    assert id_array(types).tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_a_pair_is_truncated_to_the_limit(encoder: TextEncoder) -> None:
    assert encoder.encode([(LONG, LONG)], truncate=True).lengths == [LIMIT]


def test_a_text_that_is_not_unicode_is_422(encoder: TextEncoder) -> None:
    with pytest.raises(TextRefused) as caught:
        encoder.encode([("\ud800", None)], truncate=True)
    refused = errors.refused(caught.value)
    assert (refused.status, refused.error_type) == (422, "tokenizer")


def test_the_tokenizer_given_keeps_its_own_settings(catalog: Mapping[str, ServedModel]) -> None:
    tokenizer = load_tokenizer(catalog["tiny-bert"].tokenizer_path).backend_tokenizer
    tokenizer.enable_padding(length=9)
    TextEncoder(tokenizer, max_length=LIMIT).encode([(LONG, None)], truncate=True)
    assert tokenizer.padding is not None
    assert tokenizer.truncation is None


def test_texts_of_ascii_and_others_in_one_batch_are_tokenized_as_alone(encoder: TextEncoder) -> None:
    texts = [("good", None), ("naïve 😍", None), ("bad", "good"), ("fine", "café"), ("moving", None), ("…", None)]
    together = id_array(encoder.encode(texts, truncate=True).ids).tolist()
    assert together == [token for text in texts for token in id_array(encoder.encode([text], truncate=True).ids).tolist()]
    assert encoder.encode(texts, truncate=True).lengths == [encoder.encode([text], truncate=True).lengths[0] for text in texts]
