"""Serves registered text classifiers over HTTP. A request passes edge, wire, tokenization, link; then worker, batching, engine."""

__version__ = "0.1.0"
