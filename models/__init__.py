"""Architectures, and all that is done with them but serving.

An architecture is a folder with a `configuration_*.py` and a `modeling_*.py`; `new` starts one, and `registration` lists them.
`attention`, `cpu` and `int8` are ways to compute a model, `training` makes checkpoints, `inspect` reports on one, and
`tiny` makes some of other people's kinds.

What several rooms share stands here: `registration`, `loading` (a checkpoint folder) and `measuring` (time and memory of a piece
of work). So do two commands that are one file each: `publish` and `add_tokens`.
"""

from models.registration import register_architectures

__all__ = ["register_architectures"]
