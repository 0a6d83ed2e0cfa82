"""Tiny checkpoints with random weights, of every architecture of text classifiers that transformers knows.

They show what the service does to checkpoints that others wrote. `vocabularies` makes the tokenizers, `configs` the sizes,
`checkpoints` a folder of both with weights.
"""
