"""Makes every architecture known to the Auto classes."""

import importlib
from collections.abc import Sequence

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from models.attention.packed import register_packed_attention
from models.attention.sparse import register_sparse_attention
from models.custom_bert import (
    CustomBertConfig,
    CustomBertForMaskedLM,
    CustomBertForSequenceClassification,
    CustomBertModel,
)
from models.gated_conv import GatedConvConfig, GatedConvForSequenceClassification, GatedConvModel
from models.sentiment_lstm import SentimentLstmConfig, SentimentLstmForSequenceClassification, SentimentLstmModel

# One row for each architecture folder: configuration, base model, classifier.
ARCHITECTURES: tuple[tuple[type[PreTrainedConfig], type[PreTrainedModel], type[PreTrainedModel]], ...] = (
    (CustomBertConfig, CustomBertModel, CustomBertForSequenceClassification),
    (SentimentLstmConfig, SentimentLstmModel, SentimentLstmForSequenceClassification),
    (GatedConvConfig, GatedConvModel, GatedConvForSequenceClassification),
)


def register_architectures() -> None:
    """Registers `ARCHITECTURES` and the attention backends "packed" and "sparse"; calling it again changes nothing.

    >>> register_architectures()
    >>> type(AutoConfig.for_model("valence_bert")).__name__
    'CustomBertConfig'
    """
    register_packed_attention()
    register_sparse_attention()
    for config, base_model, classifier in ARCHITECTURES:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, base_model, exist_ok=True)
        AutoModelForSequenceClassification.register(config, classifier, exist_ok=True)
    AutoModelForMaskedLM.register(CustomBertConfig, CustomBertForMaskedLM, exist_ok=True)


def register(modules: Sequence[str] = ()) -> None:
    """This project's architectures, and those of a user's modules. ImportError for a module that is not there."""
    register_architectures()
    for module in modules:
        importlib.import_module(module)
