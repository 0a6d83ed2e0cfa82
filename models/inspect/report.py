"""What a section found: a value, a table, JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float | None


@dataclass(frozen=True)
class Section:
    """A table and sentences about it. `rows` hold raw values by `columns`; a sentence alone says why there is no table."""

    name: str
    columns: tuple[str, ...] = ()
    rows: Sequence[tuple[Cell, ...]] = ()
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, object]:
        """`rows` as objects by column."""
        return {"rows": [dict(zip(self.columns, row, strict=True)) for row in self.rows], "notes": list(self.notes)}

    def as_text(self) -> str:
        """Head, table, sentences."""
        return "\n".join([self.name, "-" * len(self.name), *table(self.columns, self.rows), *self.notes, ""])


def table(columns: Sequence[str], rows: Sequence[tuple[Cell, ...]]) -> list[str]:
    """Aligned lines, numbers to the right; nothing without rows.

    >>> table(("name", "count"), [("a", 1200), ("bc", None)])
    ['name  count', 'a     1,200', 'bc']
    """
    if not rows:
        return []
    lines = [tuple(columns), *(tuple(map(shown, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = [any(isinstance(cell, int | float) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_aligned, line, widths, numbers)).rstrip() for line in lines]


def shown(cell: Cell) -> str:
    """A cell as a table has it.

    >>> shown(1234567), shown(0.00012345), shown(98765.4), shown(None)
    ('1,234,567', '0.000123', '98,765', '')
    """
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"


def _aligned(text: str, width: int, is_number: bool) -> str:
    return text.rjust(width) if is_number else text.ljust(width)
