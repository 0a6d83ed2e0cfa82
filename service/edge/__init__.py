"""An HTTP process: a connection's bytes become a request, its texts token ids, a worker's logits an answer."""
