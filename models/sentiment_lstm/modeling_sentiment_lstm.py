"""A bidirectional LSTM encoder and classifier whose cost and result depend on real tokens only.

Shapes: `B` batch, `L` length, `T` real tokens, `E` embedding width, `D` hidden width of both directions, `S` texts.

A batch comes in one of two forms. Padded: `input_ids_BL` and `attention_mask_BL` (left, right or no padding). Packed:
`input_ids` of shape (1, T), the texts one after another, with int32 `cu_seq_lens_q` of shape (S + 1). Both become the same flat
row of real tokens, which the LSTM reads step by step: all first tokens, all second tokens, ...

    texts     a b c | d | e f       cu_seq_lens_q 0 3 4 6
    LSTM reads a e d, b f, c        longest text first; batch sizes 3 2 1
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_sentiment_lstm import SentimentLstmConfig


@dataclass(frozen=True)
class Texts:
    """Where each text's tokens lie in the flat row, and the order in which the LSTM reads them.

    `lengths_S` (0 for an empty text), `text_T`: the token's text, `read_T`: the flat index of the n-th token read,
    `batch_sizes`: texts that have a first, second, ... token (int64, on the CPU as PackedSequence wants it).
    """

    lengths_S: torch.Tensor
    text_T: torch.Tensor
    read_T: torch.Tensor
    batch_sizes: torch.Tensor

    @classmethod
    def of_lengths(cls, lengths_S: torch.Tensor, *, device: torch.device) -> "Texts":
        """`lengths_S`: int64, on the CPU. The indices are made there, so that a GPU is waited for only once."""
        starts_S = lengths_S.cumsum(0) - lengths_S
        order_S = lengths_S.argsort(descending=True, stable=True)
        steps_L1 = torch.arange(int(lengths_S.amax())).unsqueeze(1)
        present_LS = steps_L1 < lengths_S[order_S]
        read_T = (starts_S[order_S] + steps_L1)[present_LS]
        text_T = torch.repeat_interleave(lengths_S)
        return cls(lengths_S.to(device), text_T.to(device), read_T.to(device), present_LS.sum(1))


class SentimentLstmEncoder(nn.Module):
    """Dropout on the embeddings, then the LSTM, text by text."""

    def __init__(self, config: SentimentLstmConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size,
            num_layers=config.num_hidden_layers,
            dropout=config.hidden_dropout_prob if config.num_hidden_layers > 1 else 0.0,
            bidirectional=True,
            batch_first=True,
        )

    def forward(self, embeddings_TE: torch.Tensor, texts: Texts) -> torch.Tensor:
        """(T, E) -> (T, D)."""
        if len(embeddings_TE) == 0:  # the LSTM refuses a batch of empty texts
            return embeddings_TE.new_zeros(0, 2 * self.lstm.hidden_size)
        read = PackedSequence(self.dropout(embeddings_TE)[texts.read_T], texts.batch_sizes)
        hidden_TD = self.lstm(read)[0].data
        return torch.empty_like(hidden_TD).index_copy(0, texts.read_T, hidden_TD)


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


class SentimentLstmPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what the library may do with this family."""

    config: SentimentLstmConfig
    base_model_prefix = "lstm"
    supports_gradient_checkpointing = False
    _no_split_modules = ["SentimentLstmEncoder"]
    _supports_packed = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """The base class' initialisation, and for the LSTM: recurrent weights orthogonal for each gate (Saxe et al. 2013,
        https://arxiv.org/abs/1312.6120), forget bias 1 (Jozefowicz et al. 2015, section 2.2)."""
        super()._init_weights(module)
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                # A slice loses the mark of a loaded tensor, so `init` can't see that it must leave it alone.
                if getattr(parameter, "_is_hf_initialized", False):
                    continue
                gates = parameter.chunk(4)  # input, forget, cell, output
                if name.startswith("weight_hh"):
                    for gate in gates:
                        init.orthogonal_(gate)
                elif name.startswith("bias_ih"):
                    init.ones_(gates[1])


class SentimentLstmModel(SentimentLstmPreTrainedModel):
    """Embeddings, LSTM, pooling."""

    def __init__(self, config: SentimentLstmConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.encoder = SentimentLstmEncoder(config)
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
        inputs = inputs_embeds if input_ids is None else input_ids
        assert inputs is not None
        is_token_BL, lengths_S = _find_tokens(inputs, attention_mask, cu_seq_lens_q)
        texts = Texts.of_lengths(lengths_S, device=inputs.device)
        tokens = inputs[is_token_BL]
        embeddings_TE = self.embeddings(tokens) if inputs_embeds is None else tokens
        hidden_TD = self.encoder(embeddings_TE, texts)
        hidden_BLD = hidden_TD.new_zeros(*is_token_BL.shape, hidden_TD.shape[1])
        hidden_BLD[is_token_BL] = hidden_TD
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=self.pooler(hidden_TD, texts))


class SentimentLstmForSequenceClassification(SentimentLstmPreTrainedModel):
    """The encoder with a linear layer on its pooled output."""

    def __init__(self, config: SentimentLstmConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.lstm = SentimentLstmModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(4 * config.hidden_size, config.num_labels)
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
        outputs = self.lstm(
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


def _find_tokens(
    inputs: torch.Tensor, attention_mask: torch.Tensor | None, cu_seq_lens_q: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which places of the (B, L) input hold a token (bool), and each text's number of tokens (int64, on the CPU)."""
    shape = inputs.shape[:2]
    if cu_seq_lens_q is not None:
        cu_seq_lens = cu_seq_lens_q.to("cpu", torch.int64)
        places = torch.arange(shape[1], device=inputs.device).unsqueeze(0)
        return places < int(cu_seq_lens[-1]), cu_seq_lens.diff()
    if attention_mask is None:
        return torch.ones(shape, dtype=torch.bool, device=inputs.device), torch.full((shape[0],), shape[1])
    if attention_mask.shape != shape:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, but the ids have {tuple(shape)}")
    is_token_BL = attention_mask.bool()
    return is_token_BL, is_token_BL.sum(1).cpu()


__all__ = ["SentimentLstmForSequenceClassification", "SentimentLstmModel", "SentimentLstmPreTrainedModel"]
