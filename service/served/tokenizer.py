"""A checkpoint's tokenizer: where it lies, and whether the service can use it."""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from service.served.configuration import fact
from service.served.refusal import CatalogError, check_readable, reading, reason

log = logging.getLogger("valence.catalog")
# What a forward is given. A tokenizer that makes more is for more than text.
GIVEN = frozenset({"input_ids", "token_type_ids", "attention_mask", "position_ids", "special_tokens_mask", "length"})
NOT_VOCABULARY = frozenset({"tokenizer.json", "tokenizer_config.json"})
TRIAL_TEXT = "a word"


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The trained tokenizer of a folder: of the Rust library, or, where its class has no such form (`is_fast` is false), in
    Python."""
    with reading(path / "tokenizer.json" if (path / "tokenizer.json").is_file() else path):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def find_tokenizer(
    folders: Sequence[Path], config: PreTrainedConfig, tokenizers_dir: Path
) -> tuple[Path, PreTrainedTokenizerBase]:
    """The folder and the tokenizer of a checkpoint: of the first of `folders` that has one, else the one of `tokenizers_dir` that
    its configuration names. CatalogError where there is none, or it can't be used."""
    path = _folder_of(folders, config, tokenizers_dir)
    tokenizer = _converted(path, tokenizers_dir)
    _check_vocabulary(tokenizer, path, config, folders[-1])
    _check_inputs(tokenizer, path)
    return path, tokenizer


def _folder_of(folders: Sequence[Path], config: PreTrainedConfig, tokenizers_dir: Path) -> Path:
    for folder in folders:
        if (folder / "tokenizer.json").is_file():
            check_readable(folder / "tokenizer.json")
            return folder
    name = getattr(config, "tokenizer_name", None)
    if name is None:
        return next((folder for folder in folders if (folder / "tokenizer_config.json").is_file()), folders[-1])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CatalogError(f"{folders[-1] / 'config.json'}: tokenizer_name {name!r} leads out of {tokenizers_dir}")
    folder = tokenizers_dir / name
    if not (folder / "tokenizer.json").is_file():
        raise CatalogError(f"{folder / 'tokenizer.json'}: no such file, but {folders[-1] / 'config.json'} names it")
    return folder


def _converted(path: Path, tokenizers_dir: Path) -> PreTrainedTokenizerBase:
    """What AutoTokenizer makes of the folder. Without a vocabulary it would make a tokenizer that knows no word."""
    if (path / "tokenizer.json").is_file():
        return load_tokenizer(path)
    none = f"{path}: no tokenizer.json, and config.json names no tokenizer_name of {tokenizers_dir}"
    others = sorted(file.name for file in path.iterdir() if file.suffix in (".txt", ".json", ".model"))
    for name in others:
        check_readable(path / name)
        if name.endswith(".model"):
            _check_package(path / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except ImportError as error:
        raise CatalogError(f"{path}: its tokenizer needs a package that is missing: {reason(error)}") from error
    except Exception as error:  # code of others, as in `reading`
        why = reason(error).removesuffix(":")
        raise CatalogError(
            f"{none}; AutoTokenizer makes none of {', '.join(others)}: {why}; name its class in tokenizer_config.json "
            "(tokenizer_class), or save a tokenizer.json"
        ) from error
    kind = type(tokenizer).__name__
    needed = sorted(set(getattr(tokenizer, "vocab_files_names", {}).values()) - NOT_VOCABULARY)
    if not needed and tokenizer.is_fast:
        needed = [name for name in others if name.endswith(".model")]
        if not needed:
            raise CatalogError(none)
    if missing := [name for name in needed if not (path / name).is_file()]:
        raise CatalogError(f"{none}; without it a {kind} needs {' and '.join(missing)}")
    how = f"AutoTokenizer converted {' and '.join(needed)}" if needed else f"{kind} needs no vocabulary"
    log.info("no tokenizer.json in %s; %s", path, how)
    return tokenizer


def _check_package(file: Path) -> None:
    """A protocol buffer is read by the package sentencepiece, a list of tokens by tiktoken. Without it transformers names the
    other."""
    with file.open("rb") as opened:
        package = "sentencepiece" if opened.read(1) == b"\n" else "tiktoken"
    if find_spec(package) is None:
        raise CatalogError(
            f"{file}: no tokenizer.json beside it, and reading it needs a package that is missing: pip install {package}, or "
            "save the tokenizer with a tokenizer.json where it is installed"
        )


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase, path: Path, config: PreTrainedConfig, checkpoint: Path) -> None:
    size = fact(config, "vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        raise CatalogError(
            f"{path / 'tokenizer.json'}: {len(tokenizer)} tokens, but {checkpoint / 'config.json'} has vocab_size {size}; "
            "this tokenizer belongs to another checkpoint"
        )


def _check_inputs(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    kind = type(tokenizer).__name__
    more = set(tokenizer.model_input_names) - GIVEN
    if not more:
        try:
            made = tokenizer(TRIAL_TEXT)
        except Exception as error:  # a tokenizer of pages refuses in its own way
            raise CatalogError(f"{path}: {kind} takes no plain text: {reason(error)}") from error
        more = {name for name, row in made.items() if name not in GIVEN or not all(isinstance(value, int) for value in row)}
    if more:
        raise CatalogError(
            f"{path}: {kind} makes {', '.join(sorted(more))} of more than text; only classifiers of text are served"
        )
