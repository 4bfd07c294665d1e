"""Pairs of row sets like the decoders of two seeds, for benchmarks. N: rows, D: width."""

import numpy as np
from jaxtyping import Float32


def planted_pair(
    num_rows: int, width: int, *, common_mean: float, seed: int
) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "N D"]]:
    """Rows like the decoders of two seeds: half of them shared, half independent, shuffled.

    Rows are Gaussian with covariance eigenvalues i^-0.5 in a random rotation, divided by their
    norms. A shared pair is g + s z and g + s z', with cosine 1 / (1 + s^2) up to chance, drawn
    uniformly from [0.6, 0.99].

    Args:
      num_rows: N.
      width: D.
      common_mean: Norm of a mean of all rows but z, in units of their root mean square norm
        without it. It makes some rows everyone's neighbours.
      seed: Of the numbers.

    Returns:
      Two sets of unit rows.
    """
    rng = np.random.default_rng(seed)
    spread_D = np.arange(1, width + 1, dtype=np.float32) ** -0.25
    mean_D = np.zeros(width, np.float32)
    mean_D[0] = common_mean * np.linalg.norm(spread_D)
    rotation_DD = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    num_shared = num_rows // 2

    def rows(count: int) -> np.ndarray:
        return rng.standard_normal((count, width), dtype=np.float32) * spread_D[None]

    shared_ND = _unit(rows(num_shared) + mean_D[None])
    cosine_N = rng.uniform(0.6, 0.99, num_shared)
    noise_N = np.sqrt(1 / cosine_N - 1).astype(np.float32)

    def side() -> np.ndarray:
        noisy_ND = _unit(shared_ND + noise_N[:, None] * _unit(rows(num_shared)))
        own_ND = _unit(rows(num_rows - num_shared) + mean_D[None])
        both_ND = np.concatenate([noisy_ND, own_ND])
        return _unit(both_ND[rng.permutation(num_rows)] @ rotation_DD)

    return side(), side()


def _unit(x_ND: np.ndarray) -> np.ndarray:
    norm_N = np.sqrt(np.einsum("nd,nd->n", x_ND, x_ND, dtype=np.float64))
    return np.divide(x_ND, norm_N[:, None], out=x_ND, casting="same_kind")
