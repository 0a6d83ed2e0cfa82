"""A convolutional encoder and classifier whose layers are depthwise convolutions and gated linear units.

A layer mixes each channel over a window of tokens (depthwise-separable convolution: Kaiser et al. 2017,
https://arxiv.org/abs/1706.03059), then the channels of each token by a gated linear unit (Dauphin et al. 2016,
https://arxiv.org/abs/1612.08083), in a pre-norm residual branch. A text is the maximum of its tokens beside their mean; taking
the maximum over time is Kim's (2014, https://arxiv.org/abs/1408.5882).

Shapes: `B` batch, `L` length, `T` places of a batch, `E` embedding width, `D` width, `K` window, `R` rows with gaps, `S` texts.

A batch comes in one of two forms. Padded: `input_ids_BL` and `attention_mask_BL` (left, right or no padding). Packed:
`input_ids` of shape (1, T), the texts one after another, with int32 `cu_seq_lens_q` of shape (S + 1). Both become the same flat
row of T places, each of which belongs to a text or to none. Before a convolution zeros are put between the texts. So a window
that reaches beyond its text meets zeros, whatever the next text is:

    packed     a b c | d | e f            cu_seq_lens_q 0 3 4 6
    text_T     0 0 0   1   2 2
    K = 3      0 a b c 0 d 0 e f 0        gap 1
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_gated_conv import GatedConvConfig


@dataclass(frozen=True)
class Texts:
    """Where the texts of a batch lie. `text_T`: the index of each place's text; where there is no token, the number of texts.
    `run_T`: how many texts, or rows of padded input, end before the place. `lengths_S`: how many tokens each text has."""

    text_T: torch.Tensor
    run_T: torch.Tensor
    lengths_S: torch.Tensor

    @classmethod
    def of_pack(cls, cu_seq_lens: torch.Tensor, *, places: int) -> "Texts":
        """A place belongs to the first text that ends after it; an empty text has none. The host waits for no value."""
        place_T = torch.arange(places, dtype=cu_seq_lens.dtype, device=cu_seq_lens.device)
        text_T = torch.bucketize(place_T, cu_seq_lens[1:], right=True)
        return cls(text_T, text_T, cu_seq_lens.diff())

    @classmethod
    def of_padded(cls, shape: tuple[int, int], attention_mask: torch.Tensor | None, *, device: torch.device) -> "Texts":
        """Raises ValueError when the mask has another shape than the ids."""
        row_BL = torch.arange(shape[0], device=device).unsqueeze(1).expand(shape)
        text_BL = row_BL
        if attention_mask is not None:
            if attention_mask.shape != shape:
                raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, but the ids have {shape}")
            text_BL = row_BL.masked_fill(attention_mask == 0, shape[0])
        return cls(text_BL.reshape(-1), row_BL.reshape(-1), (text_BL < shape[0]).sum(1))

    def is_token_T1(self) -> torch.Tensor:
        return (self.text_T < len(self.lengths_S)).unsqueeze(1)

    def spread(self, hidden_TD: torch.Tensor, *, gap: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, D) -> (R, D) with `gap` zeros before, between and behind the texts, and zeros where there is no token; and the row
        of each place."""
        row_T = torch.arange(len(hidden_TD), device=hidden_TD.device) + gap * (self.run_T + 1)
        rows = len(hidden_TD) + gap * (len(self.lengths_S) + 2)  # one more for the tokens after a pack's last text
        spread_RD = hidden_TD.new_zeros(rows, hidden_TD.shape[1])
        return spread_RD.index_copy(0, row_T, hidden_TD * self.is_token_T1()), row_T


