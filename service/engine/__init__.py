"""One model on one device: token ids in, logits out. It knows no HTTP.

Read `engine` first, then what it is made of: `weights`, `packs`, `compiling`, `graphs`. `cores` and `faults` serve the worker's
batch loop.
"""
