"""Attention backends for transformers' attention interface.

`packed` is the backend for texts without padding; `kernels` is what it runs on CUDA, and `stock` gives it to classifiers that
transformers ships. `sparse` is the backend in which a token sees a part of its text: read `patterns` (which part), `blocks` (how
that is computed) and `flex` (the same on CUDA). `compare` measures the patterns, with `pictures` and `reviews`.
"""

from models.attention.stock import enable_packing

__all__ = ["enable_packing"]
