"""Which models are served, and where their files come from.

Read `catalog` first (a checkpoint folder becomes a served model), then `hub` (a repository becomes a folder) and `roster` (the
models that are served now, which may change).
"""
