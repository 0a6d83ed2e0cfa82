"""The driver for one machine: what it writes, what it leaves alone, and what it makes of texts that the model can't bear."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.bulk import embedded, sources
from service.bulk.setup import BadInput
from service.served.catalog import CatalogError

Run = Callable[..., Mapping[str, Any]]
Table = Callable[[Path], pa.Table]


def test_every_row_is_scored_in_order(
    bulk: Run, write_input: Callable[..., str], texts: Callable[[int], list[str]], table_of: Table, tmp_path: Path
) -> None:
    first, second = write_input(texts(250), name="a.parquet"), write_input(texts(30), name="b.parquet")
    summary = bulk("--input", first, second, "--output", tmp_path / "out", "--rows-per-file", "100", "--all-scores")
    table = table_of(tmp_path / "out")
    assert table["id"].to_pylist() == [*range(250), *range(30)]
    assert table["text"].to_pylist() == texts(250) + texts(30)
    assert table["label"].to_pylist()[250:] == table["label"].to_pylist()[:30]
    assert [row[0]["label"] for row in table["scores"].to_pylist()] == table["label"].to_pylist()
    assert {len(row) for row in table["scores"].to_pylist()} == {3}
    assert table["error"].null_count == 280
    assert summary["labels"] == Counter(table["label"].to_pylist())
    assert (summary["rows"], summary["errors"]) == (280, {})


def test_what_is_done_is_not_done_again(
    bulk: Run, write_input: Callable[..., str], texts: Callable[[int], list[str]], table_of: Table, tmp_path: Path
) -> None:
    flags = ("--input", write_input(texts(500)), "--output", tmp_path / "out", "--rows-per-file", "100")
    whole = bulk(*flags)
    before = table_of(tmp_path / "out")
    files = sorted((tmp_path / "out").glob("part-*"))
    kept = {path: path.stat().st_ino for path in files if path.name not in (files[1].name, files[4].name)}
    files[1].unlink()
    files[4].unlink()
    (tmp_path / "out" / ".part-00000-000001.parquet.1f").write_bytes(b"half of a file")
    again = bulk(*flags)
    assert table_of(tmp_path / "out") == before
    assert {path: path.stat().st_ino for path in kept} == kept
    assert not list((tmp_path / "out").glob(".*"))
    assert again["rows_before"] == 300
    assert [again[name] for name in ("rows", "labels", "errors")] == [whole[name] for name in ("rows", "labels", "errors")]


@pytest.mark.parametrize("model", ["tiny-lstm", "keyword"])
def test_other_architectures_and_kinds_of_files(bulk: Run, table_of: Table, tmp_path: Path, model: str) -> None:
    (tmp_path / "a.csv").write_text("id,text\n007,what a wonderful day\n8,\n")
    (tmp_path / "b.jsonl").write_text('{"id": "9", "text": "a terrible film"}\n{"id": "10", "text": 5}\nbroken\n')
    summary = bulk("--input", tmp_path, "--output", tmp_path / "out", model=model)
    table = table_of(tmp_path / "out")
    assert table["id"].to_pylist() == ["007", "8", "9", "10", None]
    assert table["error"].to_pylist() == [None, "empty", None, "not text", "not a row"]
    assert [label is None for label in table["label"].to_pylist()] == [False, True, False, True, True]
    assert summary["errors"] == {"empty": 1, "not text": 1, "not a row": 1}


def test_a_text_that_the_model_fails_on_fails_alone(
    bulk: Run, write_input: Callable[..., str], texts: Callable[[int], list[str]], table_of: Table, tmp_path: Path
) -> None:
    """By raising, by asking for more memory in company than alone, and by ending the process."""
    given = [text.replace("poison", "fine") for text in texts(60)]
    given[7], given[20], given[41] = "poison", "hungry", "fatal"
    summary = bulk("--input", write_input(given), "--output", tmp_path / "out", "--rows-per-file", "30", model="failing")
    errors = table_of(tmp_path / "out")["error"].to_pylist()
    assert {row: error for row, error in enumerate(errors) if error} == {7: "model failed", 41: "model failed"}
    assert summary["errors"] == {"model failed": 2}


def test_no_more_than_a_few_parts_are_in_memory(
    bulk: Run,
    write_input: Callable[..., str],
    texts: Callable[[int], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead = []

    def counted(*given: Any, **options: Any) -> Iterator[sources.Part]:
        for read, part in enumerate(read_parts(*given, **options), start=1):
            ahead.append(read - len(list((tmp_path / "out").glob("part-*"))))
            yield part

    read_parts = sources.parts
    monkeypatch.setattr(sources, "parts", counted)
    bulk("--input", write_input(texts(1000)), "--output", tmp_path / "out", "--rows-per-file", "20")
    assert len(ahead) == 50
    assert max(ahead) <= 5  # two workers, a process for texts, one that is read, and one that is about to be


def test_nothing_to_do_and_empty_files(bulk: Run, write_input: Callable[..., str], table_of: Table, tmp_path: Path) -> None:
    flags = ("--input", write_input([]), "--output", tmp_path / "out")
    assert bulk(*flags)["rows"] == 0
    assert table_of(tmp_path / "out").schema.names == ["id", "text", "label", "score", "error"]
    assert bulk(*flags)["rows"] == 0


def test_a_trial(bulk: Run, write_input: Callable[..., str], texts: Callable[[int], list[str]], tmp_path: Path) -> None:
    path = write_input(texts(300))
    assert bulk("--input", path, "--output", tmp_path / "out", "--limit", "120", "--rows-per-file", "50")["rows"] == 120
    with pytest.raises(BadInput, match="begun with another options"):
        bulk("--input", path, "--output", tmp_path / "out", "--rows-per-file", "50")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--dtype", "int4"), "--dtype: Input should be 'auto'"),
        (("--text-column", "review"), "no column review; there are id, text"),
        (("--model", "/nowhere"), "/nowhere/config.json: no such file"),
        (("--import-modules", "nowhere"), "--import-modules nowhere"),
        (("--output", "/proc/nothing"), "--output file:///proc/nothing"),
        (("--output", "nosuch://there"), "--output nosuch://there"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    bulk: Run, write_input: Callable[..., str], tmp_path: Path, flags: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises((BadInput, CatalogError), match=sentence):
        bulk("--input", write_input(["good"]), "--output", tmp_path / "out", *flags)
    assert embedded.multiprocessing.active_children() == []


def test_another_folder_is_left_alone(bulk: Run, write_input: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").touch()
    with pytest.raises(BadInput, match="not empty"):
        bulk("--input", write_input(["good"]), "--output", tmp_path / "out")


def test_columns_of_the_added_ones_names(bulk: Run, write_input: Callable[..., str], tmp_path: Path) -> None:
    path = write_input(["good", "bad"], label=["x", "y"])
    with pytest.raises(BadInput, match="give --prefix"):
        bulk("--input", path, "--output", tmp_path / "out")
    bulk("--input", path, "--output", tmp_path / "out", "--prefix", "valence_")
    (part,) = (tmp_path / "out").glob("part-*")
    assert pq.read_table(part).column_names == ["id", "text", "label", "valence_label", "valence_score", "valence_error"]
