"""One-to-one matching of the latents of two autoencoders, and its proof of optimality."""

from saejax.matching.match import match
from saejax.matching.matching import Certificate, Matching, save_matchings
from saejax.matching.verify import VerificationError, verify

__all__ = ["Certificate", "Matching", "VerificationError", "match", "save_matchings", "verify"]
