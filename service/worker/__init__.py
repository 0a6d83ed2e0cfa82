"""A worker process: a queue of texts, batches, one device.

Read `process` first, then the way of a text: `connections`, `queue`, `batch_loop`, `meter`. Beside the way lie `failures` (a
batch that failed), `models` (loaded and dropped while the worker runs), `explaining` and `watchdog`.
"""
