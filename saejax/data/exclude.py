"""Positions of a window that are not trained on: their places go to others of the same window.

Dimension letters: B windows, L tokens of a window, D activation width, V special token ids.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saejax.config import DataConfig

# Name of the metric: fraction of a step's positions that others of their window replaced.
REPLACED = "data/replaced_frac"


class Kept(NamedTuple):
    """What is left of captured windows.

    Attributes:
      activations: By hook point, [B, L - skip_tokens, D].
      replaced_BL: Whether a position's activations are those of another.
    """

    activations: dict[str, Float[Array, "B L D"]]
    replaced_BL: Bool[Array, "B L"]


def excludes(data: DataConfig) -> bool:
    """Whether any position beside the first `skip_tokens` can be left out."""
    return data.exclude_special_tokens or data.max_norm_multiple > 0


def keep_tokens(
    tokens_BL: Int[Array | np.ndarray, "B L"],
    captured: Mapping[str, Float[Array, "B L _"]],
    data: DataConfig,
    *,
    special_ids: Int[np.ndarray, " V"],
    norms_of: str,
) -> Kept:
    """Drops the first `data.skip_tokens` positions and replaces those that `data` excludes.

    Every hook point loses the same positions. The r-th excluded position of a window, r = 0, 1,
    ..., gets the activations of its (r mod n)-th kept one, of n: a function of the window alone,
    whatever is captured beside it. A window with none kept stays as it is.

    Args:
      tokens_BL: Token ids.
      captured: Activations by hook point.
      data: What to leave out.
      special_ids: Ids that `data.exclude_special_tokens` leaves out.
      norms_of: Hook point of the norms that `data.max_norm_multiple` is about.

    References:
      Sun et al. 2024, arXiv 2402.17762, section 2: massive activations.
    """
    skip = data.skip_tokens
    tokens_BL = jnp.asarray(tokens_BL)[:, skip:]
    activations = {name: x_BLD[:, skip:] for name, x_BLD in captured.items()}
    if not excludes(data):
        return Kept(activations, jnp.zeros(tokens_BL.shape, bool))
    keep_BL = jnp.ones(tokens_BL.shape, bool)
    if data.exclude_special_tokens:
        keep_BL &= ~jnp.isin(tokens_BL, jnp.asarray(special_ids))
    if data.max_norm_multiple:
        norm_BL = jnp.linalg.norm(activations[norms_of].astype(jnp.float32), axis=2)
        limit_B1 = data.max_norm_multiple * jnp.median(norm_BL, axis=1, keepdims=True)
        # What is not finite stays, for others to find: it is a fault, not a massive activation.
        keep_BL &= (norm_BL <= limit_B1) | ~jnp.isfinite(norm_BL)
    from_BL = taken_from(keep_BL)
    return Kept(
        {n: jnp.take_along_axis(x, from_BL[..., None], axis=1) for n, x in activations.items()},
        from_BL != jnp.arange(from_BL.shape[1])[None],
    )


def taken_from(keep_BL: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """For each position of a window the one whose activations it gets: its own if kept.

    Example:
      >>> taken_from(jnp.array([[True, False, False, True, False]])).tolist()
      [[0, 0, 3, 3, 0]]
    """
    own_BL = jnp.broadcast_to(jnp.arange(keep_BL.shape[1])[None], keep_BL.shape)
    kept_first_BL = jnp.argsort(~keep_BL, axis=1, stable=True)
    kept_B1 = keep_BL.sum(1, keepdims=True)
    rank_BL = jnp.cumsum(~keep_BL, axis=1) - 1
    other_BL = jnp.take_along_axis(kept_first_BL, rank_BL % jnp.maximum(kept_B1, 1), axis=1)
    return jnp.where(keep_BL | (kept_B1 == 0), own_BL, other_BL)
