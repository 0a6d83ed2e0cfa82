"""Configuration of the custom BERT encoder."""

import difflib

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Each pattern, and the fields `attention_*` that it reads.
ATTENTION_PATTERNS: dict[str, tuple[str, ...]] = {
    "full": (),
    "window": ("window",),
    "strided": ("stride",),
    "random": ("random_blocks",),
    "bigbird": ("window", "random_blocks", "global_tokens"),
}


@strict
class CustomBertConfig(PreTrainedConfig):
    """Sizes and rates of a post-norm BERT encoder (Devlin et al. 2018, https://arxiv.org/abs/1810.04805).

    The defaults are MiniLM-L6's sizes: 6 layers, 384 wide, 12 heads.

    >>> CustomBertConfig(num_hidden_layer=4)
    Traceback (most recent call last):
    ValueError: CustomBertConfig has no field 'num_hidden_layer'; did you mean 'num_hidden_layers'?
    """

    model_type = "valence_bert"

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
    tie_word_embeddings: bool = True  # the masked language model scores tokens by their embeddings
    # Which tokens a token sees (ATTENTION_PATTERNS): one name for all layers, or a list with one for each.
    attention_pattern: str | list[str] = "full"
    attention_window: int = 128  # window, bigbird: a token sees those less than this many tokens away
    attention_stride: int = 64  # strided: a token sees itself and those whose place in the text is a multiple of this
    attention_random_blocks: int = 2  # random, bigbird: a token sees this many blocks of 64 tokens
    attention_global_tokens: int = 1  # bigbird: this many first tokens see all, and all see them
    attention_seed: int = 0  # random, bigbird: which blocks are drawn
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

    def validate_attention_pattern(self) -> None:
        names = self.attention_pattern if isinstance(self.attention_pattern, list) else [self.attention_pattern]
        for name in names:
            if name not in ATTENTION_PATTERNS:
                near = difflib.get_close_matches(name, ATTENTION_PATTERNS, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(ATTENTION_PATTERNS)}"
                raise ValueError(f"there is no attention_pattern {name!r}{hint}")
        if len(names) != self.num_hidden_layers and isinstance(self.attention_pattern, list):
            raise ValueError(f"attention_pattern names {len(names)} layers, but num_hidden_layers is {self.num_hidden_layers}")

    def validate_attention_sizes(self) -> None:
        for name in ("attention_window", "attention_stride", "attention_random_blocks", "attention_global_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is less than 1")
        if self.attention_seed < 0:
            raise ValueError(f"attention_seed {self.attention_seed} is less than 0")

    def layer_pattern(self, layer: int) -> dict[str, int] | None:
        """What the attention backend "sparse" is told in this layer; None: every token sees every token.

        >>> CustomBertConfig(attention_pattern="window").layer_pattern(0)
        {'window': 128}
        """
        name = self.attention_pattern if isinstance(self.attention_pattern, str) else self.attention_pattern[layer]
        fields = {part: getattr(self, f"attention_{part}") for part in ATTENTION_PATTERNS[name]}
        if "random_blocks" in fields:  # other blocks in every layer
            fields["seed"] = self.attention_seed + layer
        return fields or None


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
