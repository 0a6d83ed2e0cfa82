"""What everyone who scores texts shares: texts to token ids, logits to labelled scores."""