class GatedConvConvolution(nn.Module):
    """Depthwise: output t of a channel is the sum of its window t - K // 2 ... t + K // 2, weighted for each channel.

    It is a sum of K shifted products: torch would compile a convolution anew for each number of tokens that a batch can have."""

    def __init__(self, config: GatedConvConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.kernel_size, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, hidden_TD: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, D) -> (T, D)."""
        gap = len(self.weight) // 2
        spread_RD, row_T = texts.spread(hidden_TD, gap=gap)
        middles = len(spread_RD) - 2 * gap
        mixed = self.bias.expand(middles, -1)
        for offset, weight_D in enumerate(self.weight):
            mixed = torch.addcmul(mixed, spread_RD[offset : offset + middles], weight_D)
        return mixed[row_T - gap]


class GatedConvLayer(nn.Module):
    """Convolution over tokens, then a gated linear unit over channels: value * sigmoid(gate)."""

    def __init__(self, config: GatedConvConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.convolution = GatedConvConvolution(config)
        self.value_gate = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_TD: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, D) -> (T, D)."""
        mixed_TD = self.convolution(self.norm(hidden_TD), texts)
        return hidden_TD + self.dropout(self.output(nn.functional.glu(self.value_gate(mixed_TD))))


class MaxMeanPooler(nn.Module):
    """The maximum over a text's tokens beside their mean; zeros for an empty text."""

    def forward(self, hidden_TD: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, D) -> (S, 2 D)."""
        zeros = hidden_TD.new_zeros(len(texts.lengths_S) + 1, hidden_TD.shape[1])  # the last row for places of no text
        text_TD = texts.text_T.unsqueeze(1).expand_as(hidden_TD)
        maximum_SD = zeros.scatter_reduce(0, text_TD, hidden_TD, "amax", include_self=False)[:-1]
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)  # a sum in bfloat16 would lose a long text's last tokens
        sum_SD = zeros.to(wide).index_add(0, texts.text_T, hidden_TD.to(wide))[:-1]
        mean_SD = sum_SD / texts.lengths_S.clamp(min=1).unsqueeze(1)
        return torch.cat([maximum_SD, mean_SD.to(maximum_SD.dtype)], dim=1)


class GatedConvPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what the library may do with this family."""

    config: GatedConvConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = False
    _no_split_modules = ["GatedConvLayer"]
    _supports_packed = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The base class' initialisation, and kernels whose output has the spread of their input."""
        super()._init_weights(module)
        if isinstance(module, GatedConvConvolution):
            init.normal_(module.weight, std=len(module.weight) ** -0.5)
            init.zeros_(module.bias)


class GatedConvModel(GatedConvPreTrainedModel):
    """Embeddings and their projection, layers, pooling."""

    def __init__(self, config: GatedConvConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.projection = nn.Linear(config.embedding_size, config.hidden_size)
        self.layers = nn.ModuleList([GatedConvLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = MaxMeanPooler()
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """`last_hidden_state` (B, L, D), zero at padding, and `pooler_output` (B, 2 D); packed (1, T, D) and (S, 2 D).

        `attention_mask` is 1 for a token and 0 for padding, None where there is no padding; `token_type_ids` and `position_ids`
        are taken and ignored. Raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given, or when the
        mask has another shape than the ids.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        embeddings_BLE = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        shape = (embeddings_BLE.shape[0], embeddings_BLE.shape[1])
        if cu_seq_lens_q is None:
            texts = Texts.of_padded(shape, attention_mask, device=embeddings_BLE.device)
        else:
            texts = Texts.of_pack(cu_seq_lens_q, places=shape[1])
        hidden_TD = self.projection(self.dropout(embeddings_BLE.flatten(0, 1)))
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, texts)
        hidden_TD = self.norm(hidden_TD) * texts.is_token_T1()
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_TD.unflatten(0, shape),
            pooler_output=self.pooler(hidden_TD, texts),
        )


class GatedConvForSequenceClassification(GatedConvPreTrainedModel):
    """The encoder with a linear layer on its pooled output."""

    def __init__(self, config: GatedConvConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = GatedConvModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
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
        outputs = self.encoder(
            input_ids,
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
        return SequenceClassifierOutput(loss=loss, logits=logits)


__all__ = [
    "GatedConvForSequenceClassification",
    "GatedConvModel",
    "GatedConvPreTrainedModel",
]
