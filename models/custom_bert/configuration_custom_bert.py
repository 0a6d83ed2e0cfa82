"""Configuration of the custom BERT encoder."""

import difflib

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class CustomBertConfig(PreTrainedConfig):
    """Sizes and rates of a post-norm BERT encoder (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    The defaults are MiniLM-L6's sizes: 6 layers, 384 wide, 12 heads.

    >>> CustomBertConfig(num_hidden_layer=4)
    Traceback (most recent call last):
    ValueError: CustomBertConfig has no field 'num_hidden_layer'; did you mean 'num_hidden_layers'?
    """

    model_type = "custom_bert"

    vocab_size: int = 20000
    hidden_size: int = 384
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    classifier_dropout: float | int | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    # The folder of `tokenizers_store/` that this checkpoint was trained with; None: the tokenizer lies beside the weights.
    tokenizer_name: str | None = None

    def __post_init__(self, **kwargs: object) -> None:
        _refuse_unknown_fields(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_heads_divide_width(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )


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


__all__ = ["CustomBertConfig"]
