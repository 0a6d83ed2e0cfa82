"""What a configuration says of a checkpoint, and which configurations are refused."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from service.served.catalog import CatalogError, ServedModel, load_catalog
from service.served.configuration import _check_inputs, claimed_length
from service.settings import Settings

Make = Callable[..., Path]
NOBODY = 65534


def served(folder: Path) -> ServedModel:
    return load_catalog(Settings(models=(f"m={folder}",)))[0]


def refusal(folder: Path) -> str:
    with pytest.raises(CatalogError) as caught:
        served(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("kind", "fields", "tokenizer", "length"),
    [
        ("bert", {"max_position_embeddings": 40}, 30, 30),
        ("bert", {"max_position_embeddings": 40}, 10**30, 40),
        ("gpt2", {"n_positions": 33}, 10**30, 33),
        ("mpt", {"max_seq_len": 77}, 10**30, 77),
        ("xlnet", {}, 10**30, 512),
        ("xlnet", {}, 1000, 1000),
        ("t5", {}, 10**30, 512),
        ("gemma3", {"text_config": {"max_position_embeddings": 90}}, 10**30, 90),
        ("canine", {}, None, 16384),
        ("bert", {"max_position_embeddings": 40}, -1, 40),
    ],
)
def test_the_limit_is_the_least_that_is_claimed(kind: str, fields: dict[str, Any], tokenizer: int, length: int) -> None:
    assert claimed_length(AutoConfig.for_model(kind, **fields), tokenizer) == length


@pytest.mark.parametrize(
    ("fields", "method", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes", "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq", "gptqmodel"),
        ({"quant_method": "awq"}, "awq", "gptqmodel"),
        ({"quant_method": "hqq"}, "hqq", "hqq"),
    ],
)
def test_quantized_weights_are_refused_with_field_method_and_package(
    make: Make, fields: dict[str, object], method: str, package: str
) -> None:
    folder = make("bert")
    edit(folder, quantization_config=fields)
    assert refusal(folder).startswith(
        f"{folder}/config.json: quantization_config: weights quantized by {method} need the package {package} and are not served"
    )


def test_a_quantization_of_nothing_is_none(make: Make) -> None:
    folder = make("bert")
    edit(folder, quantization_config=None)
    assert served(folder).architecture == "bert"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vit", "ViTConfig has no class for AutoModelForSequenceClassification, but for AutoModelForImageClassification"),
        ("whisper", "WhisperConfig has no class for AutoModelForSequenceClassification, but for AutoModelForAudioClassification"),
        ("layoutlmv3", "LayoutLMv3ForSequenceClassification takes bbox, the place of each word on a page, and not text alone"),
        ("lilt", "LiltForSequenceClassification takes bbox, the place of each word on a page, and not text alone"),
        ("markuplm", "MarkupLMForSequenceClassification takes xpath_tags_seq, the place of each word in a page's HTML"),
    ],
)
def test_a_model_of_other_inputs_is_refused_before_its_weights_are_read(make: Make, kind: str, said: str) -> None:
    folder = make("bert")
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    assert refusal(folder).startswith(f"{folder}/config.json: {said}")


class SoundConfig(PreTrainedConfig):
    model_type = "sound"


class SoundForSequenceClassification(PreTrainedModel):
    config_class = SoundConfig

    def forward(self, input_values: object, mask: object = None, **kwargs: object) -> None: ...


class OpenForSequenceClassification(SoundForSequenceClassification):
    def forward(self, **kwargs: object) -> None: ...


def test_a_forward_without_input_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        _check_inputs(SoundForSequenceClassification, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: the forward of SoundForSequenceClassification takes input_values, mask and no input_ids; "
        "only classifiers of text are served"
    )
    _check_inputs(OpenForSequenceClassification, tmp_path)


def test_a_head_for_something_else_is_refused_though_its_weights_fit(make: Make) -> None:
    folder = make("llama")
    edit(folder, architectures=["LlamaForTokenClassification"])
    message = refusal(folder)
    assert message.startswith(f"{folder}/config.json: saved by LlamaForTokenClassification, which is no text classifier")


def test_a_limit_that_leaves_no_room_for_a_text_is_refused(make: Make) -> None:
    folder = make("bert", max_position_embeddings=2)
    assert refusal(folder) == f"{folder}: a limit of 2 tokens, of which 2 are special, leaves none for a text"


@pytest.mark.parametrize("names", [{"1": "a", "2": "b"}, {"0": "a", "2": "b"}])
def test_labels_are_numbered_from_0(make: Make, names: dict[str, str]) -> None:
    folder = make("bert")
    edit(folder, id2label=names, label2id={label: int(index) for index, label in names.items()})
    assert refusal(folder).startswith(f"{folder}/config.json: id2label names ")


@pytest.mark.parametrize(
    "content", ["[]", "3", "{}", '{"model_type": 3}', '{"model_type": "bert", "num_hidden_layers": "x"}', "\0"]
)
def test_any_error_of_a_configuration_is_one_sentence(make: Make, content: str) -> None:
    folder = make("bert")
    (folder / "config.json").write_text(content)
    assert refusal(folder).startswith(f"{folder}/config.json: ")


def test_whatever_code_of_others_raises_is_one_sentence(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("bert")
    for error, said in (
        (RuntimeError("no\nluck"), "no"),
        (AttributeError("x"), "AttributeError: x"),
        (KeyError("a"), "no 'a' in it"),
    ):
        monkeypatch.setattr(AutoConfig, "from_pretrained", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        assert refusal(folder) == f"{folder}/config.json: {said}"


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Without the rights of root, where the tests run as root. The way to `folder` is opened."""
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o011)
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["", "config.json", "model.safetensors", "vocab.txt"])
def test_what_may_not_be_read_is_said_to_be_there(make: Make, name: str) -> None:
    folder = make("bert")
    served(folder)  # whatever it imports may be read
    for file in folder.iterdir():
        file.chmod(0o644)
    (folder / name).chmod(0)
    try:
        with as_nobody(folder):
            message = refusal(folder)
    finally:
        (folder / name).chmod(0o755)
    assert "Permission denied" in message
    assert message.startswith(str(folder / name))
    assert "chmod -R a+rX" in message
