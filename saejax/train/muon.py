"""Muon's orthogonalised update, for matrices whose rows are split over devices.

Optax's own iterates on a whole matrix, so it would orthogonalise each device's rows on their own.

Dimension letters: D activation width, N latents on this device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

# Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024),
# kellerjordan.github.io/posts/muon; sparsify 1.3.3 has the same in muon.py.
_STEPS = 5
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_EPSILON = 1e-7
# Liu et al., Muon is Scalable for LLM Training (2025), arXiv 2502.16982, section 2.2: entries of
# the update get the root mean square that is usual with Adam.
_SIZE = 0.2


def orthogonalize(x_ND: Float[Array, "N D"], latent_axis: str | None) -> Float[Array, "N D"]:
    """Brings the singular values of a matrix near 1, and keeps its singular vectors.

    Newton and Schulz's iteration, five times, from X / ||X||:

        X <- 3.4445 X - 4.7750 X A + 2.0315 X A^2,  A = X^T X

    which leaves singular values between 0.68 and 1.21, but those below 0.003 ||X||. A [D, D] is a
    sum over rows, so that devices exchange it and no rows; the result is that on one device, up
    to rounding. A matrix of zeros stays. Takes 20 N D^2 + 10 D^3 operations, as many as the encoder
    needs for 10 D tokens, so small batches are dominated by it.

    Args:
      x_ND: This device's rows.
      latent_axis: The axis of the mesh over which rows are split; None if each device has all.
    """

    def total(part: Array) -> Array:
        return part if latent_axis is None else lax.psum(part, latent_axis)

    x_ND = x_ND / (jnp.sqrt(total(jnp.square(x_ND).sum())) + _EPSILON)
    for _ in range(_STEPS):
        gram_DD = total(x_ND.T @ x_ND)
        x_ND = _LINEAR * x_ND + x_ND @ (_CUBIC * gram_DD + _QUINTIC * (gram_DD @ gram_DD))
    return x_ND


def orthogonal_updates(latent_axis: str | None) -> optax.GradientTransformation:
    """Each matrix orthogonalised, times 0.2 sqrt(max(N, D)) with the N of all devices."""

    def one(x_ND: Array) -> Array:
        num_rows = x_ND.shape[0] * (1 if latent_axis is None else lax.axis_size(latent_axis))
        return _SIZE * max(num_rows, x_ND.shape[1]) ** 0.5 * orthogonalize(x_ND, latent_axis)

    def update(updates: Any, params: Any) -> Any:
        del params
        return jax.tree.map(one, updates)

    return optax.stateless(update)
