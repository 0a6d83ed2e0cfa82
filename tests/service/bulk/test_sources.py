"""Files to parts: every row once, in order, whatever is done already and however a line looks."""

import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk.setup import BadInput
from service.bulk.sources import Part, Source, examined, find_sources, limited, parts

COLUMNS = ("label", "score", "error")


def source_of(path: Path | str, **options: Any) -> Source:
    (source,) = find_sources([str(path)], outside="file:///nowhere")
    return examined(source, **{"text_columns": ["text"], "added_columns": COLUMNS, **options})


def cut(source: Source, rows_per_file: int, done: Sequence[int] = ()) -> list[Part]:
    return list(parts(source, text_columns=["text"], rows_per_file=rows_per_file, done=done))


def parquet(path: Path, rows: int, *, group: int) -> Path:
    pq.write_table(pa.table({"id": range(rows), "text": [f"text {row}" for row in range(rows)]}), path, row_group_size=group)
    return path


@pytest.mark.parametrize("group", [1, 3, 5, 7, 100])
@pytest.mark.parametrize("rows_per_file", [1, 4, 5, 10, 50])
def test_parts_of_parquet_hold_every_row_in_order(tmp_path: Path, group: int, rows_per_file: int) -> None:
    source = source_of(parquet(tmp_path / "a.parquet", 23, group=group))
    found = cut(source, rows_per_file)
    assert source.rows == 23
    assert [row for part in found for row in part.table["id"].to_pylist()] == list(range(23))
    assert [len(part.table) for part in found[:-1]] == [rows_per_file] * (len(found) - 1)
    assert [part.is_last for part in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize("group", [1, 3, 7, 100])
@pytest.mark.parametrize("done", [[0], [1, 2], [0, 2, 4], [3, 4, 5], [5]])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_what_is_done_is_left_out_and_the_rest_is_as_before(tmp_path: Path, kind: str, done: list[int], group: int) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet(path, 23, group=group)
    else:
        path.write_text("".join(f'{{"id": {row}, "text": "text {row}"}}\n' for row in range(23)))
    whole = {part.name: part.table for part in cut(source_of(path), 4)}
    left = {part.name: part.table for part in cut(source_of(path), 4, done)}
    assert left == {name: table for place, (name, table) in enumerate(whole.items()) if place not in done}


def test_empty_row_groups_and_files(tmp_path: Path) -> None:
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])) as writer:
        for texts in ([], ["a", "b"], [], ["c"], []):
            writer.write_table(pa.table({"text": pa.array(texts, pa.string())}))
    assert [part.table["text"].to_pylist() for part in cut(source_of(tmp_path / "a.parquet"), 2)] == [["a", "b"], ["c"]]
    parquet(tmp_path / "b.parquet", 0, group=1)
    (empty,) = cut(source_of(tmp_path / "b.parquet"), 2)
    assert (len(empty.table), empty.is_last) == (0, True)


def test_csv_is_text_as_it_stands_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfid,text\r\n007,"two\nlines, and a ""quote"""\r\n\r\n8,\r\n9\r\n10,a,b\r\n11,caf\xe9\r\n')
    (part,) = cut(source_of(path), 10)
    assert part.table.to_pylist() == [
        {"id": "007", "text": 'two\nlines, and a "quote"'},
        {"id": "8", "text": ""},
        {"id": "9", "text": None},
        {"id": "10", "text": "a"},
        {"id": "11", "text": "caf�"},
    ]
    assert part.problems == {2: "not a row", 3: "not a row", 4: "not text"}


def test_json_lines_keep_their_types_and_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"id": 1, "text": "good", "x": 1, "tags": ["a"], "on": true}\n'
        '{"id": 2, "text": null, "x": 0.5, "tags": null}\n\n'
        "not json\n"
        '{"id": 4, "text": 7}\n'
        '{"id": 5, "text": "bad", "late": 1}\n'
        '{"id": "six", "text": "bad"}\n'
    )
    first, second = cut(source_of(path), 4)
    assert first.table.to_pylist() == [
        {"id": 1, "text": "good", "x": 1.0, "tags": '["a"]', "on": True},
        {"id": 2, "text": None, "x": 0.5, "tags": None, "on": None},
        {"id": None, "text": None, "x": None, "tags": None, "on": None},
        {"id": 4, "text": "7", "x": None, "tags": None, "on": None},
    ]
    assert first.problems == {2: "not a row", 3: "not text"}
    assert second.table.schema == first.table.schema
    assert second.table["id"].to_pylist() == [5, None]
    assert second.problems == {0: "other columns", 1: "other columns"}


def test_compressed_text_and_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"id\ttext\n1\tgood\n2\tbad\n"))
    (part,) = cut(source_of(tmp_path / "a.tsv.gz"), 10)
    assert part.table["text"].to_pylist() == ["good", "bad"]


def test_folders_patterns_and_urls(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("b.csv", "a.csv", "deep/c.csv", "_log.csv", "notes.txt", "out/d.csv"):
        (tmp_path / name).write_text("text\ngood\n")
    found = find_sources([str(tmp_path)], outside=f"file://{tmp_path}/out")
    assert [source.url.removeprefix(f"file://{tmp_path}/") for source in found] == ["a.csv", "b.csv", "deep/c.csv"]
    assert [source.place for source in find_sources([f"{tmp_path}/*.csv", f"{tmp_path}/a.csv"], outside="file:///x")] == [0, 1, 2]
    with fsspec.open("memory://in/a.csv", "w") as file:
        file.write("text\ngood\n")
    (part,) = cut(source_of("memory://in/a.csv"), 10)
    assert part.table["text"].to_pylist() == ["good"]


def test_a_limit_is_of_all_files_together(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        (tmp_path / name).write_text("text\n" + "good\n" * 5)
    sources = [replace(source, rows=None) for source in find_sources([str(tmp_path)], outside="file:///nowhere")]
    kept = limited(sources, 7)
    assert [source.rows for source in kept] == [5, 2]
    assert [len(part.table) for source in kept for part in cut(source, 3)] == [3, 2, 2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\n", "there is a column label already; give --prefix"),
        ("a.csv", "review\ngood\n", "no column text; there are review"),
        ("a.csv", "text,text\ngood,bad\n", "two columns have one name"),
        ("a.jsonl", '{"review": "good"}\n', "no column text; there are review"),
        ("a.parquet", "PAR", "Parquet"),
        ("a.csv.gz", "text\n", "zip"),
        ("a.txt", "good\n", "not a kind of file that is read"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=sentence):
        source_of(tmp_path / name)


def test_a_column_of_numbers_and_a_missing_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="the column text holds int64, not text"):
        source_of(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="no such file"):
        find_sources([f"{tmp_path}/*.csv"], outside="file:///nowhere")
