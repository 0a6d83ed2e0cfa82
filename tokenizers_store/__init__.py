"""Tokenizers: how they are built and trained, and the trained ones, a folder each.

Read `pipelines` (what a tokenizer is made of), then `training`. `packages` and `corpora` fetch the labelled texts, for tokenizers
and models alike. `comparison` and `__main__` are the commands.
"""
