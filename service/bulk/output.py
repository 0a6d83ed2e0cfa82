"""The output: a folder of Parquet files, each there only once it is whole, and what the run was asked to do.

Every file is written aside, to a name that begins with a dot, and renamed. So a file that is there is done, whatever was killed
when, and writing it again puts the same rows in its place. Names that begin with `.` or `_` are no data to Spark or Arrow.
"""

import io
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from service import __version__
from service.bulk.encoding import Encoded
from service.bulk.forward import Scored
from service.bulk.setup import BadInput, Setup
from service.bulk.sources import Part, Source, part_name
from service.text.labelling import labelled

MANIFEST, SUMMARY = "_manifest.json", "_summary.json"
PART = re.compile(r"part-(\d{5,})-(\d{6,})(-end)?\.parquet")
# In the metadata of a file: what `Counts` says of it.
COUNTS = b"valence.counts"
MODEL_FAILED = "model failed"
READ_AT_ONCE = 16


@dataclass
class Counts:
    """Rows by what became of them. `tokens`: of the texts that were scored, windows' overlaps counted twice."""

    rows: int = 0
    tokens: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Counts") -> None:
        """Both together."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.labels += other.labels
        self.errors += other.errors

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": self.rows, "tokens": self.tokens, "labels": dict(self.labels), "errors": dict(self.errors)}

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Counts":
        """From what `fields` gave."""
        return cls(fields["rows"], fields["tokens"], Counter(fields["labels"]), Counter(fields["errors"]))


@dataclass
class Done:
    """The parts of a source that are there, and which is its last, where that is there."""

    places: set[int] = field(default_factory=set)
    last: int | None = None

    @property
    def is_all(self) -> bool:
        """Nothing of the source is left to do."""
        return self.last is not None and len(self.places) == self.last + 1


class Output:
    """The folder, local or by URL."""

    def __init__(self, url: str) -> None:
        try:
            self._fs, self._path = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise BadInput(f"--output {url}: {error}") from error
        self.url: str = self._fs.unstrip_protocol(self._path)

    def begin(self, manifest: dict[str, Any]) -> None:
        """Makes the folder, or checks that what lies there was begun by a run that was asked the same. Then clears away what was
        not whole. BadInput where another run or other data lies there."""
        try:
            self._fs.makedirs(self._path, exist_ok=True)
        except OSError as error:
            raise BadInput(f"--output {self.url}: {error}") from error
        held = self._names()
        if MANIFEST in held:
            self._check(manifest)
        elif any(not name.startswith(".") for name in held):
            raise BadInput(f"--output {self.url}: not empty, and there is no {MANIFEST} of a run before; give another folder")
        else:
            self._write(MANIFEST, json.dumps(manifest, indent=1).encode())
        for name in held:
            if name.startswith((".part-", "._")):
                self._fs.rm_file(f"{self._path}/{name}")

    def _check(self, manifest: dict[str, Any]) -> None:
        before = json.loads(self._fs.cat_file(f"{self._path}/{MANIFEST}"))
        wanted = json.loads(json.dumps(manifest))
        for name in sorted({*before, *wanted} - {"valence"}):
            if before.get(name) != wanted.get(name):
                raise BadInput(
                    f"--output {self.url}: begun with another {name}, {_shown(before.get(name))}, and now "
                    f"{_shown(wanted.get(name))}; give the same, or another folder"
                )

    def done(self) -> dict[int, Done]:
        """What is there, by source."""
        found: dict[int, Done] = {}
        for name in self._names():
            match = PART.fullmatch(name)
            if match:
                done = found.setdefault(int(match[1]), Done())
                done.places.add(int(match[2]))
                done.last = int(match[2]) if match[3] else done.last
        return found

    def write(self, part: Part, table: pa.Table, counts: Counts) -> None:
        """A part's file."""
        metadata = {**(table.schema.metadata or {}), COUNTS: json.dumps(counts.fields()).encode()}
        data = io.BytesIO()
        pq.write_table(table.replace_schema_metadata(metadata), data)
        self._write(part.name, data.getvalue())

    def counts(self, done: Mapping[int, Done]) -> list[Counts]:
        """Of files that are there."""
        names = [
            part_name(source, place, is_last=place == there.last)
            for source, there in done.items()
            for place in sorted(there.places)
        ]
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            return list(pool.map(self._counts, names))

    def _counts(self, name: str) -> Counts:
        with self._fs.open(f"{self._path}/{name}", "rb") as opened:
            return Counts.of(json.loads(pq.read_metadata(opened).metadata[COUNTS]))

    def end(self, counts: Counts) -> None:
        """All is there."""
        self._write(SUMMARY, json.dumps(counts.fields(), indent=1).encode())

    def _write(self, name: str, data: bytes) -> None:
        aside = f"{self._path}/.{name}.{uuid.uuid4().hex}"
        with self._fs.open(aside, "wb") as opened:
            opened.write(data)
            if "file" in self._fs.protocol:
                opened.flush()
                os.fsync(opened.fileno())
        self._fs.mv(aside, f"{self._path}/{name}")

    def _names(self) -> list[str]:
        self._fs.invalidate_cache()
        try:
            return [entry.rsplit("/", 1)[-1] for entry in self._fs.ls(self._path, detail=False)]
        except FileNotFoundError:  # an object store knows no empty folder
            return []


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def manifest_of(setup: Setup, sources: Sequence[Source], *, dtype: str) -> dict[str, Any]:
    """What decides the output's rows and their places."""
    return {
        "valence": __version__,
        "weights": setup.served.weights,
        "dtype": dtype,
        "max length": setup.served.max_length,
        "options": asdict(setup.options),
        "inputs": [[source.url, source.size] for source in sources],
    }


def finish(setup: Setup, part: Part, encoded: Encoded, scored: Scored, output: Output) -> Counts:
    """Writes the part's file. In any process."""
    errors = dict.fromkeys(encoded.rows_of(scored.failed), MODEL_FAILED) | encoded.errors
    table, counts = with_scores(setup, part.table, encoded, encoded.rows(scored.logits), errors)
    counts.tokens = int(encoded.chunk.lengths.sum())
    output.write(part, table, counts)
    return counts


def with_scores(
    setup: Setup, table: pa.Table, encoded: Encoded, logits: Iterable[list[float]], errors: dict[int, str]
) -> tuple[pa.Table, Counts]:
    """The columns of the input, and those that are added."""
    options, served = setup.options, setup.served
    best: list[str | None] = [None] * len(table)
    score: list[float | None] = [None] * len(table)
    ranked: list[list[dict[str, Any]] | None] = [None] * len(table)
    for row, values in zip(dict.fromkeys(encoded.owners), logits, strict=True):
        if row not in errors:
            scores = labelled(values, labels=served.labels, function=setup.function, top_k=options.ranks)
            best[row], score[row] = scores[0]["label"], scores[0]["score"]
            ranked[row] = scores
    columns = [
        pa.array(best, pa.string()),
        pa.array(score, pa.float64()),
        *([pa.array(ranked, SCORES)] if options.has_scores else []),
        pa.array([errors.get(row) for row in range(len(table))], pa.string()),
    ]
    for name, column in zip(options.added_columns, columns, strict=True):
        table = table.append_column(name, column)
    labels = Counter(label for label in best if label is not None)
    return table, Counts(rows=len(table), labels=labels, errors=Counter(errors.values()))


SCORES = pa.list_(pa.struct([("label", pa.string()), ("score", pa.float64())]))
