"""The benchmark: Valence, its peers and the bare forward, one after another on one machine.

In the order of a run: `__main__` plans it, `catalog` says which servers there are, `environments` installs what a peer needs,
`measuring` measures one server, `api` says how that server is asked, `answers` checks what it computes. `results` holds what was
found; `promises`, `markdown` and `plots` are made from it. `machine` says what the run was on, and `gpu` is the run for a GPU.
"""
