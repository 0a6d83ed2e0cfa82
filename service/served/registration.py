"""The architectures that are known to the Auto classes: this project's, and those of the operator's modules."""

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, MODEL_MAPPING

from models import register_architectures
from service.served.refusal import CatalogError

MAPPINGS = (CONFIG_MAPPING, MODEL_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
# By mapping: what was registered in it, a model_type or a configuration to a class.
Registered = list[dict[str | type, type]]


def register_all(import_modules: Sequence[str]) -> None:
    """Registers this project's architectures, then those of the operator's modules. CatalogError for a module that can't be
    imported, and for one that puts its class in the place of another: the checkpoints of that one would be built as its own."""
    register_architectures()
    for module in import_modules:
        before = _registered()
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # an operator's code may raise anything
            raise CatalogError(f"--import-modules {module}: {_raised(error)}") from error
        _check_nothing_replaced(module, before)


def _registered() -> Registered:
    return [dict(mapping._extra_content) for mapping in MAPPINGS]


def _check_nothing_replaced(module: str, before: Registered) -> None:
    for mapping, old, new in zip(MAPPINGS, before, _registered(), strict=True):
        for key, mine in new.items():
            theirs = old.get(key) or _of_transformers(mapping, key)
            if theirs not in (None, mine):
                what = f"the model_type {key!r}" if isinstance(key, str) else f"the configuration {_name(key)}"
                raise CatalogError(
                    f"--import-modules {module}: registers {_name(mine)} for {what}, which is {_name(theirs)}'s already; "
                    "give it a model_type and a configuration of its own"
                )


def _of_transformers(mapping: Any, key: str | type) -> type | None:
    """What transformers itself has there, below what was registered. A configuration that only has the name of one of
    transformers is another class, and takes nobody's place."""
    if isinstance(key, type) and not key.__module__.startswith("transformers."):
        return None
    mine = mapping._extra_content.pop(key)
    try:
        found: type | None = mapping[key] if key in mapping else None  # noqa: SIM401  (its `get` finds nothing)
        return found
    finally:
        mapping._extra_content[key] = mine


def _name(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _raised(error: BaseException) -> str:
    """What an import raised, in one line: `NameError: name 'nm' is not defined (architecture.py, line 9)`."""
    reason = str(error).strip().partition("\n")[0]
    said = reason if isinstance(error, ImportError) else f"{type(error).__name__}: {reason}".removesuffix(": ")
    # The innermost module that was being imported; a SyntaxError's is in its text.
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
    return f"{said} ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else said
