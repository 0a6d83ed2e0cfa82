"""One module a route, and the table of them all.

Read `route` (what a route is) and `table` first. Routes that take texts are `predict`, `classify`, `infer` with `tensors`,
`tokenize` and `explain`. Routes about the service itself are `models`, `monitor` and `docs`. `fields` and `openapi` are what
routes share.
"""
