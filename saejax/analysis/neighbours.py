"""The most similar decoder rows of another autoencoder. N, M: latents, D: width, R: neighbours."""

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from saejax.matching.operands import Side
from saejax.matching.pricing import top_k
from saejax.matching.similarity import row_products
from saejax.progress import Progress


def neighbours(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    count: int,
    progress: Progress,
    *,
    mesh: Mesh,
) -> tuple[Int32[np.ndarray, "N R"], Float32[np.ndarray, "N R"]]:
    """For each row of a the rows of b with the largest cosines, descending.

    Chosen by float32 products, so that of rows closer than about 3e-6 any may be named; their
    cosines are then computed in float64. Cost and memory: as `pricing.top_k`, never [N, M].

    Args:
      a_ND: Unit rows, as from `directions`.
      b_MD: Unit rows.
      count: How many; R is at most M.
      progress: Advances by N rows.
      mesh: Devices that share the rows of a.

    Returns:
      Rows of b [N, R] and their cosines [N, R], in [-1, 1].
    """
    a, b = (Side(rows, dtype=jnp.dtype(jnp.float32), mesh=mesh) for rows in (a_ND, b_MD))
    kept = top_k(a, b, np.arange(len(a)), np.zeros(len(b)), count, progress.advance)
    products = [row_products(a_ND, b_MD[column_N]) for column_N in kept.columns.T]
    cosine_NR = np.clip(np.stack(products, axis=1), -1, 1)
    order_NR = np.argsort(-cosine_NR, axis=1, kind="stable")
    return (
        np.take_along_axis(kept.columns, order_NR, axis=1),
        np.take_along_axis(cosine_NR, order_NR, axis=1).astype(np.float32),
    )
