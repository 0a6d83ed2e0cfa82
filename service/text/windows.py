"""`overflow: "window"`: a text that is too long is cut into overlapping windows; their logits are combined into one row again.

Each window has around it what the whole text has: the special tokens and, of a pair, the shorter text. Only the longer text of a
pair is cut. For a lone text the windows equal those of the tokenizers library (`enable_truncation` with a stride, `overflowing`).
The library itself is not used, for two reasons. It panics on a pair whose partner leaves less room than the stride. And the
stride is a setting of the tokenizer, so that each choice would need a copy.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from tokenizers import Encoding

from service.text.refusal import TextRefused

# A window begins with the last quarter of the one before, so that what a cut tears apart stands whole in one of the two.
OVERLAP = 1 / 4


@dataclass(frozen=True, slots=True)
class Window:
    """`text`: the place of its text in the request. `weight`: how many tokens of that text it holds, special ones apart."""

    text: int
    weight: int
    ids: list[int]
    type_ids: list[int]


def cut(encodings: Sequence[Encoding], *, max_length: int, max_windows: int) -> list[Window]:
    """The windows of each encoded text in turn; a text that fits is one window. TextRefused for too many windows."""
    plans = [_plan(index, encoding, max_length=max_length) for index, encoding in enumerate(encodings)]
    count = sum(len(found) for _, found in plans)
    if count > max_windows:
        raise TextRefused(
            f"inputs: {count} windows of {max_length} tokens exceed the limit of {max_windows}; send fewer or shorter texts"
        )
    return [
        window
        for index, (encoding, (first, found)) in enumerate(zip(encodings, plans, strict=True))
        for window in _windows(index, encoding, first=first, found=found)
    ]


def spans(length: int, *, room: int) -> list[tuple[int, int]]:
    """Begin and end of the windows of `room` tokens over `length` tokens.

    >>> spans(20, room=8)
    [(0, 8), (6, 14), (12, 20)]
    """
    step = room - int(OVERLAP * room)
    return [(start, min(start + room, length)) for start in range(0, max(length - room, 0) + step, step)]


def combined(rows: list[list[float]], *, owners: Sequence[int], weights: Sequence[int]) -> list[list[float]]:
    """A row of logits for each text: the mean over its windows, weighted by their tokens. `owners`: the text of each window.

    >>> combined([[1.0], [4.0], [5.0]], owners=[0, 0, 1], weights=[2, 1, 7])
    [[2.0], [5.0]]
    """
    if not owners:
        return rows
    grouped = groupby(zip(owners, weights, rows, strict=True), key=itemgetter(0))
    return [_mean([(weight, row) for _, weight, row in group]) for _, group in grouped]


def _mean(weighted: Sequence[tuple[int, list[float]]]) -> list[float]:
    if len(weighted) == 1:
        return weighted[0][1]
    total = sum(weight for weight, _ in weighted)
    columns = zip(*(row for _, row in weighted), strict=True)
    return [sum(weight * value for (weight, _), value in zip(weighted, column, strict=True)) / total for column in columns]


def _plan(index: int, encoding: Encoding, *, max_length: int) -> tuple[int, list[tuple[int, int]]]:
    """Where the text that is cut begins among the tokens, and the spans of its windows, counted from there."""
    if len(encoding) <= max_length:
        return 0, [(0, len(encoding))]
    members = encoding.sequence_ids
    ((longer, length),) = Counter(member for member in members if member is not None).most_common(1)
    around = len(encoding) - length
    if around >= max_length:
        raise TextRefused(
            f"inputs[{index}]: the shorter text of the pair takes {around} tokens with the special ones, of the model's limit of "
            f"{max_length}, and leaves no room for windows over the longer; shorten it"
        )
    return members.index(longer), spans(length, room=max_length - around)


def _windows(index: int, encoding: Encoding, *, first: int, found: Sequence[tuple[int, int]]) -> list[Window]:
    last = first + found[-1][1]

    def part(row: list[int], start: int, end: int) -> list[int]:
        return row[:first] + row[first + start : first + end] + row[last:]

    ids, type_ids = encoding.ids, encoding.type_ids
    return [Window(index, end - start, part(ids, start, end), part(type_ids, start, end)) for start, end in found]
