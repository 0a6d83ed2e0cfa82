"""A tokenizer without a Rust object, called as it stands."""

import pytest
from transformers import CanineTokenizer, PreTrainedTokenizerBase

from service.edge.http import errors
from service.frames import id_array
from service.text.encoders import encoder_of
from service.text.plain import PlainEncoder
from service.text.refusal import TextRefused
from tests.service.text.tokenizers import word_piece

LIMIT = 16
LONG = "the film was good and the end was bad"
TEXTS = [("good", None), (LONG, None), ("good", "bad"), (LONG, LONG), ("naïve 😍", "好"), ("good", "")]


@pytest.fixture(params=[CanineTokenizer, word_piece], ids=["canine", "fast"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    made: PreTrainedTokenizerBase = request.param()
    return made


@pytest.fixture
def encoder(tokenizer: PreTrainedTokenizerBase) -> PlainEncoder:
    made = encoder_of(tokenizer, max_length=LIMIT, form="plain")
    assert isinstance(made, PlainEncoder)
    return made


@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_and_types_are_those_of_the_call(encoder: PlainEncoder, tokenizer: PreTrainedTokenizerBase, side: str) -> None:
    tokens = encoder.encode(TEXTS, truncate=True, from_left=side == "left")
    tokenizer.truncation_side = side
    rows = [tokenizer(*text, truncation=True, max_length=LIMIT) for text in TEXTS]
    assert tokens.lengths == [len(row["input_ids"]) for row in rows]
    assert id_array(tokens.ids).tolist() == [one for row in rows for one in row["input_ids"]]
    types = [one for row in rows for one in row["token_type_ids"]]
    assert id_array(tokens.types).tolist() == (types if any(types) else [])


def test_pairs_that_are_cut_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    CanineTokenizer()(LONG, LONG, truncation=True, max_length=LIMIT)
    warned = len(caplog.records)
    encoder_of(CanineTokenizer(), max_length=LIMIT).encode([(LONG, LONG)], truncate=True)
    assert len(caplog.records) == warned


def test_the_side_is_the_tokenizers_own_unless_asked() -> None:
    encoder = encoder_of(CanineTokenizer(truncation_side="left"), max_length=LIMIT)
    texts = [(LONG, None)]
    assert encoder.encode(texts, truncate=True) == encoder.encode(texts, truncate=True, from_left=True)
    assert encoder.encode(texts, truncate=True) != encoder.encode(texts, truncate=True, from_left=False)


def test_types_that_are_all_zero_are_not_sent(encoder: PlainEncoder) -> None:
    assert encoder.encode([("good", None)], truncate=True).types == b""


def test_a_text_that_is_too_long_is_refused_with_limit_and_length(encoder: PlainEncoder) -> None:
    with pytest.raises(TextRefused, match=rf"inputs\[1\]: \d+ tokens exceed the model's limit of {LIMIT}; .*truncate: true"):
        encoder.encode([("good", None), (LONG * 2, None)], truncate=False)


@pytest.mark.parametrize("text", ["good [SEP]", "good [sep]"])
def test_a_control_token_in_a_text_is_read_as_text(text: str) -> None:
    tokenizer = word_piece()
    encoder = encoder_of(tokenizer, max_length=LIMIT, form="plain")
    expected = tokenizer(text, split_special_tokens=True)["input_ids"]
    assert id_array(encoder.encode([(text, None)], truncate=True).ids).tolist() == expected


def test_a_token_of_a_users_own_stays_one() -> None:
    tokenizer = word_piece(extra_special_tokens=["[USER]"])
    encoder = encoder_of(tokenizer, max_length=LIMIT, form="plain")
    expected = tokenizer("the [USER]")["input_ids"]
    assert id_array(encoder.encode([("the [USER]", None)], truncate=True).ids).tolist() == expected


@pytest.mark.parametrize(("text", "partner"), [("good \ue001", None), ("good", "a\x00b")])
def test_a_control_token_that_can_not_be_read_as_text_is_refused(text: str, partner: str | None) -> None:
    """CANINE's are code points that a text may hold."""
    encoder = encoder_of(CanineTokenizer(), max_length=LIMIT)
    with pytest.raises(TextRefused, match=r"inputs\[1\]: holds a control token"):
        encoder.encode([("good", None), (text, partner)], truncate=True)
    kept = encoder_of(CanineTokenizer(), max_length=LIMIT, special_tokens="keep")
    assert id_array(kept.encode([(text, partner)], truncate=True).ids).tolist() == CanineTokenizer()(text, partner)["input_ids"]


def test_what_it_can_not_do_is_one_sentence_each(encoder: PlainEncoder) -> None:
    for call in (
        lambda: encoder.encode_windows([("good", None)], max_windows=9),
        lambda: encoder.encodings(["good"], add_special_tokens=True),
        lambda: encoder.encoding("good", truncate=True),
    ):
        with pytest.raises(TextRefused, match="does not") as caught:
            call()
        refused = errors.refused(caught.value)
        assert (refused.status, refused.error_type) == (422, "validation")


def test_a_text_that_the_tokenizer_raises_on_is_refused(encoder: PlainEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mine")

    monkeypatch.setattr(encoder, "_called", broken)
    with pytest.raises(TextRefused) as caught:
        encoder.encode([("good", None)], truncate=True)
    assert caught.value.is_unreadable
