"""A file scored by `service.bulk` and the same texts asked of a real server: equal scores."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MODULES, Server

from service.bulk.__main__ import parser, run

TEXTS = (
    "a wonderful film, funny and moving",
    "i hate this phone",
    "😍 what a day",
    "the book is on the table in the town " * 12,
    "A terrible FILM, not even funny: " * 9,
    "bad",
)


@pytest.mark.parametrize(
    ("model", "flags", "fields"),
    [
        ("tiny-bert", [], {}),
        ("tiny-lstm", ["--overflow", "window"], {"overflow": "window"}),
        ("tiny-bert", ["--truncation-direction", "left"], {"truncation_direction": "left"}),
        ("tiny-bert", ["--overflow", "window", "--raw-scores"], {"overflow": "window", "raw_scores": True}),
        ("keyword", ["--function", "sigmoid"], {"parameters": {"function_to_apply": "sigmoid"}}),
    ],
)
def test_scores_are_those_of_predict(
    server: Server,
    models: Mapping[str, Path],
    scores_by_label: Callable[[Sequence[Mapping[str, Any]]], dict[str, float]],
    tmp_path: Path,
    model: str,
    flags: list[str],
    fields: dict[str, Any],
) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    common = ["--import-modules", MODULES, "--device", "cpu", "--workers-per-device", "1", "--threads", "1", "--quiet"]
    asked = ["--model", str(models[model]), "--input", f"{tmp_path}/in.parquet", "--output", f"{tmp_path}/out", "--all-scores"]
    run(parser().parse_args([*common, *asked, *flags]))
    (part,) = (tmp_path / "out").glob("part-*")
    rows = pq.read_table(part).to_pylist()
    for row, text in zip(rows, TEXTS, strict=True):
        answer = server.predict([text], path=f"/models/{model}/predict", **fields).json()[0]
        assert scores_by_label(row["scores"]) == pytest.approx(scores_by_label(answer), abs=1e-5)
        assert (row["label"], row["error"]) == (answer[0]["label"], None)
        assert row["score"] == pytest.approx(answer[0]["score"], abs=1e-5)


def test_pairs_are_those_of_predict(server: Server, models: Mapping[str, Path], tmp_path: Path) -> None:
    pairs = [("good", "bad"), ("what a day", None), ("", "the train leaves at nine"), ("a film " * 40, "moving")]
    pq.write_table(pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]}), tmp_path / "in.parquet")
    asked = ["--model", str(models["tiny-bert"]), "--input", f"{tmp_path}/in.parquet", "--output", f"{tmp_path}/out", "--quiet"]
    columns = ["--text-column", "a", "--text-pair-column", "b", "--device", "cpu", "--workers-per-device", "1"]
    run(parser().parse_args([*asked, *columns]))
    (part,) = (tmp_path / "out").glob("part-*")
    for row, (a, b) in zip(pq.read_table(part).to_pylist(), pairs, strict=True):
        answer = server.predict([{"text": a, "text_pair": b}], path="/models/tiny-bert/predict").json()[0][0]
        assert row["label"] == answer["label"]
        assert row["score"] == pytest.approx(answer["score"], abs=1e-5)
