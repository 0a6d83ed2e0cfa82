"""Attention in which a token sees a part of its text, as the backend "sparse" of transformers' attention interface.

An architecture names a pattern's fields (`patterns.Pattern`) and hands the padding mask on as it came, (B, L), not (B, 1, L, L);
packs come as they do for "packed". A padded batch is packed first, so no row computes or sees padding. The first row of this
table that fits says what computes it:

    texts no longer than the window        the backend "packed", since all is seen
    CUDA, half precision, a window         torch's variable-length Flash attention with `window_size`
    CUDA, all queries, not strided         block-sparse FlexAttention (flex.py); strided columns would fill every tile
    all else                               gathered blocks (blocks.py)
"""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface

from .blocks import Cuts, gathered_attention
from .packed import packed_attention_forward
from .patterns import Pattern

NAME = "sparse"


def register_sparse_attention() -> None:
    """Makes the backend known to transformers."""
    AttentionInterface.register(NAME, sparse_attention_forward)


def sparse_attention_forward(
    module: nn.Module,
    query_BNQH: torch.Tensor,
    key_BNLH: torch.Tensor,
    value_BNLH: torch.Tensor,
    attention_mask: torch.Tensor | None,
    pattern: Mapping[str, int],
    scaling: float | None = None,
    dropout: float = 0.0,
    padding_mask: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    """Attention output (B, Q, N, H). Fewer queries than keys are the first ones of each text. `attention_mask` is not read."""
    query, key, value = (states.transpose(1, 2).flatten(0, 1) for states in (query_BNQH, key_BNLH, value_BNLH))
    shape = (query_BNQH.shape[0], query_BNQH.shape[2], *query.shape[1:])
    chosen = Pattern(**pattern)
    if cu_seq_lens_q is not None:
        cuts = Cuts(cu_seq_lens_q, cu_seq_lens_q if cu_seq_lens_k is None else cu_seq_lens_k)
        return _attend(module, query, key, value, cuts, chosen, scaling, dropout).view(shape), None
    real_BL = key_BNLH.new_ones(shape[0], key_BNLH.shape[2], dtype=torch.bool) if padding_mask is None else padding_mask.bool()
    if real_BL.ndim != 2:
        raise ValueError(
            f"a model with an attention_pattern takes an attention_mask of (batch, length), not of {real_BL.ndim} axes"
        )
    rows = real_BL.flatten().nonzero().squeeze(1)
    bounds = F.pad(real_BL.sum(1).cumsum(0), (1, 0)).int()
    if shape[1] == real_BL.shape[1]:
        packed = _attend(module, query[rows], key[rows], value[rows], Cuts(bounds, bounds), chosen, scaling, dropout)
        return torch.zeros_like(query).index_copy(0, rows, packed).view(shape), None
    cuts = Cuts(torch.arange(len(bounds), dtype=torch.int32, device=rows.device) * shape[1], bounds)
    return _attend(module, query, key[rows], value[rows], cuts, chosen, scaling, dropout).view(shape), None


def _attend(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cuts: Cuts, pattern: Pattern,
    scaling: float | None, dropout: float,
) -> torch.Tensor:  # fmt: skip
    """(Q, N, H) of a pack."""
    longest = int(cuts.lengths_S().max())
    all_queries = torch.equal(cuts.queries, cuts.keys)
    flash = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and pattern.is_window()
    if all_queries and (flash or longest <= pattern.window):
        query_1NQH, key_1NTH, value_1NTH = (states.transpose(0, 1).unsqueeze(0) for states in (query, key, value))
        output, _ = packed_attention_forward(
            module, query_1NQH, key_1NTH, value_1NTH, None, scaling=scaling, dropout=dropout,
            cu_seq_lens_q=cuts.queries, cu_seq_lens_k=cuts.keys, max_length_q=longest, max_length_k=longest,
            sliding_window=pattern.window if longest > pattern.window else None,
        )  # fmt: skip
        return output[0]
    if query.is_cuda and all_queries and not pattern.stride and not dropout:
        from .flex import block_sparse_attention, takes_flex  # its import costs a second and more, and only CUDA needs it

        if takes_flex(query):
            return block_sparse_attention(query, key, value, cuts, pattern=pattern, scaling=scaling)
    return gathered_attention(query, key, value, cuts, pattern=pattern, scaling=scaling, dropout=dropout)
