"""`python -m models.inspect`: the lint before a load, what is printed, and what is refused."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from models.inspect import Subject
from models.inspect.__main__ import main
from models.inspect.config_lint import unknown_fields

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """(exit status, output, errors) of the command."""

    def call(folder: Path, *flags: str) -> tuple[int, str, str]:
        status = main([str(folder), *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def edited(checkpoints: Mapping[str, Path], subject_of: Callable[[str], Subject], tmp_path: Path) -> Callable[..., Path]:
    """A copy of a checkpoint whose config.json has other fields."""

    def edit(name: str, **fields: Any) -> Path:
        folder = tmp_path / "edited"
        shutil.copytree(checkpoints.get(name) or subject_of(name).folder, folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return edit


class TestConfig:
    def test_a_misspelt_field_is_named_before_the_load_that_refuses_it(self, edited: Callable[..., Path], run: Run) -> None:
        status, out, err = run(edited("tiny-bert", hiden_size=32))
        assert status == 2
        assert "hiden_size  unknown  did you mean 'hidden_size'?" in out
        assert "has no field 'hiden_size'" in err
        assert err.count("\n") == 1

    def test_one_that_transformers_keeps_silently_is_named_too(self, edited: Callable[..., Path], run: Run) -> None:
        status, out, _ = run(edited("bert", hiden_size=32, colour="red"), "--sections", "config", "--json")
        assert status == 0
        found = {row["field"]: (row["finding"], row["detail"]) for row in json.loads(out)["config"]["rows"]}
        assert found["hiden_size"] == ("unknown", "did you mean 'hidden_size'?")
        assert found["colour"] == ("unknown", "nothing has a name like it")

    def test_a_field_that_the_model_never_reads_is_named(self, edited: Callable[..., Path], run: Run) -> None:
        _, out, _ = run(edited("tiny-bert", attention_stride=7), "--sections", "config", "--json")
        report = json.loads(out)["config"]
        assert {row["field"]: row["finding"] for row in report["rows"]} == {"attention_stride": "never read"}
        assert "attention_window" in report["notes"][1]

    def test_a_field_that_is_read_is_not_named(self, edited: Callable[..., Path], run: Run) -> None:
        folder = edited("tiny-bert", attention_pattern="strided", attention_stride=7)
        assert json.loads(run(folder, "--sections", "config", "--json")[1])["config"]["rows"] == []

    @pytest.mark.parametrize(
        ("fields", "field", "finding"),
        [
            ({"pad_token_id": 3}, "pad_token_id", "differs"),
            ({"id2label": {"0": "LABEL_0", "1": "b", "2": "c"}}, "id2label", "unnamed"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, edited: Callable[..., Path], run: Run, fields: dict[str, Any], field: str, finding: str
    ) -> None:
        _, out, _ = run(edited("tiny-lstm", **fields), "--sections", "config", "--json")
        assert (field, finding) in {(row["field"], row["finding"]) for row in json.loads(out)["config"]["rows"]}

    def test_an_architecture_that_is_not_registered_is_not_judged(self, edited: Callable[..., Path]) -> None:
        assert unknown_fields(edited("tiny-bert", model_type="never_heard_of", hiden_size=3)) is None


class TestOutput:
    def test_sections_come_in_the_order_asked_for(self, checkpoints: Mapping[str, Path], run: Run) -> None:
        _, out, _ = run(checkpoints["tiny-lstm"], "--sections", "memory,parameters", "--json")
        assert list(json.loads(out)) == ["memory", "parameters"]

    def test_an_explanation_stands_alone(self, checkpoints: Mapping[str, Path], run: Run, tmp_path: Path) -> None:
        flags = ("--explain", "not good at all", "--label", "neutral", "--pictures", str(tmp_path / "new"))
        status, out, _ = run(checkpoints["tiny-bert"], *flags)
        assert status == 0
        assert out.startswith("explanation\n")
        assert "neutral: raw score" in out
        assert (tmp_path / "new" / "explanation.png").read_bytes().startswith(b"\x89PNG")

    def test_a_batch_may_be_given_with_labels_by_name(self, checkpoints: Mapping[str, Path], run: Run, tmp_path: Path) -> None:
        (tmp_path / "batch.tsv").write_text("positive\tgood film\n\n0\tbad film\n")
        flags = ("--sections", "gradients", "--batch", str(tmp_path / "batch.tsv"))
        status, out, _ = run(checkpoints["tiny-bert"], *flags)
        assert (status, "2 texts, labels as given." in out) == (0, True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--sections", "memory,colours"), "there is no 'colours'; there are config,"),
        (("--explain", "good", "--label", "angry"), "there is no label 'angry'; there are negative, neutral, positive"),
        (("--explain", " "), "--explain: the text is empty"),
        (("--steps", "0"), "--steps 0: must be at least 1"),
        (("--depth", "-1"), "--depth -1: must be at least 0"),
        (("--batch", "{bad}"), "bad.tsv:1: must be label<TAB>text, the label one of negative, neutral, positive, 0, 1, 2"),
        (("--batch", "{three}"), "three.tsv:2: must be label<TAB>text"),
        (("--batch", "{empty}"), "empty.tsv: no text in it"),
        (("--batch", "{none}"), "No such file"),
        (("--import-module", "no_such_module"), "No module named 'no_such_module'"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    checkpoints: Mapping[str, Path], run: Run, tmp_path: Path, flags: tuple[str, str], said: str
) -> None:
    (tmp_path / "bad.tsv").write_text("good film\n")
    (tmp_path / "three.tsv").write_text("0\tgood film\n3\tbad film\n")
    (tmp_path / "empty.tsv").write_text("\n")
    paths = {name: tmp_path / f"{name}.tsv" for name in ("bad", "three", "empty", "none")}
    status, _, err = run(checkpoints["tiny-bert"], *(flag.format(**paths) for flag in flags))
    assert status == 2
    assert err.startswith("models.inspect: ")
    assert said in err
    assert err.count("\n") == 1


def test_a_folder_without_a_checkpoint_is_refused(run: Run, tmp_path: Path) -> None:
    status, _, err = run(tmp_path)
    assert status == 2
    assert "config.json" in err
