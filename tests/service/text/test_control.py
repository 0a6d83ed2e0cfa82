"""A text that spells a control token is a text; tokens that a user trained are tokens."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from service.frames import id_array
from service.text.control import control_ids, control_tokens, reading_as_text
from service.text.encoders import encoder_of
from tests.service.text.tokenizers import KINDS, byte_bpe, unigram, word_level, word_piece

LIMIT = 200
SPELT = "good [SEP] bad </s> <s> <end> good<|end|> [CLS][PAD] <pad><mask> [MASK]"


def ids(tokenizer: PreTrainedTokenizerBase, text: str, **options: Any) -> list[int]:
    encoder = encoder_of(tokenizer, max_length=LIMIT, **options)
    return id_array(encoder.encode([(text, None)], truncate=True).ids).tolist()


@pytest.mark.parametrize("form", ["ascii apart", "rust"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["", " é"], ids=["ascii", "other"])
def test_no_control_token_comes_of_a_text(kind: str, form: str, ending: str) -> None:
    tokenizer = KINDS[kind]()
    control = control_ids(tokenizer, control_tokens(tokenizer))
    around = [one for one in tokenizer("good")["input_ids"] if one in control]
    assert [one for one in ids(tokenizer, SPELT + ending, form=form) if one in control] == around
    assert len([one for one in ids(tokenizer, SPELT + ending, form=form, special_tokens="keep") if one in control]) > len(around)


@pytest.mark.parametrize("kind", KINDS)
def test_keep_is_what_transformers_does(kind: str) -> None:
    tokenizer = KINDS[kind]()
    assert ids(tokenizer, SPELT, special_tokens="keep") == tokenizer(SPELT)["input_ids"]


@pytest.mark.parametrize("kind", ["word_piece", "byte_bpe"])
def test_split_is_what_transformers_does_where_the_model_does_not_know_the_token(kind: str) -> None:
    tokenizer = KINDS[kind]()
    assert ids(tokenizer, SPELT) == tokenizer(SPELT, split_special_tokens=True)["input_ids"]


@pytest.mark.parametrize("kind", ["unigram", "word_level"])
def test_transformers_lets_control_tokens_through_where_the_model_knows_them(kind: str) -> None:
    """The reason why its option does not do; when this fails, it may."""
    tokenizer = KINDS[kind]()
    eos = tokenizer.eos_token
    assert tokenizer.eos_token_id in tokenizer(f"good {eos} bad", split_special_tokens=True)["input_ids"][:-1]


@pytest.mark.parametrize("make", [word_piece, unigram, word_level, byte_bpe])
@pytest.mark.parametrize("special", [True, False])
def test_tokens_that_a_user_added_stay_tokens(make: Callable[[], PreTrainedTokenizerBase], special: bool) -> None:
    tokenizer = make()
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": ["[USER]"]})
    else:
        tokenizer.add_tokens([AddedToken("[USER]")])
    text = "the [USER] was good"
    assert tokenizer.convert_tokens_to_ids("[USER]") in ids(tokenizer, text)
    assert ids(tokenizer, text) == tokenizer(text)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("[USER]") in ids(tokenizer, f"{text} {SPELT}")


def test_the_control_tokens_are_those_named_and_those_around_a_text() -> None:
    tokenizer = word_piece(cls_token=None, pad_token="!", extra_special_tokens=["[USER]"])
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    assert control_tokens(tokenizer) == {"[SEP]", "[UNK]", "[MASK]", "<bos>"}
    tokenizer.add_tokens([AddedToken("[CLS]", special=True)], special_tokens=True)
    assert "[CLS]" in control_tokens(tokenizer)


def test_one_character_that_texts_hold_is_no_control_token() -> None:
    tokenizer = word_piece(pad_token="!")
    assert ids(tokenizer, "good!") == tokenizer("good!")["input_ids"]


def test_ids_and_tokens_stay_where_they_are() -> None:
    tokenizer = byte_bpe()
    tokenizer.add_tokens(["[ONE]", AddedToken("[TWO]", special=True)])
    pipeline = tokenizer.backend_tokenizer
    copy = reading_as_text(pipeline, ["<|end|>"])
    assert copy.get_vocab_size() == pipeline.get_vocab_size()
    assert {place: token for token, place in pipeline.get_vocab().items() if copy.id_to_token(place) != token} == {
        pipeline.token_to_id("<|end|>"): "<|end|>"
    }


def test_names_are_not_to_be_guessed() -> None:
    pipeline = byte_bpe().backend_tokenizer
    place = pipeline.token_to_id("<|end|>")
    names = {reading_as_text(pipeline, ["<|end|>"]).id_to_token(place) for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == 32 for name in names)


def test_tokens_around_a_text_keep_their_names_in_a_listing() -> None:
    encoder = encoder_of(word_piece(), max_length=LIMIT)
    (encoding,) = encoder.encodings(["good [SEP]"], add_special_tokens=True)
    assert encoding.tokens == ["[CLS]", "good", "[", "sep", "]", "[SEP]"]
    assert encoding.special_tokens_mask == [1, 0, 0, 0, 0, 1]
