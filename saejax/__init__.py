"""saejax: how much of what a sparse autoencoder finds depends on its random seed?

Trains sparse autoencoders on a language model's activations, many seeds at once on the same
tokens in the same order, and matches their latents one to one.

Dimension key, used as suffixes of arrays: B tokens in a batch, L context length,
D activation width, N latents, M latents of the other autoencoder, K active latents per
token, S seeds, V vocabulary, H heads, W windows.
"""

from saejax import analysis
from saejax.analysis.compare import Comparison, compare
from saejax.config import Config
from saejax.errors import InputError
from saejax.formats.load import load_sae, save_sae
from saejax.matching import Certificate, Matching, VerificationError, match, verify
from saejax.sae.sae import Codes, Sae, decode, encode

__version__ = "0.1.0"

__all__ = [
    "Certificate",
    "Codes",
    "Comparison",
    "Config",
    "InputError",
    "Matching",
    "Sae",
    "VerificationError",
    "analysis",
    "compare",
    "decode",
    "encode",
    "load_sae",
    "match",
    "save_sae",
    "verify",
]
