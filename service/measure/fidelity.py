"""`python -m service.measure.fidelity FOLDER ...`: how each checkpoint is served, and its logits against transformers' own.

A folder is a checkpoint, or holds checkpoints. Real texts of several lengths are scored alone, in one batch, as pairs, and beyond
the limit. Each is held against `AutoTokenizer` and the plain model in float32, alone (`service.measure.reference`). Right is
within 1e-4 in float32, and in half precision within three times the error of transformers itself in that type.

Verdicts: right; refused, in a sentence; wrong, where a difference is larger or a request fails; failed, where the service ends
with a stack; random, where transformers itself gives a text other logits the second time.
"""

import argparse
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from service.engine.engine import DTYPES, Engine
from service.engine.halving import not_told, score
from service.engine.packs import TextIds
from service.frames import id_array
from service.measure.reference import FloatArray, Reference, Text
from service.served.catalog import CatalogError, ServedModel, load_catalog, load_tokenizer
from service.settings import Settings
from service.text.encoders import Encoder, encoder_of
from service.text.proof import proven_form

TEXTS = (
    ".",
    "good",
    "a wonderful film, funny and moving",
    "The train leaves at nine on Monday, the last one at half past ten.",
    "not good at all, not even funny 😍 😡",
    "i love this phone and i hate the camera",
    "Why would anybody pay for this? It broke after two weeks, and nobody answers.",
    "the food was excellent, the service was bad, and the table in the town was slow; what a day, what a wonderful, terrible day",
    "Nothing that I have read this year comes near it: quick, warm, and wise! " * 2,
    "i love this phone",
    "The book is on the table in the town",
    "the food was poison",
)
PAIRS = ((TEXTS[2], TEXTS[6]), (TEXTS[9], TEXTS[1]), (TEXTS[5], TEXTS[5]), (TEXTS[4], TEXTS[3]))
TOLERANCE, TIMES_OWN_ERROR = 1e-4, 3
SHOWN = ("batching", "attention", "dtype", "compiled", "cuda_graphs")
WAYS = ("alone", "batch", "pairs", "limit")
Result = TypeVar("Result")
VERDICTS = ("right", "refused", "wrong", "failed", "random")


@dataclass
class Row:
    """One checkpoint. `served`: how, or why not. `ways`: the largest difference of a logit, or what was raised."""

    name: str
    architecture: str
    verdict: str
    served: str
    ways: dict[str, str] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a row for each checkpoint, and how many are right."""
    options = parser().parse_args(arguments)
    folders = [folder for given in options.folders for folder in checkpoints(given)]
    if not folders:
        sys.exit(f"{options.folders[0]}: no checkpoint lies there")
    rows = []
    for number, folder in enumerate(folders, 1):
        print(f"\r{number}/{len(folders)} {folder.name:32}", end="", file=sys.stderr, flush=True)
        rows.append(apart(folder, options.dtype, options.import_modules))
    print("\r" + " " * 50 + "\r", end="", file=sys.stderr)
    for line in table(rows) if options.markdown else plain(rows):
        print(line)
    counts = Counter(row.verdict for row in rows)
    print("\n" + ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m service.measure.fidelity", description=__doc__)
    result.add_argument("folders", nargs="+", type=Path, help="checkpoints, or folders of them")
    result.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    result.add_argument("--import-modules", default="", help="comma-separated, as for the service")
    result.add_argument("--markdown", action="store_true", help="print the table of docs/architectures.md")
    return result


def checkpoints(folder: Path) -> list[Path]:
    """The folder itself, or those in it that hold the configuration of a model or an adapter."""
    names = ("config.json", "adapter_config.json")
    if any((folder / name).is_file() for name in names):
        return [folder]
    return sorted({path.parent for name in names for path in folder.glob(f"*/{name}")})


def apart(folder: Path, dtype: str, import_modules: str) -> Row:
    """`compare` in a process of its own, forked before torch has computed: an architecture may end it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        try:
            return pool.submit(compare, folder, dtype, import_modules).result()
        except BrokenProcessPool:
            return Row(folder.name, "", "failed", "the process died")


def compare(folder: Path, dtype: str, import_modules: str) -> Row:
    """Loads a checkpoint as the service does, and holds its logits against the reference's."""
    for name in ("valence", "valence.worker", "valence.catalog", "transformers"):
        getLogger(name).setLevel("CRITICAL")
    disable_progress_bar()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = Settings.model_validate(
        {"models": (f"{folder.name}={folder}",), "import_modules": import_modules, "device": "cpu", "dtype": dtype}
    )
    row = Row(folder.name, "", "", "")
    try:
        (served,) = load_catalog(settings)
        row.architecture = served.architecture
        # Before the engine, which makes its attention known to transformers.
        expected = outcome(partial(Expected, folder, served, DTYPES[dtype]))
        engine = Engine(served, device="cpu", settings=settings)
        if engine.max_length != served.max_length:
            served = replace(served, max_length=engine.max_length)
            expected = outcome(partial(Expected, folder, served, DTYPES[dtype]))
    except CatalogError as error:
        row.verdict, row.served = "refused", said(error)
        return row
    except Exception as error:  # a stack in the log of the service
        row.verdict, row.served = "failed", raised(error)
        return row
    row.served = ", ".join(value for name, value in engine.details.items() if name in SHOWN and value not in ("no", "none"))
    if isinstance(expected, Expected):
        expected.judge(row, engine)
    else:
        row.verdict, row.served = "wrong", f"{row.served}; nothing to compare with: {expected}"
    return row


