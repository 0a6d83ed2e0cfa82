"""Attention backends for transformers' attention interface."""

from models.attention.stock import enable_packing

__all__ = ["enable_packing"]
