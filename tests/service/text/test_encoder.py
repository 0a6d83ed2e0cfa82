"""Texts to token ids at a model's limit."""

from collections.abc import Mapping

import pytest

from service.edge.http import errors
from service.frames import id_array
from service.served.catalog import ServedModel, load_tokenizer
from service.text.encoder import TextEncoder
from service.text.encoders import encoder_of
from service.text.refusal import TextRefused
from tests.service.text.tokenizers import TYPED, byte_bpe, unigram, word_level, word_piece, xlnet_like

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


def test_no_types_are_sent_where_the_tokenizer_returns_none() -> None:
    tokenizer = word_piece(model_input_names=["input_ids", "attention_mask"])
    assert "token_type_ids" not in tokenizer("good", "bad")
    assert encoder_of(tokenizer, max_length=LIMIT).encode([("good", "bad")], truncate=True).types == b""


def test_types_of_a_pair_that_are_all_zero_are_not_sent() -> None:
    tokenizer = unigram(model_input_names=TYPED)
    assert set(tokenizer("good", "bad")["token_type_ids"]) == {0}
    assert encoder_of(tokenizer, max_length=LIMIT).encode([("good", "bad")], truncate=True).types == b""


def test_types_of_a_lone_text_are_sent_where_they_are_not_all_zero() -> None:
    tokens = encoder_of(xlnet_like(), max_length=LIMIT).encode([("good", None), ("good", "bad")], truncate=True)
    assert id_array(tokens.types).tolist() == [0, 0, 2, 0, 0, 1, 1, 2]


def test_a_text_whose_tokens_have_types_is_not_explained() -> None:
    with pytest.raises(TextRefused, match="have types"):
        encoder_of(xlnet_like(), max_length=LIMIT).encoding("good", truncate=True)


def test_an_empty_partner_is_none_as_in_transformers(encoder: TextEncoder, catalog: Mapping[str, ServedModel]) -> None:
    tokens = encoder.encode([("good", "")], truncate=True)
    assert tokens == encoder.encode([("good", None)], truncate=True)
    tokenizer = load_tokenizer(catalog["tiny-bert"].tokenizer_path)
    assert id_array(tokens.ids).tolist() == tokenizer("good", "")["input_ids"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_side_is_the_tokenizers_own_unless_asked(side: str) -> None:
    tokenizer = word_piece(truncation_side=side)
    encoder = encoder_of(tokenizer, max_length=LIMIT)
    texts = [(LONG, None), (LONG, "é"), (LONG, LONG)]
    expected = [one for text in texts for one in tokenizer(*text, truncation=True, max_length=LIMIT)["input_ids"]]
    assert id_array(encoder.encode(texts, truncate=True).ids).tolist() == expected
    assert encoder.encode(texts, truncate=True) == encoder.encode(texts, truncate=True, from_left=side == "left")
    assert encoder.encode(texts, truncate=True) != encoder.encode(texts, truncate=True, from_left=side == "right")
    assert encoder.encoding(LONG, truncate=True).ids == expected[:LIMIT]


@pytest.mark.parametrize("truncate", [True, False])
def test_a_text_of_which_no_token_is_left_is_refused(truncate: bool) -> None:
    """transformers gives an empty row, on which models fail."""
    assert word_level()("  ")["input_ids"] == []
    encoder = encoder_of(word_level(), max_length=LIMIT)
    for texts in ([("  ", None)], [("\n", "\t")]):
        with pytest.raises(TextRefused, match=r"inputs\[1\]: no token is left of this text"):
            encoder.encode([("good", None), *texts], truncate=truncate)
    with pytest.raises(TextRefused, match=r"inputs\[2\]: no token is left of this text"):
        encoder.encode_windows([("good " * 3 * LIMIT, None), ("good", None), (" ", None)], max_windows=99)
    with pytest.raises(TextRefused, match="inputs: no token is left of this text"):
        encoder.encoding(" ", truncate=truncate)
    assert [encoding.ids for encoding in encoder.encodings([" "], add_special_tokens=True)] == [[]]


def test_spaces_that_are_tokens_are_scored_as_by_transformers() -> None:
    tokens = encoder_of(byte_bpe(), max_length=LIMIT).encode([("  ", None)], truncate=True)
    assert id_array(tokens.ids).tolist() == byte_bpe()("  ")["input_ids"]