def texts_of(limit: int) -> dict[str, Sequence[Text]]:
    """What is scored in each way. The batch mixes lengths, and pairs with others."""
    words = len(" ".join(TEXTS).split())
    long = " ".join(TEXTS * (limit // words + 2))
    return {"alone": TEXTS, "batch": (*TEXTS, *PAIRS), "pairs": PAIRS, "limit": (long, (long, TEXTS[3]))}


class Expected:
    """The reference's logits, and what it raises for a text; by way of scoring, a text at a time."""

    def __init__(self, folder: Path, served: ServedModel, dtype: torch.dtype) -> None:
        if served.max_length < 1:
            raise ValueError(f"the service takes the limit of length to be {served.max_length}")
        self.served = served
        self.texts = texts_of(served.max_length)
        reference = Reference(folder, tokenizer=served.tokenizer_path)
        self.logits = {way: self._of(reference, way) for way in WAYS}
        self.random = max(_largest(self._of(reference, way), self.logits[way]) for way in ("alone", "limit"))
        self.tolerance = TOLERANCE
        if dtype != torch.float32:
            own = Reference(folder, tokenizer=served.tokenizer_path, dtype=dtype)
            self.tolerance = max(TOLERANCE, TIMES_OWN_ERROR * max(_largest(self._of(own, way), self.logits[way]) for way in WAYS))

    def _of(self, reference: Reference, way: str) -> list[FloatArray | str]:
        return [outcome(partial(reference.logits, [text], max_length=self.served.max_length)) for text in self.texts[way]]

    def judge(self, row: Row, engine: Engine) -> None:
        """Fills in the verdict and the differences."""
        tokenizer, size = load_tokenizer(self.served.tokenizer_path), self.served.max_length
        form = proven_form(tokenizer, name=self.served.name, max_length=size, special_tokens="split")
        encoder = encoder_of(tokenizer, max_length=size, form=form)
        for way in WAYS:
            row.ways[way] = self._cell(way, engine, encoder)
        row.verdict = "right" if all(self._is_right(cell) for cell in row.ways.values()) else "wrong"
        if self.random > self.tolerance:
            row.verdict, row.served = "random", f"{row.served}; transformers differs from itself by {self.random:.1e}"

    def _cell(self, way: str, engine: Engine, encoder: Encoder) -> str:
        """Texts that the reference fails on, or gives no number for, are left out: nothing is known of them but at the limit,
        where each must have a score."""
        failed = [one for one in self.logits[way] if isinstance(one, str)]
        if failed and way == "limit":
            return f"transformers fails at {self.served.max_length} tokens: {failed[0]}"
        known = [
            (text, one)
            for text, one in zip(self.texts[way], self.logits[way], strict=True)
            if not isinstance(one, str) and np.isfinite(one).all()
        ]
        if not known:
            return "-"
        found = outcome(partial(engine_logits, engine, encoder, [text for text, _ in known], together=way == "batch"))
        return found if isinstance(found, str) else f"{difference(found, np.concatenate([one for _, one in known])):.1e}"

    def _is_right(self, cell: str) -> bool:
        return cell == "-" or (cell[0].isdigit() and float(cell) <= self.tolerance)


def _largest(found: Sequence[FloatArray | str], wanted: Sequence[FloatArray | str]) -> float:
    """The largest difference of a logit, of the texts for which both give numbers."""
    both = [
        (one, other) for one, other in zip(found, wanted, strict=True) if not isinstance(one, str) and not isinstance(other, str)
    ]
    return max((difference(one, other) for one, other in both if np.isfinite(other).all()), default=0.0)


def engine_logits(engine: Engine, encoder: Encoder, texts: Sequence[Text], *, together: bool) -> FloatArray:
    """(texts, labels), by the engine; in one batch, which is halved where it fails as the service does, or each alone."""
    tokens = encoder.encode([(text, None) if isinstance(text, str) else text for text in texts], truncate=True)
    ends = np.cumsum(tokens.lengths)[:-1]
    types = np.split(id_array(tokens.types), ends) if tokens.types else [None] * len(texts)
    rows = [TextIds(*both) for both in zip(np.split(id_array(tokens.ids), ends), types, strict=True)]
    if not together:
        return np.concatenate([engine.logits([one]) for one in rows])
    logits, failed = score(engine, rows, relieve=not_told)
    logits[sorted(failed)] = np.nan
    return logits


def difference(found: FloatArray, wanted: FloatArray) -> float:
    """The largest of a logit; infinite where shapes differ or one is not finite."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max())


def outcome(work: Callable[[], Result]) -> Result | str:
    """What it gives, or what it raised."""
    try:
        return work()
    except Exception as error:  # whatever an architecture raises
        return raised(error)


def said(error: Exception) -> str:
    """The first line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def raised(error: Exception) -> str:
    """Its name and its first line."""
    return f"{type(error).__name__}: {said(error)}".removesuffix(": ")


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown."""
    cells = [["checkpoint", "architecture", "verdict", "served", *WAYS], ["---"] * (4 + len(WAYS))]
    cells += [[row.name, row.architecture, row.verdict, row.served, *(row.ways.get(way, "") for way in WAYS)] for row in rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in cells]


def plain(rows: Sequence[Row]) -> list[str]:
    """Columns of text."""
    ways = [", ".join(f"{way} {cell}" for way, cell in row.ways.items()) for row in rows]
    return [f"{row.name:24} {row.verdict:8} {row.served}  {each}".rstrip() for row, each in zip(rows, ways, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
