"""A gated convolutional classifier: each token sees a window, and no text sees another."""

from models.gated_conv.configuration_gated_conv import GatedConvConfig
from models.gated_conv.modeling_gated_conv import (
    GatedConvForSequenceClassification,
    GatedConvModel,
    GatedConvPreTrainedModel,
)

__all__ = [
    "GatedConvConfig",
    "GatedConvForSequenceClassification",
    "GatedConvModel",
    "GatedConvPreTrainedModel",
]
