"""Checkpoints of SAELens in training, and finetuned ones, made into what its inference uses.

Dimension letters: D activation width, N latents.

References:
  SAELens 6.54.12: `fold_activation_norm_scaling_factor`, `process_state_dict_for_saving_inference`
  (sae_lens/saes), `read_sae_components_from_disk` (sae_lens/loading/pretrained_sae_loaders.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from saejax.errors import InputError
from saejax.formats import weights

# Beside the weights of a checkpoint in training.
SCALER = "activation_scaler.json"
# Least norm of a decoder row that is divided by (`get_W_dec_norm`).
_LEAST_NORM = 1e-8


def input_scale(folder: Path) -> float | None:
    """The factor on activations that training estimated, if it is there and not yet folded.

    Raises:
      InputError: If it is no number that weights can be divided by.
    """
    path = folder / SCALER
    if not path.is_file():
        return None
    scale = weights.read_config(path).get("scaling_factor")
    if scale is None:
        return None
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    # Far inside float32, which the weights are.
    if not number or not 1e-30 < scale < 1e30:
        raise InputError(f"{path}: scaling_factor={scale!r} must be a number of 1e-30 to 1e30")
    return float(scale)


def with_thresholds(
    tensors: Mapping[str, np.ndarray], num_latents: int, path: Path, *, batch_topk: bool
) -> dict[str, np.ndarray]:
    """The tensors with a `threshold` [N] in place of its forms in training.

    That is one `topk_threshold` for all, of BatchTopK, or the logarithms of old JumpReLUs.

    Raises:
      InputError: If that of BatchTopK is missing, and as `weights.tensor`.
    """
    tensors = dict(tensors)
    if batch_topk:
        threshold = weights.tensor(tensors, "topk_threshold", (), path)
        del tensors["topk_threshold"]
        tensors["threshold"] = np.full(num_latents, threshold)
    elif "log_threshold" in tensors and "threshold" not in tensors:
        log_N = weights.tensor(tensors, "log_threshold", (num_latents,), path)
        del tensors["log_threshold"]
        with np.errstate(over="ignore"):  # Infinities are found when the tensor is read.
            tensors["threshold"] = np.exp(log_N)
    return tensors


def finetuned_scale(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], num_latents: int, path: Path
) -> np.ndarray | None:
    """What decoded codes are multiplied by, [N], after finetuning; None for nothing.

    Raises:
      InputError: If there are factors, and the configuration does not say that they are used.
    """
    if "scaling_factor" not in tensors:
        return None
    scale_N = weights.tensor(tensors, "scaling_factor", (num_latents,), path)
    if np.allclose(scale_N, 1):
        return None
    if config.get("finetuning_scaling_factor") is not True:
        raise InputError(
            f"{path}: scaling_factor is not 1, and its configuration does not say "
            "finetuning_scaling_factor=true"
        )
    return scale_N


def fold(
    own: dict[str, np.ndarray],
    path: Path,
    *,
    finetuned_scale: np.ndarray | None,
    input_scale: float | None,
    decoder_norms: bool,
    batch_topk: bool,
) -> None:
    """Moves factors on codes and activations, and norms of decoder rows, into the weights in place.

    The codes z ||W_dec|| of an autoencoder with `decoder_norms` are in units of the reconstruction,
    and so is the threshold of BatchTopK.

    Raises:
      InputError: If weights overflow.
    """
    # Overflows are found below.
    with np.errstate(over="ignore", invalid="ignore"):
        if finetuned_scale is not None:
            own["w_dec"] *= finetuned_scale[:, None]
        if input_scale is not None:
            own["w_enc"] *= input_scale
            own["w_dec"] /= input_scale
            own["b_dec"] /= input_scale
            if batch_topk and decoder_norms:
                own["threshold"] /= input_scale
        if decoder_norms:
            w_dec_ND = own["w_dec"]
            square_N = np.einsum("nd,nd->n", w_dec_ND, w_dec_ND, dtype=np.float64)
            norm_N = np.maximum(np.sqrt(square_N), _LEAST_NORM).astype(np.float32)
            own["w_enc"] *= norm_N[None]
            own["b_enc"] *= norm_N
            w_dec_ND /= norm_N[:, None]
    for name, value in own.items():
        if not np.isfinite(value).all():
            raise InputError(f"{path}: {name} overflows when scales are folded into the weights")
