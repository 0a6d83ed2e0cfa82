"""The table of architectures and the Auto classes."""

from pathlib import Path

import pytest
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import models
from models.registration import ARCHITECTURES, register_architectures


def test_table_has_a_row_for_every_folder():
    folders = {path.parent.name for path in Path(models.__file__).parent.glob("*/configuration_*.py")}
    assert {config.__module__.split(".")[1] for config, _, _ in ARCHITECTURES} == folders


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row[0].model_type)
class TestRow:
    def test_auto_classes_know_it(self, row):
        config_class, base_model, classifier = row
        register_architectures()
        config = AutoConfig.for_model(config_class.model_type)
        assert type(config) is config_class
        assert AutoModel._model_mapping[config_class] is base_model
        assert AutoModelForSequenceClassification._model_mapping[config_class] is classifier

    def test_model_type_is_not_the_librarys(self, row):
        assert row[0].model_type not in CONFIG_MAPPING_NAMES

    def test_classes_belong_together(self, row):
        config_class, base_model, classifier = row
        assert base_model.config_class is classifier.config_class is config_class
        assert base_model.base_model_prefix == classifier.base_model_prefix


def test_registering_twice_changes_nothing():
    register_architectures()
    before = [AutoModel._model_mapping[config] for config, _, _ in ARCHITECTURES]
    register_architectures()
    assert [AutoModel._model_mapping[config] for config, _, _ in ARCHITECTURES] == before


def test_packed_attention_is_registered():
    register_architectures()
    assert "packed" in AttentionInterface().valid_keys()
