"""A BERT encoder, classifier and masked language model, written from scratch on transformers' attention interface.

Shapes: `B` batch, `L` length, `T` packed tokens, `D` width, `N` heads, `H` head width, `S` texts in a pack.

A batch comes in one of two forms. Padded: `input_ids_BL` and `attention_mask_BL`. Packed: `input_ids` of shape (1, T), the
texts one after another, with int32 `cu_seq_lens_q/k` of shape (S + 1), int `max_length_q/k` and `position_ids` that restart at
each text; no padding is computed, and pooled outputs have S rows.

A layer with an attention pattern always calls the backend "sparse", which makes masks of its own. Then
`config._attn_implementation` counts for the layers without a pattern only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, find_packed_sequence_indices, packed_sequence_mask_function
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_custom_bert import CustomBertConfig

# Backends that take fewer queries than keys, as `pooled_only` needs.
FIRST_TOKEN_ATTENTION = ("eager", "sdpa", "packed")
SPARSE_ATTENTION = "sparse"


def eager_attention_forward(
    module: nn.Module,
    query_BNLH: torch.Tensor,
    key_BNLH: torch.Tensor,
    value_BNLH: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """softmax(q k^T * scaling + mask) v; returns (B, L, N, H) and the probabilities (B, N, L, L)."""
    scores_BNLL = query_BNLH @ key_BNLH.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores_BNLL = scores_BNLL + attention_mask
    probabilities_BNLL = nn.functional.softmax(scores_BNLL, dim=-1)
    dropped_BNLL = nn.functional.dropout(probabilities_BNLL, p=dropout, training=module.training)
    context_BLNH = (dropped_BNLL @ value_BNLH).transpose(1, 2).contiguous()
    return context_BLNH, dropped_BNLL


class CustomBertEmbeddings(nn.Module):
    """Token + position + token type, normalised."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.position_ids = nn.Buffer(torch.arange(config.max_position_embeddings).unsqueeze(0), persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        embeddings_BLD = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = self.position_ids[:, : embeddings_BLD.shape[1]]
        if token_type_ids is None:  # the first type for every token: one row, broadcast
            token_type_BLD = self.token_type_embeddings.weight[0]
        else:
            token_type_BLD = self.token_type_embeddings(token_type_ids)
        embeddings_BLD = embeddings_BLD + token_type_BLD + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(embeddings_BLD))


class CustomBertSelfAttention(nn.Module):
    """Scaled dot-product attention by whichever backend `config._attn_implementation` names, or by a pattern."""

    def __init__(self, config: CustomBertConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.pattern = config.layer_pattern(layer)
        self.head_size = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_size**-0.5
        self.is_causal = False
        self.dropout_prob = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.query_key_value: nn.Linear | None = None  # `fuse_projections` makes it

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_hidden_BQD: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Context (B, Q, D) of the tokens in `query_hidden_BQD`, which are all tokens unless given."""
        if query_hidden_BQD is None:
            query_hidden_BQD = hidden_BLD
        heads = (self.config.num_attention_heads, self.head_size)
        if self.query_key_value is not None:
            projected = self.query_key_value(hidden_BLD).chunk(3, dim=-1)
        else:
            projected = self.query(query_hidden_BQD), self.key(hidden_BLD), self.value(hidden_BLD)
        query_BNQH, key_BNLH, value_BNLH = (states.unflatten(-1, heads).transpose(1, 2) for states in projected)
        dropout = self.dropout_prob if self.training else 0.0
        context_BQNH, probabilities = self._backend()(
            self, query_BNQH, key_BNLH, value_BNLH, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return context_BQNH.reshape(query_hidden_BQD.shape), probabilities

    def _backend(self) -> Callable[..., Any]:
        if self.pattern is None:
            return ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        if SPARSE_ATTENTION not in ALL_ATTENTION_FUNCTIONS:
            raise ValueError(
                f'attention_pattern {self.config.attention_pattern!r} needs the attention backend "{SPARSE_ATTENTION}", which '
                "models.register_architectures() makes known"
            )
        return partial(ALL_ATTENTION_FUNCTIONS[SPARSE_ATTENTION], pattern=self.pattern)

    def fuse_projections(self) -> None:
        """One matrix product for query, key and value, for inference: the three layers are gone afterwards."""
        layers = (self.query, self.key, self.value)
        self.query_key_value = nn.Linear(self.query.in_features, 3 * self.query.out_features, device=self.query.weight.device)
        self.query_key_value.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in layers]))
        self.query_key_value.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))
        del self.query, self.key, self.value


class CustomBertSelfOutput(nn.Module):
    """Projects the heads' context and adds it to the residual stream, post-norm."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, context_BLD: torch.Tensor, residual_BLD: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(context_BLD)) + residual_BLD)


class CustomBertAttention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: CustomBertConfig, layer: int) -> None:
        super().__init__()
        self.self = CustomBertSelfAttention(config, layer)
        self.output = CustomBertSelfOutput(config)

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_hidden_BQD: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        context_BQD, _ = self.self(hidden_BLD, attention_mask, query_hidden_BQD, **kwargs)
        return self.output(context_BQD, hidden_BLD if query_hidden_BQD is None else query_hidden_BQD)


