"""The served models as the HTTP processes know them: names, labels, limits. No weights are loaded here."""

import hashlib
import importlib
import json
import logging
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from models import register_architectures
from models.int8 import RANGES_FILE, RangesError, load_ranges
from service.served.hub import HubError, fetch, names_repository
from service.settings import Settings

log = logging.getLogger("valence.catalog")
DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True)
class ServedModel:
    """One name that clients may ask for.

    `max_length`: in tokens, special ones included; the lesser of what model and tokenizer were made for (RoBERTa's 514 positions
    take 512 tokens). `weights`: a hash of the weight files, which tells checkpoints apart. `version`: the operator's own word.
    `since`: when the checkpoint was read (ISO 8601). `source`: repository and commit of a model from a hub,
    `org/repo@<40 digits>`."""

    name: str
    path: Path
    tokenizer_path: Path
    architecture: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int
    weights: str
    version: str | None
    since: str
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
        except (Exception, SystemExit) as error:  # an operator's code may raise anything
            raise CatalogError(f"--import-modules {module}: {_raised(error)}") from error


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
    return served_model(name, path, settings, source=source)


def served_model(
    name: str, path: Path, settings: Settings, *, version: str | None = None, source: str | None = None
) -> ServedModel:
    """The checkpoint of a folder under a name; CatalogError if it can't be served."""
    if not (path / "config.json").is_file():
        raise CatalogError(f"{path / 'config.json'}: no such file; --models {name} must name a checkpoint folder")
    _check_weights(path)
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
        weights=weights_digest(path),
        version=version,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
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


def weights_digest(path: Path) -> str:
    """12 hexadecimal digits of a hash over the weights of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)
    return digest.hexdigest()[:12]


def _check_weights(path: Path) -> None:
    files = sorted(file for file in path.glob("*.safetensors") if file.name != RANGES_FILE)
    if not files:
        raise CatalogError(f"{path}: no *.safetensors file; pickled weights are not loaded, save with safetensors")
    for file in files:
        try:
            with safe_open(file, framework="numpy"):
                pass  # fails unless the file is as long as its header says
        except (SafetensorError, OSError) as error:
            raise CatalogError(f"{file}: {_reason(error)}") from error
    index = path / "model.safetensors.index.json"
    if index.is_file():
        _check_index(index)


def _check_index(index: Path) -> None:
    """CatalogError unless every file that the index names lies beside it: transformers would follow any path."""
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CatalogError(f"{index}: not an index of weights") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not (index.parent / name).is_file():
            raise CatalogError(f"{index}: no file {name} beside it")


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
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CatalogError(f"{path / 'config.json'}: tokenizer_name {name!r} leads out of {settings.tokenizers_dir}")
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


def _raised(error: BaseException) -> str:
    """What an import raised, in one line: `NameError: name 'nm' is not defined (architecture.py, line 9)`."""
    reason = str(error).strip().partition("\n")[0]
    said = reason if isinstance(error, ImportError) else f"{type(error).__name__}: {reason}".removesuffix(": ")
    # The last is the innermost module that was being imported. The text of a SyntaxError names that module itself.
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    return f"{said} ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else said


def _reason(error: Exception) -> str:
    """The line that says what is wrong: the first, or from a config's validators the last, without its "ValueError: "."""
    lines = str(error).strip().splitlines()
    return lines[-1].partition("Error: ")[2] or lines[-1].strip() if isinstance(error, StrictDataclassError) else lines[0]
