"""A packed forward under torch.compile: one graph for every batch, compiled at start and held against the forward it was made of.

`S` texts, `T` tokens. The compiler makes a graph of its own for one of anything, and two graphs may round differently: so a lone
text gets an empty one behind it, and a lone token is left to the forward that is not compiled.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import torch
from torch import nn

from service.packs import Pack

log = logging.getLogger("valence.worker")
Forward = Callable[[nn.Module, Pack], torch.Tensor]
# Of the largest logit. The compiler joins additions and products that are rounded in between otherwise, and an integer or a half
# precision number of another value here and there is the result; float32 comes within 1e-5.
TOLERANCE = 0.05


class CompiledForward:
    """`forward`, which takes a model and a pack, with the model compiled. Calling it gives logits (S, labels)."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        self._model = model
        self._compiled: nn.Module = torch.compile(model, dynamic=True, fullgraph=True)
        self._forward = forward

    def __call__(self, pack: Pack) -> torch.Tensor:
        texts = len(pack.bounds) - 1
        if len(pack.ids) == 1:
            return self._forward(self._model, pack)
        if texts == 1:
            pack = msgspec.structs.replace(pack, bounds=np.append(pack.bounds, pack.bounds[-1:]))
        return self._forward(self._compiled, pack)[:texts]

    def check(self, packs: Sequence[Pack], *, threads: Iterable[int]) -> None:
        """Compiles, for each number of threads on a CPU since a graph is bound to it. Raises ValueError where the scores are
        others than those of the plain forward, and what the compiler raises (RuntimeError)."""
        started_at = time.monotonic()
        expected = [self._forward(self._model, pack).float() for pack in packs]
        for count in threads:
            torch.set_num_threads(count)
            for pack, wanted in zip(packs, expected, strict=True):
                worst = float((self(pack).float() - wanted).abs().max())
                if not worst <= TOLERANCE * float(wanted.abs().max()):
                    raise ValueError(f"logits are {worst:.3g} away from those of the forward that is not compiled")
        log.info("compiled the forward in %.1f s", time.monotonic() - started_at)
