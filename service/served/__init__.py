"""Which models are served, and from where."""
