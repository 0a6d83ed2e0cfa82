"""Attention over packed texts, as the backend "packed" of transformers' attention interface.

`T` tokens of `S` texts lie one after another; `cu_seq_lens` (S + 1, int32) holds where each begins. No text sees another, and
no padding is computed. On CUDA torch's variable-length Flash attention does it in one kernel; on CPU each run of texts of equal
length is one dense batch, so a batch sorted by length takes as many calls as it has lengths:

    lengths 5 5 5 9 9  ->  sdpa over (3, N, 5, H), then over (2, N, 9, H)
"""

from collections.abc import Iterator
from itertools import groupby, pairwise

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "packed"


def register_packed_attention() -> None:
    """Makes `attn_implementation="packed"` known to transformers."""
    AttentionInterface.register(NAME, packed_attention_forward)


def packed_attention_forward(
    module: nn.Module,
    query_1NTH: torch.Tensor,
    key_1NTH: torch.Tensor,
    value_1NTH: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention output (1, T, N, H). Raises ValueError for a padded batch, whose padding this backend would attend to."""
    if cu_seq_lens_q is None:
        raise ValueError(
            f'attention "{NAME}" takes packed input only (cu_seq_lens_q is missing); load with attn_implementation="sdpa" '
            "for padded batches"
        )
    query_TNH, key_TNH, value_TNH = (states[0].transpose(0, 1) for states in (query_1NTH, key_1NTH, value_1NTH))
    if query_TNH.is_cuda and query_TNH.dtype in (torch.float16, torch.bfloat16):
        assert max_length_q is not None, "CUDA needs max_length_q"
        output_TNH = _flash(query_TNH, key_TNH, value_TNH, cu_seq_lens_q, max_length_q, scaling)
    else:
        output_TNH = _by_equal_lengths(query_TNH, key_TNH, value_TNH, cu_seq_lens_q, scaling, dropout)
    return output_TNH.unsqueeze(0), None


def _flash(
    query_TNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    max_length: int,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch >= 2.11; its import compiles nothing but needs CUDA to run

    return varlen_attn(query_TNH, key_TNH, value_TNH, cu_seq_lens, cu_seq_lens, max_length, max_length, scale=scaling)


def _by_equal_lengths(
    query_TNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    outputs = []
    for start, end, length in equal_length_runs(cu_seq_lens.tolist()):
        query, key, value = (
            states_TNH[start:end].unflatten(0, (-1, length)).transpose(1, 2) for states_TNH in (query_TNH, key_TNH, value_TNH)
        )
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scaling)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    padding = query_TNH.shape[0] - int(cu_seq_lens[-1])
    if padding or not outputs:  # tokens after the last text: nothing reads them
        outputs.append(torch.zeros_like(query_TNH[:padding]))
    return torch.cat(outputs)


def equal_length_runs(bounds: list[int]) -> Iterator[tuple[int, int, int]]:
    """(first token, end token, length) of each run of neighbouring texts of one length; empty texts are skipped.

    >>> list(equal_length_runs([0, 2, 4, 9]))
    [(0, 4, 2), (4, 9, 5)]
    """
    spans = ((start, end) for start, end in pairwise(bounds) if end > start)
    for length, run in groupby(spans, key=lambda span: span[1] - span[0]):
        texts = list(run)
        yield texts[0][0], texts[-1][1], length
