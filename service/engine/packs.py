"""A pack: the texts of a batch one after another, as numpy arrays, before they become a model's input.

Its form is that of models/README.md: T tokens, S texts, `bounds` (S + 1) where each text begins.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


class TextIds(msgspec.Struct, gc=False):  # made for every text; a frozen dataclass takes ten times as long
    """One text: token ids (L), and token types (L) where it has a partner."""

    ids: IntArray
    types: IntArray | None = None


class Pack(msgspec.Struct, gc=False):
    """`ids`, `positions` and `types` (T); `types` None where all are 0. `longest`: tokens of the longest text."""

    ids: LongArray
    positions: LongArray
    types: LongArray | None
    bounds: IntArray
    longest: int


def pack(texts: Sequence[TextIds], *, with_types: bool, all_types: bool = False) -> Pack:
    """Packs the texts in the order given. `all_types`: types also where all are 0."""
    lengths = np.array([len(text.ids) for text in texts])
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    types = token_types(texts, always=all_types) if with_types else None
    return Pack(
        ids=np.concatenate([text.ids for text in texts]).astype(np.int64),
        positions=np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths),
        types=None if types is None else np.concatenate(types).astype(np.int64),
        bounds=bounds.astype(np.int32),
        longest=int(lengths.max()),
    )


def token_types(texts: Sequence[TextIds], *, always: bool = False) -> list[IntArray] | None:
    """The token types of each text. None if all are 0 and not `always` wanted: without types most models take 0 for all."""
    if not always and all(text.types is None for text in texts):
        return None
    return [np.zeros_like(text.ids) if text.types is None else text.types for text in texts]


def pad_rows(rows: Sequence[IntArray], *, value: int, left: bool = False) -> LongArray:
    """(rows, longest), filled up with `value` on the right, or on the left."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        if left:
            target[len(target) - len(row) :] = row
        else:
            target[: len(row)] = row
    return padded
