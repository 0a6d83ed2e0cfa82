"""A worker process: a queue, batches, one device."""
