"""The tiny checkpoints as the service knows them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from service.catalog import ServedModel, load_catalog
from service.settings import Settings

KEYWORD_MODULE = "examples.keyword_pooling.architecture"
Serve = Callable[..., Settings]


@pytest.fixture
def settings_of(checkpoints: Mapping[str, Path]) -> Serve:
    """Settings that serve the tiny checkpoints, with other fields as given."""

    def make(**fields: object) -> Settings:
        models = tuple(f"{name}={folder}" for name, folder in checkpoints.items())
        return Settings(**{"models": models, "import_modules": (KEYWORD_MODULE,), "device": "cpu", **fields})

    return make


@pytest.fixture
def catalog(settings_of: Serve) -> Mapping[str, ServedModel]:
    return {served.name: served for served in load_catalog(settings_of())}
