"""A folder that `peft` saved: an adapter, which is served merged into the model that it was trained on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from service.served.files import ADAPTER_WEIGHTS, check_tensors, weight_files
from service.served.refusal import CatalogError, check_readable, reading

ADAPTER_CONFIG = "adapter_config.json"
# Put the tokens of a prompt before each text, which no weight can take over.
UNMERGEABLE = frozenset({"PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CARTRIDGE"})
# What peft puts before the name of a tensor.
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """`base`: the model that it was trained on, a folder or a repository with its revision."""

    path: Path
    base: str
    revision: str | None

    @property
    def file(self) -> Path:
        return self.path / ADAPTER_CONFIG


def is_adapter(path: Path) -> bool:
    """Whether a folder is one."""
    return (path / ADAPTER_CONFIG).is_file()


def read_adapter(path: Path) -> Adapter:
    """CatalogError for one that can't be served."""
    file = path / ADAPTER_CONFIG
    check_readable(file)
    with reading(file):
        fields: Mapping[str, Any] = json.loads(file.read_bytes())
        task, kind, base = fields.get("task_type"), str(fields.get("peft_type")), fields.get("base_model_name_or_path")
    if weight_files(path):
        raise CatalogError(f"{file}: a whole checkpoint lies beside it; move one of the two to a folder of its own")
    if task != "SEQ_CLS":
        raise CatalogError(f"{file}: an adapter for task_type {task}, and only SEQ_CLS classifies texts")
    if kind in UNMERGEABLE:
        raise CatalogError(f"{file}: an adapter of peft_type {kind} can't be merged into its base; serve one of LORA or its kin")
    if not isinstance(base, str) or not base:
        raise CatalogError(f"{file}: base_model_name_or_path names no model that it was trained on")
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise CatalogError(f"{path}: no {ADAPTER_WEIGHTS}; pickled weights are not loaded, save with safetensors")
    check_tensors(path / ADAPTER_WEIGHTS)
    if find_spec("peft") is None:
        raise CatalogError(f"{file}: serving an adapter needs the extra: pip install 'valence[peft]'")
    return Adapter(path, base, fields.get("revision"))


def base_folder(adapter: Adapter) -> Path | None:
    """Where the base lies on this machine, from the adapter's folder on; None for a repository of a hub."""
    folder = (adapter.path / Path(adapter.base).expanduser()).resolve()
    return folder if folder.is_dir() else None


def with_labels(config: PreTrainedConfig, adapter: Adapter, model_class: type[PreTrainedModel] | None) -> PreTrainedConfig:
    """The base's configuration with as many labels as the adapter's own head has; their names where the count agrees. Where code
    of the base brings its class, `model_class` is None, and the base says how many."""
    with reading(adapter.path / ADAPTER_WEIGHTS):
        count = None if model_class is None else _head_size(config, adapter.path, model_class)
        if count is not None and count != config.num_labels:
            config.num_labels = count
    return config


def _head_size(config: PreTrainedConfig, path: Path, model_class: type[PreTrainedModel]) -> int | None:
    """By the tensors whose shape depends on the number of labels; None where the adapter brings none of them."""
    stored = tensor_shapes(path)
    few, many = (_shapes(config, model_class, labels) for labels in (3, 5))
    for name, shape in few.items():
        if shape != many[name] and name in stored:
            return next(size for size, one, other in zip(stored[name], shape, many[name], strict=True) if one != other)
    return None


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of an adapter's tensors that replace those of the base, by the base's names."""
    with safe_open(path / ADAPTER_WEIGHTS, framework="numpy") as file:
        return {name.removeprefix(PREFIX): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _shapes(config: PreTrainedConfig, model_class: type[PreTrainedModel], labels: int) -> dict[str, tuple[int, ...]]:
    config = type(config).from_dict({**config.to_dict(), "num_labels": labels, "id2label": None, "label2id": None})
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in model_class(config).state_dict().items()}
