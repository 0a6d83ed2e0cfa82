"""BERT written from scratch."""

from models.custom_bert.configuration_custom_bert import CustomBertConfig
from models.custom_bert.modeling_custom_bert import (
    CustomBertForMaskedLM,
    CustomBertForSequenceClassification,
    CustomBertModel,
    CustomBertPreTrainedModel,
)

__all__ = [
    "CustomBertConfig",
    "CustomBertForMaskedLM",
    "CustomBertForSequenceClassification",
    "CustomBertModel",
    "CustomBertPreTrainedModel",
]
