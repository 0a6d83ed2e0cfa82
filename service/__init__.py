"""Serves registered text classifiers over HTTP. The way: edge, wire, tokenization, link; then worker, batching, engine."""

__version__ = "0.1.0"
