"""Training: `python -m models.training` makes the shipped checkpoints.

Read `data` (the texts), `trainer` (one run, which uses `layers` and `packing`), then `recipes` (what is trained, and from what).

`inference`, `evaluation` and `baselines` give the figures that `card` prints. `pretraining` and `compare` (with `costs`) are
commands of their own.
"""
