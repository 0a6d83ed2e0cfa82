"""Every kind of tokenizer: what is sent is what transformers' own call gives, and a difference is found."""

import logging
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import BatchEncoding, CanineTokenizer, PreTrainedTokenizerBase
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from load_tests.servers import ROOT
from service.served.catalog import load_tokenizer
from service.text import encoder as encoder_module
from service.text.encoder import TextEncoder
from service.text.encoders import SpecialTokens, encoder_of
from service.text.plain import PlainEncoder
from service.text.proof import nasty_texts, prove_encoder, proven_form
from tests.service.text.tokenizers import KINDS, unigram, word_piece

LIMIT = 24
SHIPPED = sorted(path.parent for path in (ROOT / "tokenizers_store").glob("*/tokenizer.json"))


def form_of(tokenizer: PreTrainedTokenizerBase, special_tokens: SpecialTokens = "split") -> str:
    return proven_form(tokenizer, name="mine", max_length=LIMIT, special_tokens=special_tokens)


@pytest.mark.parametrize("special_tokens", ["split", "keep"])
@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_the_shipped_tokenizers_are_proven(folder: Any, special_tokens: SpecialTokens) -> None:
    assert form_of(load_tokenizer(folder), special_tokens) == "ascii apart"


@pytest.mark.parametrize("special_tokens", ["split", "keep"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_proven(kind: str, side: str, special_tokens: SpecialTokens) -> None:
    assert form_of(KINDS[kind](truncation_side=side), special_tokens) == "ascii apart"


@pytest.mark.parametrize("special_tokens", ["split", "keep"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_with_tokens_of_a_users_own_is_proven(kind: str, special_tokens: SpecialTokens) -> None:
    tokenizer = KINDS[kind]()
    tokenizer.add_special_tokens({"extra_special_tokens": ["[USER]"]})
    tokenizer.add_tokens([AddedToken("wowwow", lstrip=True), "ＷＯＷ"])
    assert form_of(tokenizer, special_tokens) == "ascii apart"


def test_a_tokenizer_that_splits_by_its_own_setting_is_proven() -> None:
    assert form_of(word_piece(split_special_tokens=True), "keep") == "ascii apart"


def test_the_texts_hold_pairs_long_texts_and_the_vocabulary() -> None:
    tokenizer = word_piece()
    texts = nasty_texts(tokenizer, max_length=LIMIT)
    assert len(texts) > 200
    assert sum(bool(partner) for _, partner in texts) > 30
    assert sum(len(tokenizer(*text)["input_ids"]) > LIMIT for text in texts) > 20
    assert {"film"} < {word for text, _ in texts for word in text.split()}


def test_a_wrong_shortcut_is_found_and_dropped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(tokenizer: Tokenizer) -> Tokenizer:
        copy = Tokenizer.from_str(tokenizer.to_str())
        copy.normalizer = None
        return copy

    monkeypatch.setattr(encoder_module, "for_ascii", wrong)
    with caplog.at_level(logging.WARNING):
        assert form_of(word_piece()) == "rust"
    (record,) = caplog.records
    assert record.getMessage().startswith("mine: ")
    assert record.getMessage().endswith("texts are encoded without the shorter way for ASCII")


class Shouting(PreTrainedTokenizerFast):
    """Prepares texts in Python, which its Rust object knows nothing of."""

    def _encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        return super()._encode_plus(f"good {text}", text_pair, **options)


def shouting() -> PreTrainedTokenizerBase:
    plain = word_piece()
    return Shouting(tokenizer_object=plain.backend_tokenizer, **plain.special_tokens_map)


def test_a_call_that_does_more_than_the_rust_object_is_found_and_made(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = shouting()
    with caplog.at_level(logging.WARNING):
        assert form_of(tokenizer) == "plain"
    assert [record.getMessage().rpartition("; ")[2] for record in caplog.records] == [
        "texts are encoded without the shorter way for ASCII",
        "texts are encoded by that call, which is slow",
    ]
    encoder = encoder_of(tokenizer, max_length=LIMIT, form="plain")
    assert isinstance(encoder, PlainEncoder)
    assert prove_encoder(tokenizer, encoder) == []


def test_a_tokenizer_without_a_rust_object_is_called_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert form_of(CanineTokenizer()) == "plain"
    assert not caplog.records


@pytest.mark.parametrize(("returned", "sent"), [(True, False), (False, True)])
def test_types_are_compared(returned: bool, sent: bool) -> None:
    tokenizer = word_piece(model_input_names=["input_ids", *(["token_type_ids"] if returned else []), "attention_mask"])
    encoder = TextEncoder(tokenizer.backend_tokenizer, max_length=LIMIT, has_types=sent)
    different = prove_encoder(tokenizer, encoder, special_tokens="keep")
    assert different
    assert all(partner for _, partner in different)


def test_a_control_token_that_slips_through_is_found() -> None:
    tokenizer = unigram()
    kept = TextEncoder(tokenizer.backend_tokenizer, max_length=LIMIT)
    assert any("</s>" in text for text, _ in prove_encoder(tokenizer, kept, special_tokens="split"))
    assert prove_encoder(tokenizer, kept, special_tokens="keep") == []


def test_the_tokenizer_keeps_its_own_side() -> None:
    tokenizer = word_piece(truncation_side="left")
    form_of(tokenizer)
    assert tokenizer.truncation_side == "left"
