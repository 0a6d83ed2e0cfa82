"""The served models as the HTTP processes know them: names, labels, limits. No weights are read here."""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from models import register_architectures
from models.int8 import RANGES_FILE, RangesError, load_ranges
from service.hub import HubError, fetch, names_repository
from service.settings import Settings

log = logging.getLogger("valence.catalog")
DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True)
class ServedModel:
    """One name that clients may ask for. `max_length` is in tokens, special ones included: the least of what model and tokenizer
    were made for (RoBERTa's 514 positions take 512 tokens). `source`: repository and commit, `org/repo@<40 digits>`, of one that
    came from a hub."""

    name: str
    path: Path
    tokenizer_path: Path
    architecture: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int
    source: str | None = None


class CatalogError(ValueError):
    """A model can't be served; the message names the file and the reason, for the operator."""


def load_catalog(settings: Settings) -> list[ServedModel]:
    """Every model of the settings, in their order; CatalogError for the first that can't be served."""
    register_all(settings.import_modules)
    served = [_served_model(entry, settings) for entry in settings.models]
    if not served:
        raise CatalogError("no model to serve: give --models name=folder")
    names = [model.name for model in served]
    if len(set(names)) != len(names):
        raise CatalogError(f"two models have one name: {', '.join(names)}")
    return served


def register_all(import_modules: Sequence[str]) -> None:
    """Registers this project's architectures, then those of the operator's modules."""
    register_architectures()
    for module in import_modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise CatalogError(f"--import-modules {module}: {error}") from error


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The trained tokenizer of a folder."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # the Rust library raises bare Exception for a file that it can't read
        raise CatalogError(f"{path / 'tokenizer.json'}: {_reason(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CatalogError(f"{path}: not a fast tokenizer; save one with a tokenizer.json")
    return tokenizer


def _served_model(entry: str, settings: Settings) -> ServedModel:
    name, separator, folder = entry.partition("=")
    if not separator or not name or "/" in name:
        raise CatalogError(f"--models {entry!r}: write name=folder, the name without a slash")
    path, source = _find(folder, settings)
    if not (path / "config.json").is_file():
        raise CatalogError(f"{path / 'config.json'}: no such file; --models {name} must name a checkpoint folder")
    if not any(file.name != RANGES_FILE for file in path.glob("*.safetensors")):
        raise CatalogError(f"{path}: no *.safetensors file; pickled weights are not loaded, save with safetensors")
    if settings.dtype == "int8":
        _check_ranges(path)
    config = _config(path, settings)
    tokenizer_path = _tokenizer_path(path, config, settings)
    tokenizer = load_tokenizer(tokenizer_path)
    _check_vocabulary(tokenizer, tokenizer_path, config, path)
    return ServedModel(
        name=name,
        path=path,
        tokenizer_path=tokenizer_path,
        architecture=config.model_type,
        labels=tuple(config.id2label[index] for index in range(config.num_labels)),
        problem_type=config.problem_type,
        max_length=min(getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_LENGTH, tokenizer.model_max_length),
        source=source,
    )


def _find(folder: str, settings: Settings) -> tuple[Path, str | None]:
    """The checkpoint's folder, and its repository and commit where it comes from a hub."""
    if not names_repository(folder):
        return Path(folder).expanduser().resolve(), None
    try:
        snapshot = fetch(folder, with_code=settings.trust_remote_code)
    except HubError as error:
        raise CatalogError(str(error)) from error
    log.info("%s: revision %s is commit %s", snapshot.repo, snapshot.revision, snapshot.commit)
    return snapshot.path, f"{snapshot.repo}@{snapshot.commit}"


def _check_ranges(path: Path) -> None:
    try:
        load_ranges(path)
    except RangesError as error:
        raise CatalogError(str(error)) from error


def _config(path: Path, settings: Settings) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code)
    except (ValueError, OSError, StrictDataclassError) as error:
        if "trust_remote_code" in str(error):
            raise CatalogError(
                f"{path / 'config.json'}: an architecture that is not registered, with code of its own; read it, then give "
                "--trust-remote-code, or register the architecture by --import-modules"
            ) from error
        raise CatalogError(f"{path / 'config.json'}: {_reason(error)}") from error


def _tokenizer_path(path: Path, config: PreTrainedConfig, settings: Settings) -> Path:
    if (path / "tokenizer.json").is_file():
        return path
    name = getattr(config, "tokenizer_name", None)
    if name is None:
        raise CatalogError(f"{path}: no tokenizer.json, and config.json names no tokenizer_name of {settings.tokenizers_dir}")
    folder = settings.tokenizers_dir / name
    if not (folder / "tokenizer.json").is_file():
        raise CatalogError(f"{folder / 'tokenizer.json'}: no such file, but {path / 'config.json'} names it")
    return folder


def _check_vocabulary(tokenizer: PreTrainedTokenizerFast, tokenizer_path: Path, config: PreTrainedConfig, path: Path) -> None:
    if len(tokenizer) > config.vocab_size:
        raise CatalogError(
            f"{tokenizer_path / 'tokenizer.json'}: {len(tokenizer)} tokens, but {path / 'config.json'} has vocab_size "
            f"{config.vocab_size}; this tokenizer belongs to another checkpoint"
        )


def _reason(error: Exception) -> str:
    """One line. A config's validators put what is wrong last, after "ValueError: "; other errors say it first."""
    lines = str(error).strip().splitlines()
    return lines[-1].partition("Error: ")[2] or lines[-1].strip() if isinstance(error, StrictDataclassError) else lines[0]