class CustomBertIntermediate(nn.Module):
    """The feed-forward block's widening half."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden_BLD: torch.Tensor) -> torch.Tensor:
        return self.activation(self.dense(hidden_BLD))


class CustomBertOutput(nn.Module):
    """The feed-forward block's narrowing half, added to the residual stream, post-norm."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, widened: torch.Tensor, residual_BLD: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(widened)) + residual_BLD)


class CustomBertLayer(GradientCheckpointingLayer):
    """Attention, then feed-forward; with `query_hidden_BQD`, for those tokens only: (B, Q, D)."""

    def __init__(self, config: CustomBertConfig, layer: int) -> None:
        super().__init__()
        self.attention = CustomBertAttention(config, layer)
        self.intermediate = CustomBertIntermediate(config)
        self.output = CustomBertOutput(config)

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        query_hidden_BQD: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        attended_BQD = self.attention(hidden_BLD, attention_mask, query_hidden_BQD, **kwargs)
        return self.output(self.intermediate(attended_BQD), attended_BQD)


class CustomBertEncoder(nn.Module):
    """The stack of layers. With `first_tokens_only` the last one computes nothing but the first token of each text: (B, 1, D), or
    (1, S, D) for a pack. This saves most of a layer where only the pooler reads its output."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([CustomBertLayer(config, layer) for layer in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        first_tokens_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        for layer in self.layer[:-1] if first_tokens_only else self.layer:
            hidden_BLD = layer(hidden_BLD, attention_mask, **kwargs)
        if first_tokens_only:
            hidden_BLD = self._last_layer(hidden_BLD, attention_mask, **kwargs)
        return BaseModelOutput(last_hidden_state=hidden_BLD)

    def _last_layer(
        self, hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        """The last layer for the first token of each text, which still attends to all of its text."""
        bounds = kwargs.get("cu_seq_lens_q")
        first_S = (
            torch.zeros(1, dtype=torch.long, device=hidden_BLD.device) if bounds is None else first_tokens(hidden_BLD, bounds)
        )
        if attention_mask is not None:
            attention_mask = attention_mask[:, :, first_S]
        if bounds is not None:  # one query a text
            kwargs |= {"cu_seq_lens_q": torch.arange(len(bounds), dtype=bounds.dtype, device=bounds.device), "max_length_q": 1}
        return self.layer[-1](hidden_BLD, attention_mask, query_hidden_BQD=hidden_BLD[:, first_S], **kwargs)


class CustomBertPooler(nn.Module):
    """tanh(dense(first token of each text))."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, hidden_BLD: torch.Tensor, cu_seq_lens: torch.Tensor | None = None) -> torch.Tensor:
        """(B, L, D) -> (B, D); packed (1, T, D) -> (S, D)."""
        first_BD = hidden_BLD[:, 0] if cu_seq_lens is None else hidden_BLD[0, first_tokens(hidden_BLD, cu_seq_lens)]
        return self.activation(self.dense(first_BD))


def first_tokens(hidden_1TD: torch.Tensor, cu_seq_lens: torch.Tensor) -> torch.Tensor:
    """Where each text of a pack begins (S). An empty text at the end begins at T, past the last token, so its place is clamped;
    nothing reads its row."""
    return cu_seq_lens[:-1].clamp(max=hidden_1TD.shape[1] - 1)


class CustomBertPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what the library may do with this family."""

    config: CustomBertConfig
    base_model_prefix = "bert"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CustomBertEmbeddings", "CustomBertLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _supports_packed = True
    _can_record_outputs = {"hidden_states": CustomBertLayer, "attentions": CustomBertSelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """normal(0, initializer_range) for linear and embedding, zero padding row, LayerNorm ones and zeros: all by the base
        class. The position buffer is not saved, so it is made again after a load on the meta device."""
        super()._init_weights(module)
        if isinstance(module, CustomBertEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).unsqueeze(0))


class CustomBertModel(CustomBertPreTrainedModel):
    """The encoder with a pooler."""

    def __init__(self, config: CustomBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = CustomBertEmbeddings(config)
        self.encoder = CustomBertEncoder(config)
        self.pooler = CustomBertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Padded or packed input as the module's head says; `attention_mask` is 1 for a token and 0 for padding.

        `pooled_only` leaves out what the pooler does not read: `last_hidden_state` then holds first tokens alone, (B, 1, D) or
        (1, S, D).

        Raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given, or when the text is longer than
        `max_position_embeddings`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        self._check_length(input_ids if input_ids is not None else inputs_embeds, position_ids)
        embeddings_BLD = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        patterns = [self.config.layer_pattern(layer) for layer in range(self.config.num_hidden_layers)]
        if any(patterns):
            kwargs["padding_mask"] = attention_mask
        attention_mask = None if all(patterns) else self._make_mask(embeddings_BLD, attention_mask, position_ids, **kwargs)
        pooled_only = pooled_only and self.config._attn_implementation in FIRST_TOKEN_ATTENTION
        encoded = self.encoder(embeddings_BLD, attention_mask, first_tokens_only=pooled_only, position_ids=position_ids, **kwargs)
        hidden_BLD = encoded.last_hidden_state
        if self.pooler is None:
            pooled = None
        elif pooled_only:
            pooled = self.pooler(hidden_BLD.view(-1, 1, hidden_BLD.shape[-1]))
        else:
            pooled = self.pooler(hidden_BLD, kwargs.get("cu_seq_lens_q"))
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=pooled)

    def _check_length(self, inputs: torch.Tensor, position_ids: torch.Tensor | None) -> None:
        if position_ids is None and inputs.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{inputs.shape[1]} tokens exceed max_position_embeddings {self.config.max_position_embeddings}; truncate"
            )

    def _make_mask(
        self,
        embeddings_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor | None:
        """The backend's mask. A backend that does not read `cu_seq_lens` (eager, sdpa) gets a block diagonal for a pack."""
        separate_texts = None
        if kwargs.get("cu_seq_lens_q") is not None and position_ids is not None:
            separate_texts = packed_sequence_mask_function(find_packed_sequence_indices(position_ids))
        return create_bidirectional_mask(
            config=self.config,
            inputs_embeds=embeddings_BLD,
            attention_mask=attention_mask,
            and_mask_function=separate_texts,
        )


class CustomBertForSequenceClassification(CustomBertPreTrainedModel):
    """The encoder with a linear layer on its pooled output."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = CustomBertModel(config)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Logits (B, labels), or (S, labels) for a pack. `labels`: (B) int64 classes, (B) floats for regression, or
        (B, labels) floats for multi-label; the loss follows `config.problem_type`."""
        outputs = self.bert(
            input_ids,
            pooled_only=not self._records(kwargs),
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,  # whatever the configuration says
            **kwargs,
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def fuse_projections(self) -> None:
        """For inference: one matrix product for query, key and value. Not in the last layer, whose queries are first tokens
        only."""
        for layer in self.bert.encoder.layer[:-1]:
            layer.attention.self.fuse_projections()

    def _records(self, kwargs: TransformersKwargs) -> bool:
        """Whether the caller or the configuration asks for hidden states or attentions."""
        asked = (kwargs.get(name, getattr(self.config, name)) for name in ("output_hidden_states", "output_attentions"))
        return any(asked)


class CustomBertPredictions(nn.Module):
    """A dense layer, then a score for each token of the vocabulary, by the embeddings themselves and a bias."""

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, hidden_XD: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., vocabulary)."""
        return self.decoder(self.LayerNorm(self.activation(self.dense(hidden_XD))))


class CustomBertForMaskedLM(CustomBertPreTrainedModel):
    """The encoder with a head that names the tokens behind masks, to pre-train it on text alone (Devlin et al. 2018,
    section 3.1). The output matrix is the embedding table."""

    _tied_weights_keys = {"predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}

    def __init__(self, config: CustomBertConfig) -> None:
        super().__init__(config)
        self.bert = CustomBertModel(config, add_pooling_layer=False)
        self.predictions = CustomBertPredictions(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.predictions.decoder = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Logits (B, L, vocabulary), or (1, T, vocabulary) for a pack. `labels`: (B, L) int64, the hidden token's id, -100 where
        nothing is asked. In training with labels only the tokens asked for are scored, about one in seven; the logits are then
        (asked, vocabulary)."""
        outputs = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if labels is not None and self.training:
            asked_BL = labels != -100
            hidden, labels = hidden[asked_BL], labels[asked_BL]
        logits = self.predictions(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)


__all__ = ["CustomBertForMaskedLM", "CustomBertForSequenceClassification", "CustomBertModel", "CustomBertPreTrainedModel"]
