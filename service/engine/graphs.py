"""CUDA graphs of a packed forward: captured once for each of a few sizes, then replayed with one launch instead of hundreds.

A graph is bound to the shapes and addresses of its capture. So a batch is copied into a buffer at a fixed address and filled up
to the graph's size: `bounds` repeats its last value, which makes empty texts, and the tokens past it belong to no text. Rows of
real texts read nothing that an earlier batch left in the buffer.
"""

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from service.engine.packs import Pack

log = logging.getLogger("valence.worker")

# Powers of two and the sizes half way between them, so that a batch is at most a third smaller than its graph.
SIZES = tuple(size for power in range(5, 15) for size in (2**power, 3 * 2 ** (power - 1)))
# A graph of T tokens has room for T / TOKENS_A_TEXT texts. A batch of more texts takes a larger graph.
TOKENS_A_TEXT = 8
WARM_UPS = 2
# A share of the largest logit. A replay and the plain forward round differently, since their kernels choose other tiles.
TOLERANCE = 0.05
Replay = Callable[[], None]


class GraphedForward:
    """The graphs of one model. A call gives logits (S, labels), or None for a pack that fits no graph.

    The next call overwrites these logits."""

    def __init__(self, model: nn.Module, *, max_tokens: int, max_length: int, takes_types: bool, device: torch.device) -> None:
        started_at = time.monotonic()
        self.graphs: list[Graph] = []
        pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        sizes = sorted({max_tokens, *(size for size in SIZES if size < max_tokens)}, reverse=True)
        for size in sizes:  # the largest first: the others reuse its memory
            graph = Graph(model, tokens=size, longest=min(size, max_length), takes_types=takes_types, device=device, pool=pool)
            self.graphs.insert(0, graph)
        reserved = torch.cuda.memory_reserved(device) / 2**20 if device.type == "cuda" else 0
        log.info(
            "captured %d CUDA graphs, %d to %d tokens, in %.1f s; %.0f MiB of device memory reserved",
            len(self.graphs), self.graphs[0].tokens, self.graphs[-1].tokens, time.monotonic() - started_at, reserved,
        )  # fmt: skip

    def __call__(self, pack: Pack) -> torch.Tensor | None:
        graph = self._fitting(len(pack.ids), texts=len(pack.bounds) - 1)
        return None if graph is None else graph(pack)

    def padding(self, tokens: int, *, texts: int) -> int:
        """How many tokens of no text a replay of such a pack computes; 0 for a pack that fits no graph."""
        graph = self._fitting(tokens, texts=texts)
        return 0 if graph is None else graph.tokens - tokens

    def _fitting(self, tokens: int, *, texts: int) -> "Graph | None":
        for graph in self.graphs:
            if tokens <= graph.tokens and texts <= graph.texts:
                return graph
        return None

    def check(self, forward: Callable[[Pack], torch.Tensor], packs: Sequence[Pack]) -> None:
        """Raises ValueError if a replay scores differently from `forward`."""
        for pack in packs:
            expected = forward(pack).float()
            found = self(pack)
            if found is None:
                continue
            worst = float((found.float() - expected).abs().max())
            if not worst <= TOLERANCE * float(expected.abs().max()):
                raise ValueError(f"a graph's logits are {worst:.3g} away from the forward's")


class Graph:
    """The graph of one size: `tokens` tokens and `texts` texts."""

    def __init__(
        self, model: nn.Module, *, tokens: int, longest: int, takes_types: bool, device: torch.device,
        pool: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self.tokens, self.texts, self.takes_types = tokens, max(1, tokens // TOKENS_A_TEXT), takes_types
        rows = 3 if takes_types else 2
        # One buffer, so that a batch is one copy: rows of 8-byte integers, then the 4-byte bounds.
        size = rows * tokens * 8 + (self.texts + 1) * 4
        # Two staging buffers: the copy from one may still run while the next batch is written to the other.
        self._staging = [torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda") for _ in range(2)]
        self._buffer = torch.zeros(size, dtype=torch.uint8, device=device)
        self._arrays = [(part.numpy()[: rows * tokens * 8].view(np.int64).reshape(rows, tokens),
                         part.numpy()[rows * tokens * 8 :].view(np.int32)) for part in self._staging]  # fmt: skip
        fields = self._buffer[: rows * tokens * 8].view(torch.int64).view(rows, 1, tokens)
        bounds = self._buffer[rows * tokens * 8 :].view(torch.int32)
        inputs = {"input_ids": fields[0], "position_ids": fields[1]} | ({"token_type_ids": fields[2]} if takes_types else {})

        def forward() -> torch.Tensor:
            return model(**inputs, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=longest, max_length_k=longest).logits

        bounds[1:] = 1  # one text of one token, and empty ones
        self._logits, self._replay = record(forward, device=device, pool=pool)

    def __call__(self, pack: Pack) -> torch.Tensor:
        self._staging.reverse()
        self._arrays.reverse()
        fields, bounds = self._arrays[0]
        count, texts = len(pack.ids), len(pack.bounds) - 1
        fields[0, :count] = pack.ids
        fields[1, :count] = pack.positions
        if self.takes_types:
            fields[2, :count] = 0 if pack.types is None else pack.types
        bounds[: texts + 1] = pack.bounds
        bounds[texts + 1 :] = count
        self._buffer.copy_(self._staging[0], non_blocking=True)
        self._replay()
        return self._logits[:texts]


def record(
    forward: Callable[[], torch.Tensor], *, device: torch.device, pool: tuple[int, int] | None
) -> tuple[torch.Tensor, Replay]:
    """The output of `forward`, and a function that fills it anew. Without CUDA that function is the forward itself."""
    if device.type != "cuda":
        output = forward().clone()

        def forward_again() -> None:
            output.copy_(forward())

        return output, forward_again
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):  # libraries allocate and choose kernels outside of the capture
            forward()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # thread_local: the forwards of other models go on in their thread while a new one is captured
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        output = forward()
    return output, graph.replay
