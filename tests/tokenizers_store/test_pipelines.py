"""The normalizer, and what the pipelines do before any text trains them."""

import re

import pytest

from tokenizers_store.pipelines import EMOJI, Kind, build_pipeline, emoji_alphabet, normalizer


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("see https://t.co/x1?a=b now", "see http now"),
        ("www.example.com", "http"),
        ("网址www.abc.com很好用", "网 址 http 很 好 用"),
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


@pytest.mark.parametrize(
    ("raw", "normal"),
    [("电影很好", "电影很好"), ("１００％好！ Café", "100%好! cafe"), ("网址www.abc.com很好用", "网址http很好用")],
)
def test_ideographs_may_stay_together(raw: str, normal: str) -> None:
    assert normalizer(ideographs_apart=False).normalize_str(raw) == normal


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wordpiece", ["这", "书", "很", "好", "!", "good", "😍", "😍"]),
        ("unigram", ["▁", "这书很好", "!", "▁good", "😍", "😍"]),
        ("bpe", ["Ġè¿Ļä¹¦å¾Īå¥½", "!", "Ġgood", "ĠðŁĺį", "ĠðŁĺį"]),
    ],
)
def test_no_chinese_sentence_is_a_word_that_must_be_known_whole(kind: Kind, words: list[str]) -> None:
    tokenizer = build_pipeline(kind).tokenizer
    normal = tokenizer.normalizer.normalize_str("这书很好！ Good😍😍")
    assert [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)] == words


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
