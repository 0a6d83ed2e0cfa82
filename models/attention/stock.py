"""Packed input for encoder classifiers that know nothing of it: the ones that transformers ships, and classes derived from them.

Their layers call transformers' attention interface, so the backend "packed" serves them as they are. Hooks do the rest. A head
reads the first token of each *row*, but a pack is one row: a hook cuts the encoder's last hidden state (1, T, D) to the first
token of each text, (S, 1, D), before pooler and head see it. RoBERTa's kin count positions from `padding_idx + 1`: a hook adds
that.

An architecture may need more than that, and its class does not say so. So it is tried out on the loaded model: where the scores
of a pack are not those of its texts alone, the model keeps to padded batches.
"""

import copy
import logging
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from .packed import NAME

log = logging.getLogger(__name__)

# The part of a base model whose output is the last hidden state, as transformers' encoders name it.
LAST_PARTS = ("encoder", "transformer", "final_norm", "norm")
# One is longer than the windows of local attention (ModernBERT's reaches 64 tokens either way), and two have one length.
TRIAL_LENGTHS = (3, 17, 17, 150)
# How far the scores of a pack may be from those of its texts alone, as a part of the largest logit: rounding in float32.
TOLERANCE = 1e-3


def enable_packing(model: PreTrainedModel) -> bool:
    """Lets `model` take packed batches with the attention backend "packed"; padded ones still work with any other. (The module
    `modeling_custom_bert` says what form a pack has.)

    Returns False, and leaves the model as it was, where that fails or changes a score. It is tried on a float32 copy.
    """
    if not getattr(type(model), "_supports_attention_backend", False) or _last_part(model) is None:
        return False
    trial = copy.deepcopy(model).float().eval()
    _add_hooks(trial)
    try:
        survived = _scores_survive(trial)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        log.info("%s takes no pack (%s): padded batches", type(model).__name__, type(error).__name__)
        return False
    if survived:
        _add_hooks(model)
    else:
        log.info("a pack changes the scores of %s: padded batches", type(model).__name__)
    return survived


def _last_part(model: PreTrainedModel) -> nn.Module | None:
    parts = (getattr(model.base_model, name, None) for name in LAST_PARTS)
    return None if model.base_model is model else next((part for part in parts if isinstance(part, nn.Module)), None)


def _add_hooks(model: PreTrainedModel) -> None:
    part = _last_part(model)
    assert part is not None
    hooks = _Hooks(position_start=_position_start(model.base_model))
    model.register_forward_pre_hook(hooks.begin, with_kwargs=True)
    part.register_forward_hook(hooks.cut)


class _Hooks:
    """What happens around a forward of a pack; a padded batch passes through."""

    def __init__(self, *, position_start: int) -> None:
        self.position_start = position_start
        self.bounds: torch.Tensor | None = None

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.bounds = kwargs.get("cu_seq_lens_q")
        if self.bounds is not None and self.position_start:
            kwargs = kwargs | {"position_ids": kwargs["position_ids"] + self.position_start}
        return args, kwargs

    def cut(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """(1, T, D) -> (S, 1, D), in whichever container the hidden state comes."""
        if self.bounds is None:
            return output
        if isinstance(output, torch.Tensor):
            return self._first_tokens(output)
        if isinstance(output, tuple):
            return (self._first_tokens(output[0]), *output[1:])
        output.last_hidden_state = self._first_tokens(output.last_hidden_state)
        return output

    def _first_tokens(self, hidden_1TD: torch.Tensor) -> torch.Tensor:
        assert self.bounds is not None
        first_S = self.bounds[:-1].clamp(max=hidden_1TD.shape[1] - 1)  # an empty text at the end begins at T
        return hidden_1TD[0, first_S].unsqueeze(1)


def _position_start(base: nn.Module) -> int:
    """The position of a text's first token."""
    embeddings = getattr(base, "embeddings", None)
    counts_from_padding = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if counts_from_padding else 0  # type: ignore[union-attr]


@torch.inference_mode()
def _scores_survive(model: PreTrainedModel) -> bool:
    """Whether texts of random tokens score alike packed and alone."""
    longest = getattr(model.config, "max_position_embeddings", TRIAL_LENGTHS[-1]) - 2
    lengths = [min(length, longest) for length in TRIAL_LENGTHS]
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, model.config.vocab_size, (1, length), generator=generator) for length in lengths]
    model.set_attn_implementation("sdpa" if getattr(type(model), "_supports_sdpa", False) else "eager")
    alone = torch.cat([model(input_ids=text).logits for text in texts])
    model.set_attn_implementation(NAME)
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    packed = model(
        input_ids=torch.cat(texts, dim=1),
        position_ids=torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0),
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
    ).logits
    return packed.shape == alone.shape and float((packed - alone).abs().max()) <= TOLERANCE * float(alone.abs().max())
