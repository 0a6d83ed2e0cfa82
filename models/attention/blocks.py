"""A pack cut into blocks of queries, each with the few keys that its pattern lets it see.

All that follows is sized by what is seen, never by length times length: window O(n * w), strided O(n * n / s), random O(n * k).

Shapes: `T` packed tokens, `S` texts, `M` blocks, `B` queries of a block, `C` keys that one looks at.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .patterns import BLOCK, NOWHERE, Pattern

# Blocks computed at once. It bounds the memory of a forward; larger ones were no faster on the CPU.
BLOCKS_AT_ONCE = 64


@dataclass(frozen=True)
class Cuts:
    """Where each text's queries and keys begin (S + 1, integers). The queries of a text are those of its first tokens."""

    queries: torch.Tensor
    keys: torch.Tensor

    def query_counts_S(self) -> torch.Tensor:
        """How many queries each text has; 0 for an empty text, whatever was asked."""
        return torch.minimum(self.queries.diff(), self.lengths_S())

    def lengths_S(self) -> torch.Tensor:
        return self.keys.diff()


@dataclass(frozen=True)
class Blocks:
    """Blocks of queries.

    `text_M`: the text of each block. `place_MB`: its queries' places in the text. `asked_MB`: whether a place is to be computed.
    `key_MC`: the places of the keys that the block looks at, NOWHERE at the end.
    """

    text_M: torch.Tensor
    place_MB: torch.Tensor
    asked_MB: torch.Tensor
    key_MC: torch.Tensor

    def query_rows_MB(self, cuts: Cuts) -> torch.Tensor:
        """Rows of the packed queries; a place that is not asked for stands for the text's last."""
        last_M = cuts.query_counts_S()[self.text_M] - 1
        return cuts.queries[self.text_M].unsqueeze(1) + torch.minimum(self.place_MB, last_M.unsqueeze(1))

    def key_rows_MC(self, cuts: Cuts) -> torch.Tensor:
        """Rows of the packed keys, always of the block's own text."""
        return cuts.keys[self.text_M].unsqueeze(1) + self.key_MC.clamp(min=0)

    def mask_MBC(self, pattern: Pattern, cuts: Cuts) -> torch.Tensor:
        """Which of the keys looked at are seen. A place that is not asked for sees all, since a softmax needs a key."""
        length_M = cuts.lengths_S()[self.text_M].int()  # int32 is half the memory to move; the mask is a third of the time
        seen = pattern.sees(self.place_MB.int().unsqueeze(2), self.key_MC.int().unsqueeze(1), length_M[:, None, None])
        return seen | ~self.asked_MB.unsqueeze(2)


def blocks_of(pattern: Pattern, cuts: Cuts) -> Iterator[Blocks]:
    """At most BLOCKS_AT_ONCE blocks at a time. Every query is in one block; global queries come first, in blocks of their own."""
    counts_S, lengths_S = cuts.query_counts_S(), cuts.lengths_S()
    if pattern.global_tokens:
        yield from _global_blocks(pattern.global_tokens, counts_S, lengths_S)
    local_S = torch.where(counts_S > pattern.global_tokens, (counts_S + BLOCK - 1) // BLOCK, 0)
    text_M = torch.repeat_interleave(local_S.long())
    start_M = (torch.arange(len(text_M), device=text_M.device) - (local_S.cumsum(0) - local_S)[text_M]) * BLOCK
    width = min(BLOCK, int(counts_S.max()))
    for text_m, start_m in zip(text_M.split(BLOCKS_AT_ONCE), start_M.split(BLOCKS_AT_ONCE), strict=True):
        if len(text_m):
            place_mB = start_m.unsqueeze(1) + torch.arange(width, device=text_m.device)
            asked_mB = (place_mB >= pattern.global_tokens) & (place_mB < counts_S[text_m].unsqueeze(1))
            yield Blocks(text_m, place_mB, asked_mB, pattern.candidates(start_m, lengths_S[text_m]))


def _global_blocks(tokens: int, counts_S: torch.Tensor, lengths_S: torch.Tensor) -> Iterator[Blocks]:
    for text_m in torch.nonzero(counts_S).squeeze(1).split(BLOCKS_AT_ONCE):
        place_mB = torch.arange(min(tokens, int(counts_S.max())), device=text_m.device).expand(len(text_m), -1)
        key_1C = torch.arange(int(lengths_S[text_m].max()), device=text_m.device).unsqueeze(0)
        key_mC = torch.where(key_1C < lengths_S[text_m].unsqueeze(1), key_1C, NOWHERE)
        yield Blocks(text_m, place_mB, place_mB < counts_S[text_m].unsqueeze(1), key_mC)


def gathered_attention(
    query_QNH: torch.Tensor,
    key_TNH: torch.Tensor,
    value_TNH: torch.Tensor,
    cuts: Cuts,
    *,
    pattern: Pattern,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """(Q, N, H) on any device: each block's keys are gathered, and many blocks are one batch of small dense products. Rows of no
    text are zero."""
    rows, attended = [query_QNH.new_empty(0, dtype=torch.int64)], [query_QNH[:0]]
    for blocks in blocks_of(pattern, cuts):
        query_rows_MB, key_rows_MC = blocks.query_rows_MB(cuts), blocks.key_rows_MC(cuts)
        context_MNBH = F.scaled_dot_product_attention(
            query_QNH[query_rows_MB].transpose(1, 2),
            key_TNH[key_rows_MC].transpose(1, 2),
            value_TNH[key_rows_MC].transpose(1, 2),
            blocks.mask_MBC(pattern, cuts).unsqueeze(1),
            dropout_p=dropout,
            scale=scaling,
        )
        rows.append(query_rows_MB[blocks.asked_MB])
        attended.append(context_MNBH.transpose(1, 2)[blocks.asked_MB])
    return torch.zeros_like(query_QNH).index_copy(0, torch.cat(rows), torch.cat(attended))
