"""What matched autoencoders have in common."""

from saejax.analysis import seeds

__all__ = ["seeds"]
