"""Which checkpoints can be served, and what the operator is told of the others."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from service.runtime_dir import RuntimeDir
from service.served.catalog import CatalogError, ServedModel, load_catalog
from service.settings import Settings
from service.supervisor.server import build_server


@pytest.fixture
def folder(checkpoints: Mapping[str, Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint that the test may break."""
    return Path(shutil.copytree(checkpoints["tiny-bert"], tmp_path / "broken"))


def edit_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(*entries: str, **fields: object) -> str:
    with pytest.raises(CatalogError) as caught:
        load_catalog(Settings(models=entries, **fields))
    return str(caught.value)


def test_a_model_is_described_by_its_config(catalog: Mapping[str, ServedModel], checkpoints: Mapping[str, Path]) -> None:
    served = catalog["tiny-bert"]
    assert served.architecture == "custom_bert"
    assert served.labels == ("negative", "neutral", "positive")
    assert served.max_length == 48
    assert served.tokenizer_path == checkpoints["tiny-bert"].resolve()


def test_models_keep_the_order_of_the_settings(catalog: Mapping[str, ServedModel]) -> None:
    assert list(catalog) == ["tiny-bert", "tiny-lstm", "keyword"]


def test_a_checkpoint_without_a_tokenizer_takes_the_one_that_its_config_names(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store" / "shared"
    store.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).rename(store / name)
    edit_config(folder, tokenizer_name="shared")
    (served,) = load_catalog(Settings(models=(f"a={folder}",), tokenizers_dir=tmp_path / "store"))
    assert served.tokenizer_path == store


@pytest.mark.parametrize("entry", ["folder", "=folder", "a/b=folder", "a:folder"])
def test_an_entry_that_is_not_name_and_folder_is_refused(entry: str) -> None:
    assert refusal(entry) == f"--models {entry!r}: write name=folder, the name without a slash"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert (
        refusal(f"a={tmp_path}/none")
        == f"{tmp_path.resolve()}/none/config.json: no such file; --models a must name a checkpoint folder"
    )


def test_a_folder_without_a_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "config.json: no such file" in refusal(f"a={folder}")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "no *.safetensors file; pickled weights are not loaded" in refusal(f"a={folder}")


def test_a_checkpoint_without_any_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer.json, and config.json names no tokenizer_name" in refusal(f"a={folder}")


def test_a_named_tokenizer_that_is_missing_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    edit_config(folder, tokenizer_name="gone")
    message = refusal(f"a={folder}", tokenizers_dir=tmp_path)
    assert message.startswith(f"{tmp_path}/gone/tokenizer.json: no such file, but ")


def test_a_tokenizer_of_another_checkpoint_is_refused(folder: Path) -> None:
    edit_config(folder, vocab_size=10)
    assert re.search(
        r"tokenizer.json: \d+ tokens, but .*config.json has vocab_size 10; .* another checkpoint", refusal(f"a={folder}")
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "unheard_of"}, "unheard_of"),
        ({"hiden_size": 8}, "hiden_size"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 5}, "num_attention_heads 5"),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(folder: Path, fields: dict[str, object], reason: str) -> None:
    edit_config(folder, **fields)
    message = refusal(f"a={folder}")
    assert message.startswith(f"{folder.resolve()}/config.json: ")
    assert reason in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_is_not_json_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    message = refusal(f"a={folder}")
    assert name in message
    assert "\n" not in message


def test_two_models_of_one_name_are_refused(checkpoints: Mapping[str, Path]) -> None:
    assert refusal(f"a={checkpoints['tiny-bert']}", f"a={checkpoints['tiny-lstm']}") == "two models have one name: a, a"


def test_no_model_is_refused() -> None:
    assert refusal() == "no model to serve: give --models name=folder"


def test_a_module_that_can_not_be_imported_is_refused(checkpoints: Mapping[str, Path]) -> None:
    message = refusal(f"a={checkpoints['tiny-bert']}", import_modules=("no_such_module",))
    assert message == "--import-modules no_such_module: No module named 'no_such_module'"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import torch\nwidth = hiden", "NameError: name 'hiden' is not defined (broken_module.py, line 2)"),
        ("class Model(\n", "SyntaxError: '(' was never closed (broken_module.py, line 1)"),
        ("import torch\ntorch.no_such_thing", "AttributeError: module 'torch' has no attribute 'no_such_thing'"),
        ("import no_such_package", "No module named 'no_such_package' (broken_module.py, line 1)"),
        ("import uuid\n\nuuid.UUID('4')", "ValueError: badly formed hexadecimal UUID string (broken_module.py, line 3)"),
        ("raise ValueError('one line\\nand another')", "ValueError: one line (broken_module.py, line 1)"),
        ("assert not 1", "AssertionError (broken_module.py, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 (broken_module.py, line 1)"),
    ],
    ids=["name", "syntax", "attribute", "import", "inside a library", "two lines", "no words", "exit"],
)
def test_a_module_that_raises_is_refused_in_one_line_with_what_it_raised(
    source: str, reason: str, checkpoints: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(f"a={checkpoints['tiny-bert']}", import_modules=("broken_module",))
    assert message.startswith(f"--import-modules broken_module: {reason}")
    assert "\n" not in message


def test_an_architecture_joins_by_its_module(settings_of: Callable[..., Settings], checkpoints: Mapping[str, Path]) -> None:
    (served,) = load_catalog(settings_of(models=(f"mine={checkpoints['keyword']}",)))
    assert (served.architecture, served.max_length) == ("keyword_pooling", 128)


def test_int8_without_ranges_is_refused_with_the_command_that_makes_them(folder: Path) -> None:
    message = refusal(f"a={folder}", dtype="int8")
    assert message.startswith(f"{folder.resolve()}/int8_ranges.safetensors: no such file")
    assert f"python -m models.int8 {folder.resolve()} --texts FILE" in message


def test_ranges_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "int8_ranges.safetensors")
    assert "no *.safetensors file" in refusal(f"a={folder}")


def test_int8_is_for_the_cpu(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="--dtype int8 is for the CPU"):
        build_server(settings_of(dtype="int8", device="cuda"), runtime_dir=RuntimeDir(tmp_path))


def test_weights_that_are_cut_short_are_refused_by_name(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert refusal(f"a={folder}").startswith(f"{file.resolve()}: ")


@pytest.mark.parametrize("name", ["../tiny-bert/model.safetensors", "/etc/passwd", "gone.safetensors", 3])
def test_an_index_names_files_beside_it(folder: Path, name: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))
    assert refusal(f"a={folder}").endswith(f"model.safetensors.index.json: no file {name} beside it")


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/../../b"])
def test_a_tokenizer_is_named_within_the_store(folder: Path, name: str) -> None:
    (folder / "tokenizer.json").unlink()
    edit_config(folder, tokenizer_name=name)
    assert f"tokenizer_name {name!r} leads out of " in refusal(f"a={folder}")


def test_other_weights_have_another_hash(folder: Path, catalog: Mapping[str, ServedModel]) -> None:
    (same,) = load_catalog(Settings(models=(f"a={folder}",)))
    assert same.weights == catalog["tiny-bert"].weights
    (folder / "more.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (other,) = load_catalog(Settings(models=(f"a={folder}",)))
    assert other.weights != same.weights
