"""The input: files of rows, streamed and cut into parts of so many rows.

Part `k` of a file holds its rows from `k * rows_per_file` on, whichever parts were asked for and whoever reads it. A line of CSV
or JSON that can't be read as a row is one all the same, with the reason in `problems`.
"""

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from service.bulk.setup import BadInput

Kind = Literal["parquet", "csv", "tsv", "jsonl"]
KINDS: dict[str, Kind] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# What may be wrong with a row: it is none; it has a column, or a type of value, that the first rows of its file don't have; its
# text is none, or no valid Unicode.
NOT_A_ROW, OTHER_COLUMNS, NOT_TEXT = "not a row", "other columns", "not text"
# Rows whose size says how many there may be in a file of CSV or JSON lines.
SAMPLED_ROWS = 1000


@dataclass(frozen=True)
class Source:
    """One input file. `rows`: known for Parquet, guessed for other kinds, None where it can't be. `most_rows`: what is read of
    it, where the run has a limit."""

    place: int
    url: str
    kind: Kind
    size: int
    rows: int | None = None
    most_rows: int | None = None


@dataclass(frozen=True)
class Part:
    """Rows of one source. `problems`: why a row can't be scored, by its place; `is_last` of its source."""

    source: int
    place: int
    table: pa.Table
    problems: dict[int, str]
    is_last: bool

    @property
    def name(self) -> str:
        """The output file. Sorted by name, the files are in the order of the rows."""
        return part_name(self.source, self.place, is_last=self.is_last)


def part_name(source: int, place: int, *, is_last: bool) -> str:
    """
    >>> part_name(3, 12, is_last=True)
    'part-00003-000012-end.parquet'
    """
    return f"part-{source:05}-{place:06}{'-end' if is_last else ''}.parquet"


def find_sources(patterns: Sequence[str], *, outside: str) -> list[Source]:
    """The files that paths, folders, patterns and URLs name, those below `outside` apart. BadInput where there is none."""
    found: dict[str, Source] = {}
    for pattern in patterns:
        urls = [(url, size) for url, size in _files(pattern) if not url.startswith(outside.rstrip("/") + "/")]
        if not urls:
            raise BadInput(f"--input {pattern}: no such file")
        for url, size in urls:
            found.setdefault(url, Source(len(found), url, kind_of(url), size))
    return list(found.values())


def _files(pattern: str) -> list[tuple[str, int]]:
    try:
        fs, path = url_to_fs(pattern)
        if any(sign in path for sign in "*?["):
            details = fs.glob(path, detail=True)
        elif fs.isdir(path):
            details = {name: info for name, info in fs.find(path, detail=True).items() if not is_hidden(name, below=path)}
            details = {name: info for name, info in details.items() if _suffix(name) in KINDS}
        else:
            details = {path: fs.info(path)} if fs.exists(path) else {}
    except (ImportError, ValueError, OSError) as error:
        raise BadInput(f"--input {pattern}: {error}") from error
    return [(fs.unstrip_protocol(name), info["size"] or 0) for name, info in sorted(details.items()) if info["type"] == "file"]


def is_hidden(path: str, *, below: str) -> bool:
    """A name that starts with `.` or `_` is not data, as Spark and Arrow have it."""
    return any(name.startswith((".", "_")) for name in PurePosixPath(path).relative_to(below).parts)


def kind_of(url: str) -> Kind:
    """BadInput for a kind that is not read."""
    suffix = _suffix(url)
    if suffix not in KINDS:
        raise BadInput(f"{url}: not a kind of file that is read; those are {', '.join(KINDS)}, the text ones also compressed")
    return KINDS[suffix]


def _suffix(url: str) -> str:
    path = PurePosixPath(url.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in COMPRESSED else path.suffix


def examined(source: Source, *, text_columns: Sequence[str], added_columns: Sequence[str]) -> Source:
    """With the number of its rows. BadInput where it can't be read, or lacks a column, or has one that is to be added."""
    try:
        if source.kind == "parquet":
            with fsspec.open(source.url, "rb") as opened, pq.ParquetFile(opened) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
            _check_texts(source, schema, text_columns)
            names: Sequence[str] = schema.names
        else:
            names, rows = _sampled(source)
    except (pa.ArrowException, csv.Error, OSError, EOFError) as error:
        raise BadInput(f"{source.url}: {str(error).strip().splitlines()[0]}") from error
    for name in text_columns:
        if name not in names and (rows or source.kind != "jsonl"):
            raise BadInput(f"{source.url}: no column {name}; there are {', '.join(names)}")
    for name in added_columns:
        if name in names:
            raise BadInput(f"{source.url}: there is a column {name} already; give --prefix, which the added columns are to have")
    return replace(source, rows=rows)


def _check_texts(source: Source, schema: pa.Schema, text_columns: Sequence[str]) -> None:
    for name in text_columns:
        if name not in schema.names:
            continue
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or kind == pa.null()):
            raise BadInput(f"{source.url}: the column {name} holds {kind}, not text")


