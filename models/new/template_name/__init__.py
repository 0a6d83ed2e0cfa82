"""TODO: one line that says what `template_name` is."""

from models.new.template_name.configuration_template_name import TemplateNameConfig
from models.new.template_name.modeling_template_name import (
    TemplateNameForSequenceClassification,
    TemplateNameModel,
    TemplateNamePreTrainedModel,
)

__all__ = [
    "TemplateNameConfig",
    "TemplateNameForSequenceClassification",
    "TemplateNameModel",
    "TemplateNamePreTrainedModel",
]
