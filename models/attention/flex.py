"""Block-sparse FlexAttention for patterns that no window expresses, on CUDA.

It was written by torch's documentation, and tested against the reference on the CPU, where FlexAttention computes every pair. On
a GPU it was neither run nor measured.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from .blocks import Cuts, blocks_of
from .patterns import BLOCK, NOWHERE, Pattern

TILE = 128


def takes_flex(query: torch.Tensor) -> bool:
    """Whether the compiled kernel can be had: an Ampere GPU or later, and Triton."""
    return query.is_cuda and torch.cuda.get_device_capability(query.device) >= (8, 0) and find_spec("triton") is not None


def block_sparse_attention(
    query_TNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cuts: Cuts,
    *,
    pattern: Pattern,
    scaling: float | None,
) -> torch.Tensor:
    """(T, N, H). As many queries as keys."""
    mask = block_mask(pattern, cuts, tokens=len(query_TNH))
    query_1NTH, key_1NTH, value_1NTH = (states.transpose(0, 1).unsqueeze(0) for states in (query_TNH, key_TNH, value_TNH))
    attend = _compiled() if query_TNH.is_cuda else flex_attention
    return attend(query_1NTH, key_1NTH, value_1NTH, block_mask=mask, scale=scaling)[0].transpose(0, 1)


def block_mask(pattern: Pattern, cuts: Cuts, *, tokens: int) -> BlockMask:
    """The tiles of TILE queries and TILE keys in which something is seen, from the same blocks that the CPU computes. (torch's
    `create_block_mask` would try every pair.)"""
    tiles = (tokens + TILE - 1) // TILE
    kept = torch.zeros(tiles, tiles, dtype=torch.bool, device=cuts.keys.device)
    for blocks in blocks_of(pattern, cuts):
        rows_MB = blocks.query_rows_MB(cuts)
        key_tile_MC = blocks.key_rows_MC(cuts) // TILE
        # NOWHERE stands for no key: the tile of the block's first key takes its place, which is kept anyway.
        key_tile_MC = torch.where(blocks.key_MC == NOWHERE, key_tile_MC[:, :1], key_tile_MC)
        for rows_M in (*rows_MB[:, ::BLOCK].unbind(1), rows_MB[:, -1]):  # a block meets at most two tiles
            kept[(rows_M // TILE).unsqueeze(1), key_tile_MC] = True
    counts, tile_list = kept.sum(1, dtype=torch.int32), kept.int().argsort(dim=1, descending=True, stable=True).int()
    return BlockMask.from_kv_blocks(
        counts[None, None], tile_list[None, None], BLOCK_SIZE=TILE, mask_mod=_mask_mod(pattern, cuts, tokens),
        seq_lengths=(tokens, tokens),
    )  # fmt: skip


def _mask_mod(pattern: Pattern, cuts: Cuts, tokens: int) -> Callable[..., torch.Tensor]:
    row_T = torch.arange(tokens, device=cuts.keys.device)
    text_T = torch.bucketize(row_T, cuts.keys[1:], right=True)  # after the last text: the number of texts
    begin_T = torch.cat([cuts.keys, cuts.keys[-1:]])[text_T]
    length_T = torch.cat([cuts.lengths_S(), cuts.keys.new_zeros(1)])[text_T]
    place_T = row_T - begin_T

    def sees(batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (text_T[query] == text_T[key]) & pattern.sees(place_T[query], place_T[key], length_T[query])

    return sees


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    return torch.compile(flex_attention, dynamic=True)
