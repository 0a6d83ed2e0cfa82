"""8-bit integer linear layers for the CPU: `python -m models.int8 CHECKPOINT --texts FILE` prepares a checkpoint once.

`linear` is the layer, `ranges` finds out how wide its inputs are and keeps that beside the weights.
"""

from models.int8.linear import Int8Linear, quantize_linears, unpack_for_compiler
from models.int8.ranges import (
    RANGES_FILE,
    RangesError,
    load_ranges,
    observe_ranges,
    prepare_for_inference,
    quantize,
    save_ranges,
    write_ranges,
)

__all__ = [
    "RANGES_FILE",
    "Int8Linear",
    "RangesError",
    "load_ranges",
    "observe_ranges",
    "prepare_for_inference",
    "quantize",
    "quantize_linears",
    "save_ranges",
    "unpack_for_compiler",
    "write_ranges",
]
