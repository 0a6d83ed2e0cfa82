"""How far a run is, on standard error; and what came of it."""

import sys
import time
from typing import Any

from service.bulk.output import Counts

# On a terminal one line is written over; elsewhere each is a line of its own.
EVERY_S = {True: 1.0, False: 10.0}


class Progress:
    """`rows`: of all input, where that is known. `counts`: of the whole output; `before` of what a run before had done."""

    def __init__(self, rows: int | None, *, before: Counts, is_shown: bool = True) -> None:
        self.total, self.counts = rows, before
        self._before = before.rows
        self._is_shown = is_shown
        self._overwrites = sys.stderr.isatty()
        self._created_at = self._began_at = self._shown_at = time.monotonic()
        self._rows = 0.0
        self._texts = self._tokens = 0

    def begin(self) -> None:
        """The model is loaded; rates are counted from here."""
        self._began_at = self._shown_at = time.monotonic()

    def texts(self, count: int, *, tokens: int, of: int, rows: int) -> None:
        """So many texts were scored, of those of a part of so many rows."""
        self._texts += count
        self._tokens += tokens
        self._rows += rows * count / of
        self._show()

    def part(self, counts: Counts) -> None:
        """A part is written."""
        self.counts.add(counts)

    def _show(self) -> None:
        now = time.monotonic()
        if not self._is_shown or now - self._shown_at < EVERY_S[self._overwrites]:
            return
        self._shown_at = now
        start, end = ("\r\033[K", "") if self._overwrites else ("", "\n")
        print(f"{start}{self.line(now - self._began_at)}", end=end, file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """
        >>> progress = Progress(1000, before=Counts())
        >>> progress.texts(250, tokens=5000, of=500, rows=500)
        >>> progress.line(10.0)
        '250 of 1,000 rows, 25 texts/s, 500 tokens/s, 0:00:30 left'
        """
        done = self._before + self._rows
        rows = f"{done:,.0f} rows" if self.total is None else f"{done:,.0f} of {self.total:,} rows"
        rates = f"{self._texts / seconds:,.0f} texts/s, {self._tokens / seconds:,.0f} tokens/s"
        if self.total is None or not self._rows:
            return f"{rows}, {rates}"
        return f"{rows}, {rates}, {clock(max(self.total - done, 0) * seconds / self._rows)} left"

    def summary(self) -> dict[str, Any]:
        """Counts of the whole output, rates of this run."""
        if self._is_shown and self._overwrites:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        now = time.monotonic()
        seconds = now - self._began_at
        return {
            "rows": self.counts.rows,
            "rows_before": self._before,
            "labels": dict(self.counts.labels.most_common()),
            "errors": dict(self.counts.errors.most_common()),
            "start_s": round(self._began_at - self._created_at, 1),
            "seconds": round(seconds, 1),
            "texts_per_s": round(self._texts / seconds, 1),
            "tokens_per_s": round(self._tokens / seconds, 1),
        }


def clock(seconds: float) -> str:
    """
    >>> clock(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def as_lines(summary: dict[str, Any]) -> str:
    """For people."""
    before = f", {summary['rows_before']:,} of them by runs before" if summary["rows_before"] else ""
    lines = [f"{summary['rows']:,} rows{before}"]
    lines += [f"  {count:>14,}  {label}" for label, count in summary["labels"].items()]
    lines += [f"  {count:>14,}  error: {error}" for error, count in summary["errors"].items()]
    lines += [
        f"{clock(summary['seconds'])} after {summary['start_s']} s to start: {summary['texts_per_s']:,.0f} texts/s, "
        f"{summary['tokens_per_s']:,.0f} tokens/s"
    ]
    return "\n".join(lines)
