"""Attention backends for transformers' attention interface."""
