"""The weights of a checkpoint folder as files: which they are, whether they can be read, what they hold."""

import hashlib
import json
from pathlib import Path

from safetensors import safe_open

from models.int8 import RANGES_FILE, RangesError, load_ranges
from service.served.refusal import CatalogError, check_readable, reading

INDEX_FILE = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
NOT_WEIGHTS = frozenset({RANGES_FILE, ADAPTER_WEIGHTS})


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a folder, but for the ranges of int8 and the weights of an adapter."""
    return sorted(file for file in path.glob("*.safetensors") if file.name not in NOT_WEIGHTS)


def loaded_files(path: Path) -> list[Path]:
    """Those of them that transformers loads: what the index names, or the one file."""
    index = path / INDEX_FILE
    if not index.is_file():
        return [path / "model.safetensors"]
    return [path / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]


def weights_digest(*folders: Path) -> str:
    """12 hexadecimal digits of a hash over the weights of a folder, and of those of the base that an adapter stands on."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as opened:
                hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()[:12]


def check_weights(path: Path) -> None:
    """CatalogError where there are none, or one can't be read."""
    files = weight_files(path)
    if not files:
        raise CatalogError(f"{path}: no *.safetensors file; pickled weights are not loaded, save with safetensors")
    for file in files:
        check_tensors(file)
    index = path / INDEX_FILE
    if index.is_file():
        _check_index(index)


def check_tensors(file: Path) -> None:
    """CatalogError where a safetensors file can't be read, or is cut short."""
    check_readable(file)
    with reading(file), safe_open(file, framework="numpy"):
        pass  # its header says how long the file must be


def check_ranges(path: Path) -> None:
    """CatalogError where the folder lacks what int8 needs."""
    try:
        load_ranges(path)
    except RangesError as error:
        raise CatalogError(str(error)) from error


def _check_index(index: Path) -> None:
    """The files that it names lie beside it: transformers would follow a path to anywhere."""
    check_readable(index)
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CatalogError(f"{index}: not an index of weights") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise CatalogError(f"{index}: no file {name} beside it")
