"""WordPiece, BPE and Unigram side by side: trained on the training texts of a corpus, measured on its test texts."""

import importlib.util
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from tokenizers_store.corpora import load_corpus, split_of
from tokenizers_store.packages import CACHE_DIR
from tokenizers_store.pipelines import KINDS, Kind
from tokenizers_store.training import train_tokenizer

# What a text is measured in. Words are what stands between spaces, of which Chinese has none.
UNITS: Mapping[str, str] = {"english": "word", "chinese": "character", "imdb": "word"}
ROUNDS = 3  # of which the fastest counts
HEADER = (
    "corpus", "kind", "trained in, s", "vocabulary", "tokens per", "unknown, %", "1,000 characters/s",
    "round trip, %", "but for spaces, %",
)  # fmt: skip


@dataclass(frozen=True)
class Measures:
    """Of one tokenizer on texts that it was not trained on.

    `fertility` is tokens per `unit`, `unknown` the share of tokens that are [UNK], `characters_per_s` the rate of one thread that
    encodes text by text. `exact` is the share of texts that `decode(encode(text))` gives back as the normalizer left them,
    `exact_but_for_spaces` the same where spaces do not count.
    """

    corpus: str
    kind: Kind
    training_s: float
    vocabulary: int
    unit: str
    fertility: float
    unknown: float
    characters_per_s: float
    exact: float
    exact_but_for_spaces: float


def compare(corpora: Sequence[str], *, vocab_size: int, cache_dir: Path = CACHE_DIR) -> list[Measures]:
    """Trains every kind on each corpus; progress goes to standard error."""
    measures = []
    for corpus in dict.fromkeys(corpora):
        examples = load_corpus(corpus, cache_dir=cache_dir)
        parts = {split: [e.text for e in examples if split_of(e.text) == split] for split in ("train", "test")}
        for kind in KINDS:
            print(f"{corpus}: training {kind} on {len(parts['train']):,} texts", file=sys.stderr, flush=True)
            started = time.monotonic()
            tokenizer = train_tokenizer(
                parts["train"],
                kind=kind,
                vocab_size=vocab_size,
                length=len(parts["train"]),
                show_progress=sys.stderr.isatty(),
            )
            training_s = time.monotonic() - started
            measures.append(measure(tokenizer, parts["test"], corpus=corpus, kind=kind, training_s=training_s))
    return measures


def measure(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, corpus: str, kind: Kind, training_s: float = 0.0
) -> Measures:
    """Raises ValueError when there is no text."""
    if not texts:
        raise ValueError(f"the corpus {corpus} has no text to measure on")
    rows = [tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    tokens = sum(map(len, rows))
    unit = UNITS[corpus]
    units = sum(len(text.split()) if unit == "word" else len("".join(text.split())) for text in texts)
    normal = [tokenizer.backend_tokenizer.normalizer.normalize_str(text) for text in texts]
    decoded = [tokenizer.decode(row).strip() for row in rows]
    pairs = list(zip(normal, decoded, strict=True))
    return Measures(
        corpus=corpus,
        kind=kind,
        training_s=training_s,
        vocabulary=len(tokenizer),
        unit=unit,
        fertility=tokens / units,
        unknown=sum(row.count(tokenizer.unk_token_id) for row in rows) / tokens,
        characters_per_s=sum(map(len, texts)) / seconds_to_encode(tokenizer, texts),
        exact=sum(before == after for before, after in pairs) / len(pairs),
        exact_but_for_spaces=sum("".join(a.split()) == "".join(b.split()) for a, b in pairs) / len(pairs),
    )


def seconds_to_encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> float:
    """Processor time of the fastest round, in this thread alone."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for text in texts:
            tokenizer.backend_tokenizer.encode(text)
        rounds.append(time.thread_time() - started)
    return min(rounds)


def table(measures: Sequence[Measures]) -> str:
    """In Markdown, a row for each tokenizer."""
    rows = [HEADER, ["---"] * len(HEADER)]
    rows += [
        [
            of.corpus,
            of.kind,
            f"{of.training_s:.0f}",
            f"{of.vocabulary:,}",
            f"{of.fertility:.2f} a {of.unit}",
            f"{100 * of.unknown:.2f}",
            f"{of.characters_per_s / 1000:,.0f}",
            f"{100 * of.exact:.1f}",
            f"{100 * of.exact_but_for_spaces:.1f}",
        ]
        for of in measures
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def check_picture(path: Path) -> None:
    """ValueError, before anything is trained, where the picture could not be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--picture needs matplotlib: pip install -e .[load]")
    if not path.parent.is_dir():
        raise ValueError(f"--picture {path}: there is no folder {path.parent}")


def draw(measures: Sequence[Measures], path: Path) -> None:
    """Fertility, speed and round trip as bars."""
    from matplotlib import pyplot

    panels = (
        ("tokens per word (English) or character (Chinese)", [of.fertility for of in measures]),
        ("1,000 characters/s, one thread", [of.characters_per_s / 1000 for of in measures]),
        ("round trip exact, %", [100 * of.exact for of in measures]),
    )
    names = [f"{of.corpus}\n{of.kind}" for of in measures]
    colours = [f"C{KINDS.index(of.kind)}" for of in measures]
    figure, row = pyplot.subplots(1, len(panels), figsize=(15, 3.6), layout="constrained")
    for axes, (title, heights) in zip(row, panels, strict=True):
        bars = axes.bar(names, heights, color=colours)
        axes.bar_label(bars, fmt="%.4g", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.tick_params(axis="x", labelsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
