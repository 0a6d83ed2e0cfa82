"""The comparison of windows with cutting, on a tiny checkpoint."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from service.measure.long_texts import HEADER, among, main
from service.served.catalog import ServedModel

LIMIT = 48


def test_the_best_is_chosen_among_the_classes_that_occur() -> None:
    logits = np.array([[1.0, 9.0, 0.0], [0.0, 9.0, 1.0]])
    assert among(np.array([0, 2]), logits).tolist() == [0, 2]
    assert among(np.array([0, 1, 2]), logits).tolist() == [1, 1]


def test_texts_are_counted_by_length_and_those_that_fit_left_out(
    catalog: Mapping[str, ServedModel], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = {10: 3, LIMIT: 2, LIMIT + 1: 5, 72: 1, 73: 4, 96: 1, 97: 2, 400: 1}
    lines = [f"{label}\t{'good ' * (length - 2)}\n" for length, count in tokens.items() for label in ["positive"] * count]
    (tmp_path / "long.tsv").write_text("".join(lines))
    flags = ["--file", str(tmp_path / "long.tsv"), "--models", f"tiny={catalog['tiny-bert'].path}", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["long_texts", *flags])
    main()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert tuple(header) == HEADER
    assert [row[:3] for row in rows] == [["tiny", "49 to 72", "6"], ["tiny", "73 to 96", "5"], ["tiny", "over 96", "3"]]
    assert all(cell.startswith("100.0 (") for row in rows for cell in row[3:6])
    assert all(row[6] == "0 / 0" for row in rows)
