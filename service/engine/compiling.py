"""A packed forward under torch.compile: one graph for every batch, compiled at start and checked against the plain forward.

`S` texts, `T` tokens. Two graphs may round differently, and then a score would depend on its batch. The compiler would make
further graphs for a size of 1 and for a missing input. So a lone text gets an empty text behind it, token types are always
given, and a pack of one token goes through the plain forward.
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
# A share of the largest logit. The plain forward rounds between an addition and a product, the compiled one does not. So some
# int8 and half precision numbers come out as a neighbouring value. In float32 the logits agree within 1e-5.
TOLERANCE = 0.05
# For int8 layers: weights become constants, and the compiler makes kernels of its own for the products, which also do the
# operations around them. In float32 such kernels took twice the time of the library's.
INT8_OPTIONS = {"freezing": True, "max_autotune_gemm": True, "max_autotune_gemm_backends": "CPP"}


class CompiledForward:
    """A forward whose model is compiled. A call gives logits (S, labels). `module`: the compiled model, which compiles nothing
    once it is checked, so that no request waits for the compiler: a pack that fits no graph is computed without one. torch's
    stances would say so for the whole process, and live forwards might compile while another model is checked."""

    def __init__(self, model: nn.Module, forward: Forward, *, takes_types: bool) -> None:
        # The compiler limits the graphs of one piece of code, and every model's forward begins in the same wrapper of
        # transformers: so the limit is raised to that of all graphs. The filter skips checks of globals: transformers keeps the
        # classes that it has seen in a table, and another class would void the graph.
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
        """Compiles, and compares the scores of `packs` with those of the plain forward.

        On a CPU a graph is bound to a number of threads, so one is compiled for each of `threads`. Raises ValueError if scores
        differ, and what the compiler raises (RuntimeError)."""
        started_at = time.monotonic()
        expected = [self._forward(self._model, pack).float() for pack in packs]
        for count in threads:
            torch.set_num_threads(count)
            with inductor_config.patch(self._compiler_options):
                found = [self(pack).float() for pack in packs]
            for logits, wanted in zip(found, expected, strict=True):
                worst = float((logits - wanted).abs().max())
                if not worst <= TOLERANCE * float(wanted.abs().max()):
                    raise ValueError(f"logits are {worst:.3g} away from those of the forward that is not compiled")
        self.module = torch._dynamo.run(self._model)
        log.info("compiled the forward in %.1f s", time.monotonic() - started_at)
