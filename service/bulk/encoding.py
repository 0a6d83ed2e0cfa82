"""The texts of a part as token ids, longest first."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from service.bulk.setup import Options, Setup, encoder_of
from service.bulk.sources import NOT_TEXT, Part
from service.engine.packs import IntArray, TextIds
from service.frames import id_array
from service.text.encoder import Text, Tokens
from service.text.encoders import Encoder
from service.text.refusal import TextRefused
from service.text.windows import combined

# Of this many texts, all are encoded one by one where one can't be.
ENCODED_AT_ONCE = 256
NULL, EMPTY, TOO_LONG, NOT_TOKENIZED = "null", "empty", "too long", "not tokenized"


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Texts one after another, for one forward worker: `ids` (T), `lengths` (S), `types` (T) where a text has a partner."""

    ids: IntArray
    lengths: IntArray
    types: IntArray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def texts(self) -> list[TextIds]:
        """One by one."""
        bounds = np.concatenate([[0], np.cumsum(self.lengths)]).tolist()
        return [TextIds(self.ids[a:b], None if self.types is None else self.types[a:b]) for a, b in pairwise(bounds)]

    def cut(self, max_tokens: int) -> list["Chunk"]:
        """In pieces of at most so many tokens, unless a text alone has more."""
        starts = [0]
        tokens = 0
        for place, length in enumerate(self.lengths.tolist()):
            tokens += length
            if tokens > max_tokens and place > starts[-1]:
                starts.append(place)
                tokens = length
        return [self._between(a, b) for a, b in zip(starts, [*starts[1:], len(self)], strict=True) if a < b]

    def halves(self) -> tuple["Chunk", "Chunk"]:
        """Two of half the texts."""
        middle = len(self) // 2
        return self._between(0, middle), self._between(middle, len(self))

    def _between(self, start: int, end: int) -> "Chunk":
        first, last = int(self.lengths[:start].sum()), int(self.lengths[:end].sum())
        types = None if self.types is None else self.types[first:last]
        return Chunk(ids=self.ids[first:last], lengths=self.lengths[start:end], types=types)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A part's texts, each cut into windows where that was asked for. `order`: the place of each text of `chunk` before they were
    sorted. `owners`, `weights`: the row of each, unsorted, and its tokens of that row's text. `errors`: the rows without."""

    chunk: Chunk
    order: npt.NDArray[np.int64]
    owners: list[int]
    weights: list[int]
    errors: dict[int, str]

    def rows(self, logits: npt.NDArray[np.float32]) -> list[list[float]]:
        """Logits of the rows that were encoded, in their order, from those of the chunk."""
        unsorted = np.empty_like(logits)
        unsorted[self.order] = logits
        return combined(unsorted.tolist(), owners=self.owners, weights=self.weights)

    def rows_of(self, texts: npt.NDArray[np.bool_]) -> set[int]:
        """The rows that have one of these texts of the chunk."""
        return {self.owners[place] for place in self.order[texts].tolist()}


def encode(setup: Setup, part: Part) -> Encoded:
    """In any process."""
    options = setup.options
    texts = part.table.select(options.text_columns)
    return encoded([strings(column) for column in texts.columns], encoder_of(setup), options, problems=part.problems)


def strings(column: pa.ChunkedArray) -> list[str | Exception | None]:
    """The values of a column. What is no valid Unicode, which a Parquet file may hold, is an exception."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]


def _decoded(value: bytes | None) -> str | Exception | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError as error:
        return error


def encoded(
    columns: Sequence[Sequence[str | Exception | None]], encoder: Encoder, options: Options, *, problems: dict[int, str]
) -> Encoded:
    """`columns`: texts, and their partners where there are such."""
    errors = dict(problems)
    rows: list[int] = []
    texts: list[Text] = []
    for row, values in enumerate(zip(*columns, strict=True)):
        error = _error(values)
        if error is not None:
            errors.setdefault(row, error)
        if row not in errors:
            rows.append(row)
            texts.append((values[0], values[1] if len(values) > 1 else None))
    found: list[tuple[list[int], Tokens]] = []
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        found += _slice(encoder, rows[start:][:ENCODED_AT_ONCE], texts[start:][:ENCODED_AT_ONCE], options, errors)
    return _joined(found, errors)


def _error(values: Sequence[str | Exception | None]) -> str | None:
    """Why the texts of a row can't be scored, as far as that is known before they are encoded; as `/predict` has it."""
    if values[0] is None:
        return NULL
    if any(isinstance(value, Exception) for value in values):
        return NOT_TEXT
    return None if any(values) else EMPTY


def _slice(
    encoder: Encoder, rows: list[int], texts: Sequence[Text], options: Options, errors: dict[int, str]
) -> list[tuple[list[int], Tokens]]:
    """Rows with their tokens; those that have none stand in `errors` afterwards."""
    try:
        return [(rows, _tokens(encoder, texts, options))]
    except TextRefused as refusal:
        if len(texts) == 1:
            errors[rows[0]] = NOT_TOKENIZED if refusal.is_unreadable else TOO_LONG
            return []
    singles = zip(rows, texts, strict=True)
    return [found for row, text in singles for found in _slice(encoder, [row], [text], options, errors)]


def _tokens(encoder: Encoder, texts: Sequence[Text], options: Options) -> Tokens:
    if options.overflow == "window":
        return encoder.encode_windows(texts, max_windows=sys.maxsize)  # the service has a limit since others wait
    return encoder.encode(texts, truncate=options.overflow == "truncate", from_left=options.truncate_left)


def _joined(found: Sequence[tuple[list[int], Tokens]], errors: dict[int, str]) -> Encoded:
    lengths = np.array([length for _, tokens in found for length in tokens.lengths], dtype=np.int32)
    ids = id_array(b"".join(tokens.ids for _, tokens in found))
    types = None
    if any(tokens.types for _, tokens in found):
        types = id_array(b"".join(tokens.types or bytes(len(tokens.ids)) for _, tokens in found))
    order = np.argsort(-lengths, kind="stable")
    starts = np.cumsum(lengths) - lengths
    sorted_lengths = lengths[order]
    sorted_starts = np.cumsum(sorted_lengths) - sorted_lengths
    places = np.repeat(starts[order] - sorted_starts, sorted_lengths) + np.arange(len(ids))
    return Encoded(
        chunk=Chunk(ids=ids[places], lengths=sorted_lengths, types=None if types is None else types[places]),
        order=order,
        owners=[row for rows, tokens in found for row in ([rows[owner] for owner in tokens.owners] if tokens.owners else rows)],
        weights=[weight for rows, tokens in found for weight in (tokens.weights or [1] * len(rows))],
        errors=errors,
    )
