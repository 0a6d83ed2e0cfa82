"""Attention over packed texts, as the backend "packed" of transformers' attention interface.

`T` tokens of `S` texts lie one after another; `cu_seq_lens` (S + 1, int32) holds where each begins. No text sees another, and
no padding is computed. Kernels of our own do it where they can be built (`kernels`, `models/cpu`). Otherwise torch's
variable-length Flash attention does on CUDA; on CPU each run of texts of equal length is one dense batch, so a batch sorted by
length takes as many calls as it has lengths:

    lengths 5 5 5 9 9  ->  sdpa over (3, N, 5, H), then over (2, N, 9, H)

Queries may be fewer than keys: `cu_seq_lens_q` and `cu_seq_lens_k` cut each of the two (a classifier's last layer asks for the
first token of each text alone). `Q` counts queries, `T` keys.
"""

import logging
from collections.abc import Iterator
from functools import cache
from itertools import groupby, pairwise

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

from models.cpu import attention as cpu
from models.cpu import library

NAME = "packed"
log = logging.getLogger(__name__)


def register_packed_attention() -> None:
    """Makes `attn_implementation="packed"` known to transformers."""
    AttentionInterface.register(NAME, packed_attention_forward)


def packed_attention_forward(
    module: nn.Module,
    query_1NQH: torch.Tensor,
    key_1NTH: torch.Tensor,
    value_1NTH: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    sliding_window: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention output (1, Q, N, H). Raises ValueError for a padded batch, whose padding this backend would attend to.

    `sliding_window`: a query sees the keys less than so many tokens away; it needs as many queries as keys."""
    if cu_seq_lens_q is None:
        raise ValueError(
            f'attention "{NAME}" takes packed input only (cu_seq_lens_q is missing); load with attn_implementation="sdpa" '
            "for padded batches"
        )
    if cu_seq_lens_k is None:
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    query_QNH, key_TNH, value_TNH = (states[0].transpose(0, 1) for states in (query_1NQH, key_1NTH, value_1NTH))
    if query_QNH.is_cuda and query_QNH.dtype in (torch.float16, torch.bfloat16) and not dropout:  # which the kernels lack
        attend_on_cuda = _by_our_kernels if _is_ours(query_QNH, sliding_window) else _by_flash_attention
        output_QNH = attend_on_cuda(
            query_QNH, key_TNH, value_TNH, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, sliding_window, scaling
        )
    else:
        attend = _by_equal_lengths if torch.is_grad_enabled() else _without_gradient
        if torch.compiler.is_compiling() and attend is _without_gradient:
            attend = torch.ops.valence.packed_attention
        output_QNH = attend(query_QNH, key_TNH, value_TNH, cu_seq_lens_q, cu_seq_lens_k, sliding_window, scaling, dropout)
    return output_QNH.unsqueeze(0), None


def _is_ours(query_QNH: torch.Tensor, window: int | None) -> bool:
    """Whether `kernels` can be asked, which give no gradient."""
    if window is not None or torch.is_grad_enabled() or torch.compiler.is_compiling() or not has_kernels():
        return False
    from models.attention import kernels

    return kernels.takes(query_QNH)


@cache
def has_kernels() -> bool:
    """Whether our kernels can be built here by Triton. If not, torch's attention serves."""
    try:
        from models.attention import kernels

        kernels.try_out()
    except Exception as error:  # whatever Triton or the compiler may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("attention of short texts is slower, by torch's operators: no kernel for CUDA can be built: %s", reason)
        return False
    return True


def _by_our_kernels(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int | None,
    max_length_k: int | None,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    from models.attention import kernels

    scaling = query_QNH.shape[-1] ** -0.5 if scaling is None else scaling
    if len(query_QNH) == len(key_TNH) and max_length_q == max_length_k:
        return kernels.attend(query_QNH, key_TNH, value_TNH, cu_seq_lens_k, scaling)
    if max_length_q == 1 and len(query_QNH) == len(cu_seq_lens_k) - 1:
        return kernels.attend_once(query_QNH, key_TNH, value_TNH, cu_seq_lens_k, scaling)
    return _by_flash_attention(
        query_QNH, key_TNH, value_TNH, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, window, scaling
    )


def _by_flash_attention(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int | None,
    max_length_k: int | None,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch >= 2.11; its import compiles nothing but needs CUDA to run

    reach = -1 if window is None else window - 1
    return varlen_attn(
        query_QNH, key_TNH, value_TNH, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k,
        scale=scaling, window_size=(reach, reach),
    )  # fmt: skip


def _without_gradient(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """By our kernel where it takes such states, otherwise by torch. The kernel computes in float32: bfloat16 is converted."""
    if query_QNH.device.type == "cpu" and window is None and not dropout and library.has_kernels():
        query, key, value = (each.float() if each.dtype == torch.bfloat16 else each for each in (query_QNH, key_TNH, value_TNH))
        if cpu.takes(query, key, value):
            scaling = query_QNH.shape[-1] ** -0.5 if scaling is None else scaling
            attended = cpu.attend(query, key, value, cu_seq_lens_q, cu_seq_lens_k, scaling)
            if attended is not None:
                return attended.to(query_QNH.dtype)
    return _by_equal_lengths(query_QNH, key_TNH, value_TNH, cu_seq_lens_q, cu_seq_lens_k, window, scaling, dropout)


def _by_equal_lengths(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    window: int | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    query_bounds, key_bounds = cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()
    outputs = []
    for first, end in equal_length_runs(query_bounds, key_bounds):
        texts = end - first
        query, key, value = (
            states[cut[first] : cut[end]].unflatten(0, (texts, -1)).transpose(1, 2)
            for states, cut in ((query_QNH, query_bounds), (key_TNH, key_bounds), (value_TNH, key_bounds))
        )
        mask = None if window is None else band(key.shape[2], window, device=key.device)
        attended = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, scale=scaling)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    done = sum(map(len, outputs))
    if done < len(query_QNH):  # of what follows the last text, and of empty texts: nothing reads them
        outputs.append(torch.zeros_like(query_QNH[done:]))
    return torch.cat(outputs)


# One operator for torch.compile, which can't see through a loop over lengths.
torch.library.define(
    "valence::packed_attention",
    "(Tensor query, Tensor key, Tensor value, Tensor cu_seq_lens_q, Tensor cu_seq_lens_k, int? window, float? scaling, "
    "float dropout) -> Tensor",
)
torch.library.impl("valence::packed_attention", "CPU", _without_gradient)


@torch.library.register_fake("valence::packed_attention")
def _(query_QNH: torch.Tensor, *others: object) -> torch.Tensor:
    return torch.empty_like(query_QNH, memory_format=torch.contiguous_format)


def band(length: int, window: int, *, device: torch.device) -> torch.Tensor | None:
    """(length, length), true where query and key are less than `window` apart; None where all are."""
    if length <= window:
        return None
    place_L = torch.arange(length, device=device)
    return (place_L.unsqueeze(1) - place_L).abs() < window


def equal_length_runs(query_bounds: list[int], key_bounds: list[int]) -> Iterator[tuple[int, int]]:
    """(first, end) of each run of neighbouring texts with the same numbers of queries and keys; empty texts are skipped.

    >>> list(equal_length_runs([0, 2, 4, 9], [0, 2, 4, 9]))
    [(0, 2), (2, 3)]
    """
    sizes = [(q1 - q0, k1 - k0) for (q0, q1), (k0, k1) in zip(pairwise(query_bounds), pairwise(key_bounds), strict=True)]
    for (_, keys), run in groupby(range(len(sizes)), key=sizes.__getitem__):
        texts = list(run)
        if keys:
            yield texts[0], texts[-1] + 1
