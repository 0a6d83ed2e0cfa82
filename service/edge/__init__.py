"""An HTTP process: a connection's bytes become a request, its texts token ids, a worker's logits an answer.

Read in the order of a request: `http`, `app`, `access` and `keys`, `routes`, `scoring`, `text`. `telemetry` is what those who
watch are told.
"""
