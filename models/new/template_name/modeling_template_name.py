"""`template_name`: TODO. As it stands it is a deep averaging network (Iyyer et al. 2015, https://aclanthology.org/P15-1162):
layers that look at one token each, and the mean over a text's tokens. Put your own layers in `TemplateNameLayer`.

Shapes: `B` batch, `L` length, `T` places of a batch, `D` width, `S` texts.

A batch comes in one of two forms. Padded: `input_ids_BL` and `attention_mask_BL` (left, right or no padding). Packed:
`input_ids` of shape (1, T), the texts one after another, with int32 `cu_seq_lens_q` of shape (S + 1). Both become the same flat
row of T places, each of which belongs to a text or to none:

    padded  a b c      packed  a b c d    cu_seq_lens_q 0 3 4
            d . .
    text_T  0 0 0 1 2 2        0 0 0 1    2 texts: 2 is none
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_template_name import TemplateNameConfig


@dataclass(frozen=True)
class Texts:
    """`text_T`: the index of each place's text; where there is no token, the number of texts. `lengths_S`: how many tokens each
    text has."""

    text_T: torch.Tensor
    lengths_S: torch.Tensor

    @classmethod
    def of_pack(cls, cu_seq_lens: torch.Tensor, *, places: int) -> "Texts":
        """A place belongs to the first text that ends after it; an empty text has none."""
        place_T = torch.arange(places, dtype=cu_seq_lens.dtype, device=cu_seq_lens.device)
        return cls(torch.bucketize(place_T, cu_seq_lens[1:], right=True), cu_seq_lens.diff())

    @classmethod
    def of_padded(cls, shape: tuple[int, int], attention_mask: torch.Tensor | None, *, device: torch.device) -> "Texts":
        """Raises ValueError when the mask has another shape than the ids."""
        text_BL = torch.arange(shape[0], device=device).unsqueeze(1).expand(shape)
        if attention_mask is not None:
            if attention_mask.shape != shape:
                raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, but the ids have {shape}")
            text_BL = text_BL.masked_fill(attention_mask == 0, shape[0])
        return cls(text_BL.reshape(-1), (text_BL < shape[0]).sum(1))

    def is_token_T1(self) -> torch.Tensor:
        return (self.text_T < len(self.lengths_S)).unsqueeze(1)


class TemplateNameLayer(nn.Module):
    """One layer. It sees every place of the batch; a layer that mixes tokens must mix those of one text only (`texts`)."""

    def __init__(self, config: TemplateNameConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_TD: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, D) -> (T, D)."""
        return hidden_TD + self.dropout(nn.functional.gelu(self.dense(self.norm(hidden_TD))))


class TemplateNamePooler(nn.Module):
    """The mean over a text's tokens; zeros for an empty text."""

    def forward(self, hidden_TD: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, D) -> (S, D)."""
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)  # a sum in bfloat16 would lose a long text's last tokens
        zeros = hidden_TD.new_zeros(len(texts.lengths_S) + 1, hidden_TD.shape[1], dtype=wide)
        sum_SD = zeros.index_add(0, texts.text_T, hidden_TD.to(wide))[:-1]
        return (sum_SD / texts.lengths_S.clamp(min=1).unsqueeze(1)).to(hidden_TD.dtype)


class TemplateNamePreTrainedModel(PreTrainedModel):
    """What the library may do with this family. The base class draws the weights; extend `_init_weights` for modules that hold
    parameters or unsaved buffers of their own."""

    config: TemplateNameConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = False
    _no_split_modules = ["TemplateNameLayer"]
    _supports_packed = True


class TemplateNameModel(TemplateNamePreTrainedModel):
    """Embeddings, layers, pooling."""

    def __init__(self, config: TemplateNameConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.layers = nn.ModuleList([TemplateNameLayer(config) for _ in range(config.num_hidden_layers)])
        self.pooler = TemplateNamePooler()
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
        """`last_hidden_state` (B, L, D), zero at padding, and `pooler_output` (B, D); packed (1, T, D) and (S, D).

        `attention_mask` is 1 for a token and 0 for padding, None where there is no padding; `token_type_ids` and `position_ids`
        are taken and ignored. Raises ValueError unless exactly one of `input_ids` and `inputs_embeds` is given, or when the
        mask has another shape than the ids.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        embeddings_BLD = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        shape = (embeddings_BLD.shape[0], embeddings_BLD.shape[1])
        if cu_seq_lens_q is None:
            texts = Texts.of_padded(shape, attention_mask, device=embeddings_BLD.device)
        else:
            texts = Texts.of_pack(cu_seq_lens_q, places=shape[1])
        hidden_TD = self.dropout(embeddings_BLD.flatten(0, 1))
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, texts)
        hidden_TD = hidden_TD * texts.is_token_T1()
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_TD.unflatten(0, shape),
            pooler_output=self.pooler(hidden_TD, texts),
        )


class TemplateNameForSequenceClassification(TemplateNamePreTrainedModel):
    """The encoder with a linear layer on its pooled output."""

    def __init__(self, config: TemplateNameConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.encoder = TemplateNameModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
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
    "TemplateNameForSequenceClassification",
    "TemplateNameModel",
    "TemplateNamePreTrainedModel",
]
