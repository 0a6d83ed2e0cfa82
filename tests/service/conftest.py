"""The tiny checkpoints as the service knows them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from models.custom_bert import CustomBertConfig, CustomBertForSequenceClassification
from models.int8.__main__ import main as prepare_int8
from service.served.catalog import ServedModel, load_catalog
from service.settings import Settings
from tokenizers_store.training import train_tokenizer

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


@pytest.fixture
def wide_bert(training_texts: tuple[str, ...], tmp_path: Path) -> ServedModel:
    """A BERT wide enough for int8, with its ranges."""
    torch.manual_seed(0)
    config = CustomBertConfig(
        vocab_size=2000, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, initializer_range=0.1
    )
    CustomBertForSequenceClassification(config).save_pretrained(tmp_path)
    train_tokenizer(training_texts, kind="wordpiece", vocab_size=300, show_progress=False).save_pretrained(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(training_texts), encoding="utf-8")
    assert prepare_int8([str(tmp_path), "--texts", str(tmp_path / "texts.txt")]) == 0
    (served,) = load_catalog(Settings(models=(f"wide={tmp_path}",), dtype="int8"))
    return served
