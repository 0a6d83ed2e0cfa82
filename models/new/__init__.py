"""Starts an architecture: `python -m models.new NAME`."""
