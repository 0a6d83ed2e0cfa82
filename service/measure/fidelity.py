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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from service.engine.engine import DTYPES, Engine
from service.engine.packs import TextIds
from service.frames import id_array
from service.measure.reference import FloatArray, Reference, Text
from service.served.catalog import CatalogError, ServedModel, load_catalog, load_tokenizer
from service.settings import Settings
from service.text.encoder import TextEncoder
from service.worker.models import load_engine

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
LONG = (" ".join(TEXTS) + " ") * 3
TOLERANCE, TIMES_OWN_ERROR = 1e-4, 3
TEXTS_OF: Mapping[str, Sequence[Text]] = {
    "alone": TEXTS,
    "batch": TEXTS,
    "pairs": PAIRS,
    "limit": (LONG, (LONG, TEXTS[3])),
}
SHOWN = ("batching", "attention", "dtype", "compiled", "cuda_graphs")
WAYS = tuple(TEXTS_OF)
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
        engine = load_engine(served, device="cpu", settings=settings)
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
        row.verdict, row.served = "wrong", f"{row.served}; transformers itself fails: {expected}"
    return row


class Expected:
    """The reference's logits for what is scored in each way. Raises what the reference raises for plain texts."""

    def __init__(self, folder: Path, served: ServedModel, dtype: torch.dtype) -> None:
        self.served = served
        reference = Reference(folder, tokenizer=served.tokenizer_path)
        self.logits = {way: outcome(partial(self._of, reference, way)) for way in TEXTS_OF}
        plain = self._of(reference, "batch")
        self.random = difference(plain, self._of(reference, "batch"))
        self.tolerance = TOLERANCE
        if dtype != torch.float32:
            own = self._of(Reference(folder, tokenizer=served.tokenizer_path, dtype=dtype), "batch")
            self.tolerance = max(TOLERANCE, TIMES_OWN_ERROR * difference(own, plain))

    def _of(self, reference: Reference, way: str) -> FloatArray:
        return reference.logits(TEXTS_OF[way], max_length=self.served.max_length)

    def judge(self, row: Row, engine: Engine) -> None:
        """Fills in the verdict and the differences."""
        encoder = TextEncoder(load_tokenizer(self.served.tokenizer_path).backend_tokenizer, max_length=self.served.max_length)
        for way, wanted in self.logits.items():
            if isinstance(wanted, str):
                row.ways[way] = f"transformers itself fails: {wanted}" if way == "limit" else "-"
                continue
            found = outcome(partial(engine_logits, engine, encoder, TEXTS_OF[way], together=way != "alone"))
            row.ways[way] = found if isinstance(found, str) else f"{difference(found, wanted):.1e}"
        row.verdict = "right" if all(self._is_right(cell) for cell in row.ways.values()) else "wrong"
        if self.random > self.tolerance:
            row.verdict, row.served = "random", f"{row.served}; transformers differs from itself by {self.random:.1e}"

    def _is_right(self, cell: str) -> bool:
        return cell == "-" or (cell[0].isdigit() and float(cell) <= self.tolerance)


def engine_logits(engine: Engine, encoder: TextEncoder, texts: Sequence[Text], *, together: bool) -> FloatArray:
    """(texts, labels), by the engine; in one batch or each alone."""
    tokens = encoder.encode([(text, None) if isinstance(text, str) else text for text in texts], truncate=True)
    ends = np.cumsum(tokens.lengths)[:-1]
    types = np.split(id_array(tokens.types), ends) if tokens.types else [None] * len(texts)
    rows = [TextIds(*both) for both in zip(np.split(id_array(tokens.ids), ends), types, strict=True)]
    return engine.logits(rows) if together else np.concatenate([engine.logits([one]) for one in rows])


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
