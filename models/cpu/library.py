"""The library of our CPU kernels, `kernels.cpp`.

torch's compiler driver builds it at first use and keeps it. The image has no compiler, but libraries that were built before:
`kernels.avx512.so` and `kernels.avx2.so` beside the source. Where there is one for the processor's capability, it is taken.
"""

import ctypes
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
CAPABILITIES = ("AVX2", "AVX512")
# Lets the compiler join a product and a sum in one instruction, of which the kernels are made. The driver forbids it otherwise.
FLAGS = ("-ffp-contract=fast",)
Pointer, Integer = ctypes.c_void_p, ctypes.c_int64


ARE_OURS_WANTED: ContextVar[bool] = ContextVar("ARE_OURS_WANTED", default=True)


@contextmanager
def torchs_layers() -> Iterator[None]:
    """As where `models/cpu` has nothing to offer: for a comparison with torch's own layers."""
    token = ARE_OURS_WANTED.set(False)
    try:
        yield
    finally:
        ARE_OURS_WANTED.reset(token)


def has_kernels() -> bool:
    """Whether the library is there and wanted."""
    return ARE_OURS_WANTED.get() and can_be_had()


@cache
def can_be_had() -> bool:
    """Whether the library can be had here. If not, torch's operators serve, and the log says so once."""
    try:
        built()
    except Exception as error:  # whatever the compiler or the loader may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        log.warning("short texts and LSTMs are slower, by torch's operators: no kernel for this CPU can be built: %s", reason)
        return False
    return True


@cache
def built() -> ctypes.CDLL:
    """The library, built if need be. Raises RuntimeError on a processor that it was not written for, and what compiler and loader
    raise."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in CAPABILITIES:
        raise RuntimeError(f"they are written for {' and '.join(CAPABILITIES)}, and this processor has {capability}")
    from torch._inductor.codecache import CppCodeCache  # takes a second

    before = SOURCE.with_suffix(f".{capability.lower()}.so")
    library = ctypes.CDLL(str(before)) if before.exists() else CppCodeCache.load(SOURCE.read_text(), extra_flags=FLAGS)
    library.attend.argtypes = [Pointer] * 6 + [Integer] * 5 + [Pointer, ctypes.c_float, Integer]
    library.lstm.argtypes = [Pointer] * 5 + [Integer] * 5
    return library