def _sampled(source: Source) -> tuple[list[str], int | None]:
    """Its columns, and a guess at its rows; None for a compressed file."""
    with _reading(source) as (rows, file):
        first = list(islice(rows, SAMPLED_ROWS))
        read = file.tell()
    names = rows.names if isinstance(rows, CsvRows) else [*dict.fromkeys(name for row, _ in first for name in row)]
    if len(first) < SAMPLED_ROWS:
        return names, len(first)
    return names, None if source.url.lower().endswith(COMPRESSED) else max(len(first), len(first) * source.size // read)


def limited(sources: Iterable[Source], limit: int | None) -> list[Source]:
    """The first `limit` rows of all."""
    if limit is None:
        return list(sources)
    kept = []
    for source in sources:
        rows = source.rows if source.kind == "parquet" else count_rows(source, most=limit)
        assert rows is not None
        kept.append(replace(source, rows=min(rows, limit), most_rows=min(rows, limit)))
        limit -= min(rows, limit)
        if not limit:
            break
    return kept


def count_rows(source: Source, *, most: int) -> int:
    """How many rows a file of CSV or JSON lines has, counted no further than `most`."""
    with _reading(source) as (rows, _):
        return sum(1 for _ in islice(rows, most))


def parts(source: Source, *, text_columns: Sequence[str], rows_per_file: int, done: Collection[int]) -> Iterator[Part]:
    """Its parts in their order, without those that are `done`. A source without a row is one empty part. BadInput where it can't
    be read to the end."""
    try:
        if source.kind == "parquet":
            yield from _parquet_parts(source, rows_per_file, done)
        else:
            yield from _row_parts(source, text_columns, rows_per_file, done)
    except (pa.ArrowException, csv.Error, OSError, EOFError) as error:
        raise BadInput(f"{source.url}: {str(error).strip().splitlines()[0]}") from error


def _parquet_parts(source: Source, rows_per_file: int, done: Collection[int]) -> Iterator[Part]:
    with fsspec.open(source.url, "rb") as opened, pq.ParquetFile(opened, pre_buffer=True) as file:
        total = file.metadata.num_rows if source.most_rows is None else source.most_rows
        last = max(total - 1, 0) // rows_per_file
        wanted = [place for place in range(last + 1) if place not in done]
        ahead = _RowsAhead(file)
        for place in wanted:
            start, end = place * rows_per_file, min((place + 1) * rows_per_file, total)
            yield Part(source.place, place, ahead.take(start, end), {}, is_last=place == last)


class _RowsAhead:
    """The rows of a Parquet file, asked for from front to back. Row groups that no one asks for are not read."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._ends = [sum(sizes[: group + 1]) for group in range(len(sizes))]
        self._sizes = sizes
        self._schema = file.schema_arrow
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._groups_begun = 0
        self._at = 0
        self._held: list[pa.RecordBatch] = []

    def take(self, start: int, end: int) -> pa.Table:
        """Rows from `start` to `end`; what came before is let go of."""
        taken: list[pa.RecordBatch] = []
        while self._at < end:
            batch = self._next(start)
            cut_from, cut_to = max(start - self._at, 0), min(end - self._at, len(batch))
            if cut_from < cut_to:
                taken.append(batch.slice(cut_from, cut_to - cut_from))
            if cut_to < len(batch) and cut_to > 0:
                self._held.append(batch.slice(cut_to))
                self._at += cut_to
            else:
                self._at += len(batch)
        return pa.Table.from_batches(taken, schema=self._schema)

    def _next(self, start: int) -> pa.RecordBatch:
        if self._held:
            return self._held.pop()
        while True:
            for batch in self._batches:
                if len(batch):
                    return batch
            while self._ends[self._groups_begun] <= start:
                self._groups_begun += 1
            self._at = self._ends[self._groups_begun] - self._sizes[self._groups_begun]
            self._batches = self._file.iter_batches(row_groups=[self._groups_begun])
            self._groups_begun += 1


Row = dict[str, Any]
# A row, and what is wrong with it.
Read = tuple[Row, str | None]


class CsvRows:
    """The rows of a file with a header. CSV knows no types, so all values are text as they stand there."""

    def __init__(self, lines: io.TextIOWrapper, *, delimiter: str) -> None:
        csv.field_size_limit(sys.maxsize)  # a setting of the module; its own is 128 KB, less than some texts
        self._rows = csv.reader(lines, delimiter=delimiter)
        self.names = next(self._rows, [])
        if len(set(self.names)) != len(self.names):
            raise csv.Error("two columns have one name")

    def __iter__(self) -> Iterator[Read]:
        for values in self._rows:
            if not values:
                continue  # an empty line
            row: Row = dict(zip(self.names, values, strict=False))
            yield row, NOT_A_ROW if len(values) != len(self.names) else None


class JsonRows:
    """The rows of JSON lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __iter__(self) -> Iterator[Read]:
        for line in self._file:
            if line.isspace():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError:
                row = None
            yield (row, None) if isinstance(row, dict) else ({}, NOT_A_ROW)


@contextmanager
def _reading(source: Source) -> Iterator[tuple[CsvRows | JsonRows, BinaryIO]]:
    """The rows of a file of text, and the file."""
    with fsspec.open(source.url, "rb", compression="infer") as file:
        if source.kind == "jsonl":
            yield JsonRows(file), file
            return
        with io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            yield CsvRows(lines, delimiter="\t" if source.kind == "tsv" else ","), file


def _row_parts(source: Source, text_columns: Sequence[str], rows_per_file: int, done: Collection[int]) -> Iterator[Part]:
    with _reading(source) as (reader, _):
        rows = islice(iter(reader), source.most_rows)
        held = list(islice(rows, rows_per_file))
        texts = reader.names if isinstance(reader, CsvRows) else text_columns
        schema = schema_of([row for row, _ in held], texts=texts)
        place = 0
        while True:
            following = list(islice(rows, rows_per_file))
            if place not in done:
                table, problems = to_table(held, schema, text_columns=text_columns)
                yield Part(source.place, place, table, problems, is_last=not following)
            if not following:
                return
            held, place = following, place + 1


TYPES: dict[frozenset[type], pa.DataType] = {
    frozenset({str}): pa.string(),
    frozenset({bool}): pa.bool_(),
    frozenset({int}): pa.int64(),
    frozenset({float}): pa.float64(),
    frozenset({int, float}): pa.float64(),
}


def schema_of(rows: Sequence[Row], *, texts: Sequence[str]) -> pa.Schema:
    """The columns of rows without types of their own; `texts` are strings in any case. Numbers, strings and booleans keep their
    type. A column of several types is text, and so is one of other values, written as JSON.

    >>> schema_of([{"text": "good", "id": 1, "tags": ["a"]}, {"id": 2.5}], texts=["text"])
    text: string
    id: double
    tags: string
    """
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            found = kinds.setdefault(name, set())
            if value is not None:
                found.add(type(value))
    kinds = {**{name: set() for name in texts if name not in kinds}, **kinds}
    return pa.schema(
        [(name, pa.string() if name in texts else TYPES.get(frozenset(found), pa.string())) for name, found in kinds.items()]
    )


def to_table(rows: Sequence[Read], schema: pa.Schema, *, text_columns: Sequence[str]) -> tuple[pa.Table, dict[int, str]]:
    """A table of the rows, and what is wrong with some by their place. A value that is not of its column's type is null there,
    unless the column is text."""
    problems = {place: problem for place, (_, problem) in enumerate(rows) if problem is not None}
    columns = [_column(rows, field, problems, is_scored=field.name in text_columns) for field in schema]
    known = set(schema.names)
    for place, (row, _) in enumerate(rows):
        if not row.keys() <= known:
            problems.setdefault(place, OTHER_COLUMNS)
    return pa.table(columns, schema=schema), problems


def _column(rows: Sequence[Read], field: pa.Field, problems: dict[int, str], *, is_scored: bool) -> pa.Array:
    values = [row.get(field.name) for row, _ in rows]
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        pass
    fitting = []
    for place, value in enumerate(values):
        value, fits = _fitting(value, field.type)
        if not fits or (is_scored and not isinstance(values[place], str | None)):
            problems.setdefault(place, NOT_TEXT if is_scored else OTHER_COLUMNS)
        fitting.append(value)
    return pa.array(fitting, type=field.type)


def _fitting(value: Any, kind: pa.DataType) -> tuple[Any, bool]:
    """What the column takes in its place, and whether it is the value itself."""
    try:
        return pa.scalar(value, type=kind).as_py(), True
    except (pa.ArrowException, UnicodeEncodeError, TypeError, OverflowError):
        if kind != pa.string():
            return None, False
    if isinstance(value, str):  # a byte of a CSV file that is no UTF-8
        return value.encode(errors="surrogateescape").decode(errors="replace"), False
    return orjson.dumps(value).decode(), True
