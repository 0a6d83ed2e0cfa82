"""Why a model is not served, in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError


class CatalogError(ValueError):
    """A model can't be served; the message names the file and the reason, for the operator."""


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Whatever is raised inside is a CatalogError that names `file`: code of others reads it, and may raise anything."""
    try:
        yield
    except (CatalogError, MemoryError):
        raise
    except Exception as error:
        raise CatalogError(f"{file}: {reason(error)}") from error


def check_readable(path: Path) -> None:
    """CatalogError where this process may not read a file or list a folder: libraries say "No such file" of it."""
    try:
        if path.is_dir():
            os.listdir(path)
        else:
            path.open("rb").close()
    except PermissionError as error:
        raise CatalogError(f"{path}: {error.strerror}; let the user that runs the service read it: chmod -R a+rX") from error
    except OSError as error:
        raise CatalogError(f"{path}: {error.strerror}") from error


def reason(error: BaseException) -> str:
    """One line. A config's validators put what is wrong last, after "ValueError: "; other errors say it first. What is no error
    of input keeps its name."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    if not lines:
        return type(error).__name__
    if isinstance(error, StrictDataclassError):
        return lines[-1].partition("Error: ")[2] or lines[-1]
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    if isinstance(error, KeyError):
        return f"no {lines[0]} in it"
    known = isinstance(error, OSError | ValueError | ImportError | RuntimeError) or type(error) is Exception
    return lines[0] if known else f"{type(error).__name__}: {lines[0]}"
