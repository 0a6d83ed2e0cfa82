"""The normalizer, and what the pipelines do before any text trains them."""

import re

import pytest

from tokenizers_store.pipelines import EMOJI, build_pipeline, emoji_alphabet, normalizer


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("see https://t.co/x1?a=b now", "see http now"),
        ("www.example.com", "http"),
        ("thanks @ann_9, @bob!", "thanks @, @!"),
        ("‘it’s’ “fine” `ok`", "'it's' \"fine\" 'ok'"),
        ("👍🏽", "👍"),
        ("❤️", "❤"),
        ("👨\u200d👩", "👨👩"),
        ("电影很好", "电 影 很 好"),
        ("Café NAÏVE", "cafe naive"),
        ("ﬁne １０", "fine 10"),
        ("  a \t b\nc  ", "a b c"),
        ("a\u0000b", "ab"),
        ("", ""),
    ],
)
def test_normalizer_makes_one_form_of_many(raw: str, normal: str) -> None:
    assert normalizer().normalize_str(raw) == normal


@pytest.mark.parametrize("text", ["see http by @: 'ok'", "cafe 👍 电 影"])
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalizer().normalize_str(text) == text


def test_unknown_kind_is_refused_by_naming_the_kinds() -> None:
    with pytest.raises(ValueError, match="unknown tokenizer kind 'word'; choose one of wordpiece, bpe, unigram"):
        build_pipeline("word")


def test_emoji_alphabet_is_single_code_points_of_the_ranges() -> None:
    alphabet = emoji_alphabet()
    assert {"😍", "👍", "❤", "🤖"} <= set(alphabet)
    assert all(re.fullmatch(EMOJI, emoji) for emoji in alphabet)
    assert len(set(alphabet)) == len(alphabet)
