"""Architectures, their registration, attention backends and training."""

from models.registration import register_architectures

__all__ = ["register_architectures"]
