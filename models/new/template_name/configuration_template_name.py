"""Configuration of `template_name`."""

import difflib

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class TemplateNameConfig(PreTrainedConfig):
    """Sizes and rates. Three labels unless `num_labels` or `id2label` says otherwise."""

    model_type = "template_name"
    # Fields that must be at least 1.
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings")
    # Fields that must be at least 0 and below 1.
    rates = ("hidden_dropout_prob", "classifier_dropout")

    vocab_size: int = 12000
    hidden_size: int = 256
    num_hidden_layers: int = 2
    hidden_dropout_prob: float | int = 0.1
    classifier_dropout: float | int = 0.1
    initializer_range: float = 0.05
    layer_norm_eps: float = 1e-6
    # This model has no limit of its own: it is the length that a server truncates to.
    max_position_embeddings: int = 512
    pad_token_id: int | None = 0
    # The folder of `tokenizers_store/` that this checkpoint was trained with; None: the tokenizer lies beside the weights.
    tokenizer_name: str | None = None

    def __post_init__(self, **kwargs: object) -> None:
        _refuse_unknown_fields(type(self), kwargs)
        if self.id2label is None:
            kwargs.setdefault("num_labels", 3)
        super().__post_init__(**kwargs)

    def to_diff_dict(self) -> dict[str, object]:
        """Adds the labels, which the base class leaves out where they are its own default: two, without names."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    def validate_sizes(self) -> None:
        for field in self.sizes:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, but it must be at least 1")

    def validate_rates(self) -> None:
        for field in self.rates:
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(f"{field} is {getattr(self, field)}, but it must be at least 0 and below 1")

    def validate_padding(self) -> None:
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id {self.pad_token_id} is not an id below vocab_size {self.vocab_size}")


# What transformers passes beside the declared fields: its own bookkeeping, and names that map to a field.
LIBRARY_FIELDS = frozenset(
    {
        "attn_implementation",
        "_attn_implementation",
        "_commit_hash",
        "_name_or_path",
        "name_or_path",
        "auto_map",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "model_type",
        "output_attentions",
        "torch_dtype",
        "use_cache",  # Trainer sets it on every config
        "experts_implementation",
        "_experts_implementation",
    }
)


def _refuse_unknown_fields(config_class: type[PreTrainedConfig], fields: dict[str, object]) -> None:
    """ValueError for a misspelt field, which the base class would silently store."""
    known = set(config_class.__dataclass_fields__) | LIBRARY_FIELDS
    for field in fields:
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{config_class.__name__} has no field {field!r}{hint}")


__all__ = ["TemplateNameConfig"]
