"""Small sizes for the configuration of any architecture, by the names that its fields have.

Windows, blocks and chunks are shorter than the limit of length, so that long texts meet what an architecture does with them.
"""

from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerBase

MAX_LENGTH = 128
LABELS = {0: "negative", 1: "neutral", 2: "positive"}
WIDTH, HEADS, HEAD_WIDTH, LAYERS, INNER = 32, 4, 8, 2, 48
# Fields of one meaning; each is set where a configuration has it.
SIZES: dict[int, tuple[str, ...]] = {
    WIDTH: (
        "hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim", "pooler_hidden_size",
        "input_embedding_size", "output_embedding_size", "true_hidden_size", "pronunciation_embed_dim", "shape_embed_dim",
        "entity_emb_size", "d_latents", "linear_key_head_dim", "linear_value_head_dim", "prediction_head_size",
    ),
    HEADS: (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads",
        "num_self_attention_heads", "num_cross_attention_heads", "linear_num_value_heads", "num_experts", "num_local_experts",
        "n_routed_experts", "index_n_heads", "num_latents", "block_size", "n_mamba_heads",
    ),
    HEAD_WIDTH: (
        "head_dim", "d_kv", "d_head", "attention_head_size", "kv_channels", "v_head_dim", "qk_nope_head_dim", "qk_rope_head_dim",
        "index_head_dim", "coordinate_size", "shape_size", "xpath_unit_hidden_size", "mamba_d_state", "gated_norm_rank",
        "num_landmarks", "local_transformer_stride", "adapter_rank", "num_hash", "hash_code_len",
    ),
    LAYERS: (
        "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_decoder_layers",
        "num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "linear_num_key_heads", "num_self_attends_per_block",
        "num_query_groups", "num_attention_groups",
    ),
    INNER: (
        "intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "d_ff", "dff", "hidden_dim", "d_inner",
        "ffn_hidden_size", "feed_forward_size", "moe_intermediate_size", "shared_expert_intermediate_size",
        "expert_ffn_hidden_size",
    ),
    16: (
        "sliding_window", "local_attention", "window_size", "attention_window", "q_lora_rank", "kv_lora_rank", "qk_head_dim",
        "lsh_attn_chunk_length", "local_attn_chunk_length", "mamba_dt_rank", "mamba_expand_dim", "chunk_size", "index_topk",
        "intra_bottleneck_size", "num_hash_buckets", "mamba_headdim", "keep_window_size", "dim_model_base", "image_size",
        "input_size", "query_pre_attn_scalar",
    ),
    MAX_LENGTH: ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "segment_means_seq_len"),
    100: ("entity_vocab_size",),
    300: ("pronunciation_vocab_size", "shape_vocab_size"),
}  # fmt: skip
NESTED = ("text_config", "vision_config", "encoder", "decoder")
# These count positions from behind the padding token's id, so their tables are longer than what they take.
COUNT_FROM_PADDING = (
    "camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "mra", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "esm", "layoutlmv3",
)  # fmt: skip
# Latent attention has as many keys as queries.
LATENT: dict[str, Any] = {"num_key_value_heads": HEADS, "n_group": 1, "topk_group": 1}
# Where layers are of several kinds, one of each.
STATE_THEN_ATTENTION: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"]}
# What the names do not tell.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "axk1": LATENT,
    "axk2": LATENT,
    "canine": {"num_hash_buckets": MAX_LENGTH},  # of these there are positions too
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "esmc": {"num_key_value_heads": HEADS},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": HEAD_WIDTH},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4},  # four of these and two of `shape_size` make the width
    "lilt": {"hidden_size": 48},  # divisible by 6
    "minicpm3": LATENT,
    "mistral4": {**LATENT, "head_dim": 16},
    "mobilebert": {"intra_bottleneck_size": WIDTH},
    "modernbert-decoder": dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 0),  # it must have them
    "nystromformer": {"segment_means_seq_len": HEAD_WIDTH},  # as many as landmarks, as by default
    "qwen3_5": {"text_config": STATE_THEN_ATTENTION},
    "qwen3_5_text": STATE_THEN_ATTENTION,
    "qwen3_next": STATE_THEN_ATTENTION,
    # It fills up its own chunks, so it has a padding token where its tokenizer has none.
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [8, 24], "pad_token_id": 0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "layers_block_type": ["linear_attention", "hybrid"] * 2},  # two share weights
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}


def tiny_config(model_type: str, tokenizer: PreTrainedTokenizerBase, **given: Any) -> PreTrainedConfig:
    """The configuration of a small classifier for the tokenizer's ids; of three labels, unless `num_labels` is given."""
    kind = CONFIG_MAPPING[model_type]
    fields = tiny_fields(kind().to_dict(), vocab_size=len(tokenizer), tokens=token_ids(tokenizer))
    if model_type in COUNT_FROM_PADDING:
        fields["max_position_embeddings"] += tokenizer.pad_token_id + 1
    if "num_labels" not in given:
        fields |= {"id2label": LABELS, "label2id": {label: index for index, label in LABELS.items()}}
    return kind(**merged(fields, EXCEPTIONS.get(model_type, {})) | given)


def tiny_fields(defaults: Mapping[str, Any], *, vocab_size: int, tokens: Mapping[str, int | None]) -> dict[str, Any]:
    """The fields that are other than by default."""
    fields: dict[str, Any] = {name: size for size, names in SIZES.items() for name in names if name in defaults}
    if "vocab_size" in defaults:
        fields["vocab_size"] = vocab_size
    fields.update({name: token for name, token in tokens.items() if name in defaults})
    if defaults.get("is_encoder_decoder"):
        fields["decoder_start_token_id"] = tokens["decoder_start_token_id"]
    for name in NESTED:
        if isinstance(defaults.get(name), dict):
            fields[name] = tiny_fields(defaults[name], vocab_size=vocab_size, tokens=tokens)
            if "model_type" in defaults[name]:
                fields[name]["model_type"] = defaults[name]["model_type"]
    return fields


def merged(fields: dict[str, Any], exceptions: Mapping[str, Any]) -> dict[str, Any]:
    """`exceptions` over `fields`, in nested configurations too."""
    inner = {name: {**fields[name], **exceptions[name]} for name in NESTED if name in exceptions}
    return {**fields, **exceptions, **inner}


def token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The configuration's ids of special tokens."""
    return {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "cls_token_id": tokenizer.cls_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "decoder_start_token_id": tokenizer.bos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    }
