"""Layers and kernels that replace torch's own when a model is served on a CPU.

`library` builds the kernels of `kernels.cpp`, which `attention` and `lstm` call. `linear` needs no kernel: it asks oneDNN.
"""
