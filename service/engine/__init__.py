"""One model on one device: token ids in, logits out. Knows no HTTP."""
