"""OpenAI's autoencoders of GPT-2 small: one `.pt` file each, read without PyTorch.

Dimension letters: D activation width, N latents.

References:
  openai/sparse_autoencoder, model.py; Gao et al., "Scaling and evaluating sparse autoencoders",
  https://arxiv.org/abs/2406.04093, section 2 and appendix A.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from saejax.errors import InputError
from saejax.formats import torch_file, weights
from saejax.sae.sae import Sae

_FIELDS = {
    "pre_bias": "b_dec",
    "latent_bias": "b_enc",
    "encoder.weight": "w_enc",
    "decoder.weight": "w_dec",
}
# Counts of the training, which encode and decode do not use.
_STATISTICS = {"stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"}


def is_here(path: Path) -> bool:
    """Whether it is a file whose name ends in `.pt`."""
    return path.suffix == ".pt" and os.path.isfile(path)


def load(path: Path) -> Sae:
    """Reads an autoencoder.

    Files with TopK have normalised inputs, x' = (x - mean) / (std + 1e-5) with the standard
    deviation of a sample (D - 1 in its denominator), and take it back by x_hat' std + mean. This is
    `normalize_activations="layer_norm"` to the letter. Those with ReLU have not.

    The files do not say which hook point of GPT-2 small they are for; their address does.

    Raises:
      InputError: For a missing, broken or unsupported file.
    """
    values = torch_file.read(path)
    activation = values.pop("activation", "ReLU")
    state = values.pop("activation_state_dict", {})
    if not isinstance(activation, str) or activation not in ("ReLU", "TopK"):
        raise InputError(
            f"{path}: activation={activation!r:.80} cannot be read, only ReLU and TopK"
        )
    if not isinstance(state, dict):
        raise InputError(f"{path}: activation_state_dict must be a dictionary")
    if more := sorted(values.keys() - _FIELDS.keys() - _STATISTICS):
        raise InputError(
            f"{path}: {', '.join(more)!s:.200} in it is nothing that OpenAI's autoencoders have; "
            f"they have {', '.join(_FIELDS)}"
        )
    encoder = values.get("encoder.weight")
    if not isinstance(encoder, np.ndarray) or encoder.ndim != 2 or 0 in encoder.shape:
        raise InputError(f"{path}: no matrix encoder.weight; it is no autoencoder of OpenAI's")
    num_latents, d_model = encoder.shape
    shapes = {
        "pre_bias": (d_model,),
        "latent_bias": (num_latents,),
        "encoder.weight": (num_latents, d_model),
        "decoder.weight": (d_model, num_latents),
    }
    leaves: dict[str, Any] = {
        # A vector is its own transpose.
        field: weights.tensor(values, name, shapes[name], path).T
        for name, field in _FIELDS.items()
    }
    if activation == "ReLU":
        return Sae(**leaves, k=num_latents, arch="relu")
    k, after = weights.positive(state, "k", path), state.get("postact_fn")
    if k > num_latents:
        raise InputError(f"{path}: k={k} is more than its {num_latents} latents")
    if not isinstance(after, str) or after != "ReLU":
        raise InputError(f"{path}: postact_fn={after!r:.80} after TopK cannot be read, only 'ReLU'")
    return Sae(**leaves, k=k, arch="topk", normalize_activations="layer_norm")
