"""Trained tokenizers: the same every time, the same when loaded, and what they do to texts."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenizers_store.pipelines import SPECIAL_TOKENS, Kind
from tokenizers_store.training import read_lines, train_tokenizer

KINDS = ("wordpiece", "bpe", "unigram")
VOCAB_SIZE = {"wordpiece": 2000, "bpe": 400, "unigram": 400}
MAX_LENGTH = 12


def train(kind: str, texts: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, kind=kind, vocab_size=VOCAB_SIZE[kind], max_length=MAX_LENGTH, show_progress=False)


@pytest.fixture(scope="session")
def trained(training_texts: tuple[str, ...]) -> Mapping[str, PreTrainedTokenizerFast]:
    return {kind: train(kind, training_texts) for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, trained: Mapping[str, PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return trained[request.param]


@pytest.fixture
def wordpiece(trained: Mapping[str, PreTrainedTokenizerFast]) -> PreTrainedTokenizerFast:
    return trained["wordpiece"]


@pytest.fixture
def varied_texts() -> list[str]:
    """Many equally frequent words, so that a trainer has ties to break."""
    syllables = ["ba", "ce", "di", "fo", "gu", "ha", "ke", "li", "mo", "nu", "pa", "re"]
    words = [first + second + third for first in syllables for second in syllables for third in syllables]
    return [" ".join(words[start::97]) for start in range(97)] * 2


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_the_same_texts_train_the_same_file_whatever_the_ties(kind: Kind, varied_texts: list[str]) -> None:
    first, *others = (
        train_tokenizer(iter(varied_texts), kind=kind, vocab_size=700, show_progress=False).backend_tokenizer.to_str()
        for _ in range(4)
    )
    assert others == [first] * 3


def test_unigram_trains_the_same_pieces(trained: Mapping[str, PreTrainedTokenizerFast], training_texts: tuple[str, ...]) -> None:
    again = train("unigram", training_texts)
    for text in training_texts:
        assert again.tokenize(text) == trained["unigram"].tokenize(text)


def test_wordpiece_has_no_special_tokens_but_its_own(wordpiece: PreTrainedTokenizerFast) -> None:
    assert set(wordpiece.get_added_vocab()) == set(SPECIAL_TOKENS)
    assert wordpiece.tokenize("a ##b") == wordpiece.tokenize("a # # b")


def test_auto_tokenizer_loads_what_was_saved(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)
    assert loaded.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert loaded.model_max_length == MAX_LENGTH
    texts = ["a wonderful film 😍", "电影 @ann https://t.co", ""]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert (loaded.pad_token_id, loaded.cls_token_id, loaded.sep_token_id) == (0, 2, 3)


@pytest.mark.parametrize("text", ["a wonderful film", "", "   ", "😍😍"])
def test_a_text_stands_between_cls_and_sep(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = tokenizer.tokenize(text, add_special_tokens=True)
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    assert not {"[CLS]", "[SEP]", "[PAD]"} & set(tokens[1:-1])


def test_the_second_text_of_a_pair_has_type_1_with_its_sep(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (len(tokenizer.tokenize(text)) for text in ("a film", "good"))
    encoded = tokenizer("a film", "good")
    assert encoded["token_type_ids"] == [0] * (first + 2) + [1] * (second + 1)
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[first + 1] == "[SEP]"
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"])[-1] == "[SEP]"


def test_special_tokens_have_the_first_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]) == [0, 1, 2, 3, 4]


def test_wordpiece_marks_an_unknown_character(wordpiece: PreTrainedTokenizerFast) -> None:
    assert wordpiece.tokenize("a ж film") == ["a", "[UNK]", "film"]


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("text", ["жук", "ελα", "電 影", "x→y", "🦩", "qzx"])
def test_bpe_and_unigram_know_every_character(kind: str, text: str, trained: Mapping[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = trained[kind]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).strip() == text


def test_rows_of_emoji_are_words_of_one_emoji(wordpiece: PreTrainedTokenizerFast) -> None:
    assert wordpiece.tokenize("good😍😍👍🏽") == [*wordpiece.tokenize("good"), "😍", "😍", "👍"]


@pytest.mark.parametrize("emoji", ["😍", "🤖", "❤", "🪐"])
def test_wordpiece_knows_emoji_that_no_text_taught(wordpiece: PreTrainedTokenizerFast, emoji: str) -> None:
    assert wordpiece.tokenize(emoji) == [emoji]


def test_truncation_keeps_the_limit_and_the_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    long, whole = (tokenizer("wonderful film " * 20, truncation=cut)["input_ids"] for cut in (True, False))
    assert len(long) == MAX_LENGTH
    assert long == [*whole[: MAX_LENGTH - 1], whole[-1]]


@pytest.mark.parametrize(
    ("raw", "word"), [("Café  by @ann", "Café"), ("see https://t.co/x1 now", "now"), ("‘LOVE’ it", "LOVE"), ("👍🏽 film", "film")]
)
def test_offsets_point_into_the_raw_text(tokenizer: PreTrainedTokenizerFast, raw: str, word: str) -> None:
    offsets = tokenizer(raw, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    start, end = raw.index(word), raw.index(word) + len(word)
    overlapping = [span for span in offsets if span[0] < end and span[1] > start]
    assert raw[min(span[0] for span in overlapping) : max(span[1] for span in overlapping)].strip() == word


@pytest.fixture(scope="session")
def chinese() -> Mapping[str, PreTrainedTokenizerFast]:
    """Trained on sentences that share words and have no spaces."""
    words = ("这本书", "电影", "房间", "服务", "很好看", "太差了", "不推荐", "非常满意")
    sentences = [f"{first}{second}，{third}！" for first in words for second in words for third in words]
    return {kind: train_tokenizer(sentences, kind=kind, vocab_size=500, show_progress=False) for kind in ("unigram", "bpe")}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_words_are_learnt_inside_chinese_sentences(kind: str, chinese: Mapping[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = chinese[kind]
    ids = tokenizer("电影很好看不推荐", add_special_tokens=False)["input_ids"]
    pieces = [piece for index in ids if (piece := tokenizer.decode([index]).strip())]
    assert "".join(pieces) == "电影很好看不推荐"
    assert 1 < len(pieces) < 5


@pytest.mark.parametrize("text", ["这本书 很好看！", "电影abc太差了,ok", "３个😍房间😍"])
def test_unigram_gives_chinese_back_as_the_normalizer_left_it(text: str, chinese: Mapping[str, PreTrainedTokenizerFast]) -> None:
    tokenizer = chinese["unigram"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == tokenizer.backend_tokenizer.normalizer.normalize_str(text)


def test_a_vocabulary_without_room_for_the_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size 262 is too small for unigram: its special tokens, 256 byte tokens and"):
        train_tokenizer(["这本书很好看"] * 4, kind="unigram", vocab_size=262, show_progress=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], ["", "  \n"]], ids=["none", "blank"])
def test_no_text_to_learn_from_is_refused(kind: str, texts: list[str]) -> None:
    with pytest.raises(ValueError, match="no text to train the tokenizer on"):
        train_tokenizer(texts, kind=kind, vocab_size=400, show_progress=False)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown tokenizer kind 'words'"):
        train_tokenizer(["a"], kind="words", vocab_size=400)


def test_files_are_read_line_by_line_in_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first.txt", tmp_path / "second.txt"
    first.write_text("one 😍\ntwo\n\n", encoding="utf-8")
    second.write_text("three", encoding="utf-8")
    assert list(read_lines([first, second])) == ["one 😍", "two", "", "three"]


def test_training_from_files_equals_training_from_their_lines(training_texts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(training_texts) + "\n", encoding="utf-8")
    from_files = train_tokenizer(read_lines([path]), kind="bpe", vocab_size=400, max_length=MAX_LENGTH, show_progress=False)
    assert from_files.backend_tokenizer.to_str() == train("bpe", training_texts).backend_tokenizer.to_str()


def test_a_file_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("one\n很好\n".encode() + "很好\n".encode("gbk"))
    with pytest.raises(ValueError, match=r"texts\.txt, line 3: not UTF-8"):
        list(read_lines([path]))
