"""Which keys a query may see: the one definition behind the reference mask, the fast kernels and the pictures.

Positions count from the start of their own text, so a text's pattern depends on nothing but its length. A pattern is a union:

    window    keys less than `window` away, and so always the token itself
    strided   every `stride`-th key of the text (Child et al. 2019, https://arxiv.org/abs/1904.10509)
    random    `random_blocks` blocks of BLOCK keys, drawn for each block of BLOCK queries from `seed` and the text's length
    global    the first `global_tokens` tokens see all, and all see them

BigBird (Zaheer et al. 2020, https://arxiv.org/abs/2007.14062) is window, random and global together, random by blocks there too:
neighbours that share their keys are one small matrix product.

Shapes: `M` blocks of queries, `C` keys that a block may see.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

BLOCK = 64
NOWHERE = -1
MERSENNE = 2**31 - 1


@dataclass(frozen=True)
class Pattern:
    """The parts of the union; the defaults see nothing but the token itself."""

    window: int = 1
    stride: int = 0
    random_blocks: int = 0
    global_tokens: int = 0
    seed: int = 0

    def sees(self, query: torch.Tensor, key: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Whether the query at one place sees the key at another, in a text of `length`: tensors that broadcast.

        >>> place = torch.arange(4)
        >>> Pattern(window=1, stride=2).sees(place.unsqueeze(1), place, torch.tensor(4)).int().tolist()
        [[1, 0, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
        """
        seen = query == key if self.window == 1 else (query - key).abs() < self.window
        if self.stride:
            seen = seen | (key % self.stride == 0)
        if self.global_tokens:
            seen = seen | (key < self.global_tokens) | (query < self.global_tokens)
        for drawn in self._drawn(query // BLOCK, length):
            seen = seen | (key // BLOCK == drawn)
        return seen & ((key >= 0) & (key < length))

    def candidates(self, start_M: torch.Tensor, length_M: torch.Tensor) -> torch.Tensor:
        """(M, C): the keys that the BLOCK queries from `start_M` on see, and perhaps more; each once, then NOWHERE. Global
        queries, which see every key, are left out of account."""
        if not len(start_M):
            return start_M.new_empty(0, 0)
        reach = self.window - 1
        parts = [start_M.unsqueeze(1) + torch.arange(-reach, BLOCK + reach, device=start_M.device)]
        if self.stride:
            parts.append(torch.arange(0, int(length_M.max()), self.stride, device=start_M.device).expand(len(start_M), -1))
        if self.global_tokens:
            parts.append(torch.arange(self.global_tokens, device=start_M.device).expand(len(start_M), -1))
        for drawn_M in self._drawn(start_M // BLOCK, length_M):
            parts.append(drawn_M.unsqueeze(1) * BLOCK + torch.arange(BLOCK, device=start_M.device))
        return _each_once(torch.cat(parts, dim=1), length_M)

    def mask(self, length: int) -> torch.Tensor:
        """(length, length), the whole definition written out: for reference and for pictures, never for speed."""
        place = torch.arange(length)
        return self.sees(place.unsqueeze(1), place, torch.tensor(length))

    def is_window(self) -> bool:
        return not (self.stride or self.random_blocks or self.global_tokens)

    def _drawn(self, query_block: torch.Tensor, length: torch.Tensor) -> Iterator[torch.Tensor]:
        """The random blocks of keys, one after another. Draws are steps of a small generator (Park and Miller 1988), so they
        are the same on every device and inside a compiled kernel; two may coincide."""
        blocks, query_block = (length.long() + BLOCK - 1) // BLOCK, query_block.long()  # the products have up to 48 bits
        for draw in range(self.random_blocks):
            state = (self.seed * 7919 + draw * 104729 + 1) % MERSENNE + query_block * 15485863 % MERSENNE
            for _ in range(3):
                state = (state ^ (state >> 15)) * 48271 % MERSENNE
            yield state % blocks.clamp(min=1)


def _each_once(key_MC: torch.Tensor, length_M: torch.Tensor) -> torch.Tensor:
    """Largest first. A key outside of the text, or one that is there already, becomes NOWHERE; these come last."""
    inside = (key_MC >= 0) & (key_MC < length_M.unsqueeze(1))
    key_MC = torch.where(inside, key_MC, NOWHERE).sort(dim=1, descending=True).values
    repeated = torch.zeros_like(key_MC, dtype=torch.bool)
    repeated[:, 1:] = key_MC[:, 1:] == key_MC[:, :-1]
    key_MC = torch.where(repeated, NOWHERE, key_MC).sort(dim=1, descending=True).values
    return key_MC[:, : int((key_MC != NOWHERE).sum(dim=1).max())]
