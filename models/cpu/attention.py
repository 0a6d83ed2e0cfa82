"""Attention over packed texts on a CPU, in float32, by a kernel of our own.

torch's attention takes a call for each length in a pack, and a call computes a small matrix product for each head. For 44 texts
of 23 tokens with 12 heads that took 2.8 ms a layer on one core; the kernel takes 0.9 ms. `kernels.cpp` says how it works.

`Q` queries, `T` keys, `N` heads, `H` head width.
"""

import torch

from models.cpu.library import Integer, built

INVALID, TOO_LONG = 1, 2  # what the kernel returns
WIDTHS = 16  # a head's width is a multiple of this: of one vector of AVX-512, or two of AVX2
LOG2_E = 1.4426950408889634


def takes(query_QNH: torch.Tensor, key_TNH: torch.Tensor, value_TNH: torch.Tensor) -> bool:
    """Whether the kernel can be asked: float32, the head's width contiguous and a multiple of WIDTHS."""
    width = query_QNH.shape[-1]
    return width % WIDTHS == 0 and all(
        states.dtype == torch.float32 and states.stride(-1) == 1 for states in (query_QNH, key_TNH, value_TNH)
    )


def attend(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    scaling: float,
) -> torch.Tensor | None:
    """Each text's queries attend to its keys: (Q, N, H), zeros after the last text. None where a text is so long that torch's
    attention is as fast. Raises ValueError for bounds that do not cut the tokens into texts, and what `built` raises."""
    output_QNH = torch.empty(query_QNH.shape)
    queries, heads, width = query_QNH.shape
    query_bounds, key_bounds = cu_seq_lens_q.int().contiguous(), cu_seq_lens_k.int().contiguous()
    texts = len(key_bounds) - 1
    if len(query_bounds) - 1 != texts:
        raise ValueError(f"cu_seq_lens_q cuts {len(query_bounds) - 1} texts and cu_seq_lens_k {texts}")
    strides = (Integer * 6)(*query_QNH.stride()[:2], *key_TNH.stride()[:2], *value_TNH.stride()[:2])
    status = built().attend(
        query_QNH.data_ptr(), key_TNH.data_ptr(), value_TNH.data_ptr(), output_QNH.data_ptr(),
        query_bounds.data_ptr(), key_bounds.data_ptr(), texts, queries, len(key_TNH), heads, width,
        strides, scaling * LOG2_E, torch.get_num_threads(),
    )  # fmt: skip
    if status == INVALID:
        raise ValueError(f"cu_seq_lens must rise from 0 to at most {queries} queries and {len(key_TNH)} keys")
    return None if status == TOO_LONG else output_QNH
