"""A packed forward under torch.compile: one graph for every batch, made at start and held against the forward it was made of.

`S` texts, `T` tokens. Two graphs may round differently, so that a score would depend on its batch. The compiler makes a graph of
its own for one of anything and for a missing input: hence a lone text gets an empty one behind it, token types are always given,
and a lone token is left to the forward that is not compiled.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import torch
from torch import nn
from torch._inductor import config as inductor_config

from models.int8 import unpack_for_compiler
from service.engine.packs import Pack

log = logging.getLogger("valence.worker")
Forward = Callable[[nn.Module, Pack], torch.Tensor]
# Of the largest logit. The compiler joins additions and products that are rounded in between otherwise, and an integer or a half
# precision number of another value here and there is the result; float32 comes within 1e-5.
TOLERANCE = 0.05
# Where there are int8 layers: weights become constants, and their products kernels of the compiler's own, which do what stands
# around them too. For float32 those took twice the time of the library's.
INT8_OPTIONS = {"freezing": True, "max_autotune_gemm": True, "max_autotune_gemm_backends": "CPP"}


class CompiledForward:
    """`forward`, which takes a model and a pack, with the model compiled, `module`. Calling it gives logits (S, labels)."""

    def __init__(self, model: nn.Module, forward: Forward, *, takes_types: bool) -> None:
        # Every model's forward begins in the same wrapper of transformers, and the compiler counts graphs by code. Without the
        # filter a graph holds only until transformers has seen another class: it keeps them in a table.
        torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit
        options = {"guard_filter_fn": torch.compiler.skip_guard_on_globals_unsafe}
        self._compiler_options = INT8_OPTIONS if unpack_for_compiler(model) else {}
        self._model = model
        self.module: nn.Module = torch.compile(model, dynamic=True, fullgraph=True, options=options)
        self._forward = forward
        self._takes_types = takes_types

    def __call__(self, pack: Pack) -> torch.Tensor:
        texts = len(pack.bounds) - 1
        if len(pack.ids) == 1:
            return self._forward(self._model, pack)
        if texts == 1:
            pack = msgspec.structs.replace(pack, bounds=np.append(pack.bounds, pack.bounds[-1:]))
        if self._takes_types and pack.types is None:
            pack = msgspec.structs.replace(pack, types=np.zeros_like(pack.ids))
        return self._forward(self.module, pack)[:texts]

    def check(self, packs: Sequence[Pack], *, threads: Iterable[int]) -> None:
        """Compiles, for each number of threads on a CPU since a graph is bound to it. Raises ValueError where the scores are
        others than those of the plain forward, and what the compiler raises (RuntimeError)."""
        started_at = time.monotonic()
        torch.compiler.set_stance("default")
        try:
            expected = [self._forward(self._model, pack).float() for pack in packs]
            for count in threads:
                torch.set_num_threads(count)
                with inductor_config.patch(self._compiler_options):
                    found = [self(pack).float() for pack in packs]
                for logits, wanted in zip(found, expected, strict=True):
                    worst = float((logits - wanted).abs().max())
                    if not worst <= TOLERANCE * float(wanted.abs().max()):
                        raise ValueError(f"logits are {worst:.3g} away from those of the forward that is not compiled")
        finally:
            # From now on no request waits for the compiler: what it has not foreseen is computed by the plain forward.
            torch.compiler.set_stance("eager_on_recompile")
        log.info("compiled the forward in %.1f s", time.monotonic() - started_at)
