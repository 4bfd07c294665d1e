"""The cost 1 - cosine on a few candidates of every latent, for ott-jax. N, M: latents.

K: candidates of a latent, E: pairs, L: lines of up to `_LINE` pairs of one latent.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int
from ott.geometry.geometry import Geometry

from saejax.matching.candidates import popularity
from saejax.matching.operands import Side, bucket, host_or_gpu
from saejax.matching.pricing import top_k

# Candidates of every latent of either side. With 64, 4,096 latents then need 1 to 4 iterations
# on all pairs at any epsilon from 0.001 to 0.03; with 24, up to 29.
_CANDIDATES = 64
# Pairs in a line: a latent has 64 to a few hundred.
_LINE = 32
# Stands for minus infinity where infinity would make a NaN.
_NEVER = -1e30


class Lines(NamedTuple):
    """The pairs of each latent of one side. Padding has the cosine `_NEVER`."""

    partner: jax.Array  # [L, _LINE] int32, latent of the other side
    cosine: jax.Array  # [L, _LINE] float32
    latent: jax.Array  # [L] int32, ascending; one above the last in padding


@jax.tree_util.register_pytree_node_class
class CandidateGeometry(Geometry):
    """Cost C_ij = 1 - S_ij of some pairs; of all others it is infinite.

    An update costs time and memory in proportion to the pairs, 20 bytes each with padding.

    Args:
      rows: Pairs of each of the N latents of a.
      columns: The same pairs, of each of the M latents of b.
      epsilon: Regularisation.
      size: N and M.
    """

    def __init__(self, rows: Lines, columns: Lines, epsilon: Any, *, size: tuple[int, int]):
        super().__init__(epsilon=epsilon)
        self.rows, self.columns, self.size = rows, columns, size

    @property
    def shape(self) -> tuple[int, int]:
        """N and M."""
        return self.size

    @property
    def dtype(self) -> Any:
        """Of potentials and marginals."""
        return jnp.float32

    def apply_lse_kernel(
        self, f: jax.Array, g: jax.Array, eps: Any, vec: Any = None, axis: int = 0
    ) -> tuple[jax.Array, jax.Array]:
        """For axis 1: eps log sum_j exp((g_j - C_ij) / eps), [N]; for axis 0 with f, [M]."""
        if vec is not None:
            raise NotImplementedError("weights are not needed to solve for potentials")
        lines, h = (self.rows, g) if axis == 1 else (self.columns, f)
        num = self.size[1 - axis]
        logits = (lines.cosine + h[lines.partner]) / eps
        most = jax.ops.segment_max(
            logits.max(axis=1), lines.latent, num + 1, indices_are_sorted=True
        )
        parts = jnp.exp(logits - most[lines.latent][:, None]).sum(axis=1)
        total = jax.ops.segment_sum(parts, lines.latent, num + 1, indices_are_sorted=True)
        return eps * (most + jnp.log(total))[:num] - 1, jnp.ones(1)

    def with_epsilon(self, epsilon: float) -> "CandidateGeometry":
        """The same with another regularisation."""
        return CandidateGeometry(self.rows, self.columns, np.float32(epsilon), size=self.size)

    def tree_flatten(self):
        """Arrays and what is fixed, for JAX."""
        return (self.rows, self.columns, self._epsilon_init), {"size": self.size}

    @classmethod
    def tree_unflatten(cls, aux_data: dict[str, Any], children: tuple[Any, ...]):
        """The inverse of `tree_flatten`."""
        return cls(*children, **aux_data)


def candidate_geometry(
    a: Side,
    b: Side,
    start: tuple[np.ndarray, np.ndarray] | None,
    epsilon: float,
    on_rows: Callable[[int], None],
) -> tuple[CandidateGeometry, tuple[np.ndarray, np.ndarray]]:
    """The pairs of each latent that potentials favour, and potentials to start from.

    Kept are for each row of the smaller side the columns with the largest S_ij + g_j, and for
    each column the rows with the largest S_ij + f_i. Cost: 2 N M D multiplications.

    Args:
      a: Rows, N of them.
      b: Columns, M of them.
      start: Potentials f [N] and g [M]; by default g is minus the `popularity`.
      epsilon: Regularisation.
      on_rows: Called with the number of rows and columns done.

    Returns:
      The geometry, and the potentials f and g that were used.
    """
    swapped = len(a) > len(b)
    rows, columns = (b, a) if swapped else (a, b)
    if start is None:
        price_M = popularity(rows, columns)
    else:
        price_M = -np.asarray(start[0] if swapped else start[1], np.float64)
    best = top_k(rows, columns, np.arange(len(rows)), price_M, _CANDIDATES, on_rows)
    value_N = best.values[:, 0].astype(np.float64)
    back = top_k(columns, rows, np.arange(len(columns)), value_N, _CANDIDATES, on_rows)
    row_E = np.concatenate([_repeat(best.columns), back.columns.ravel()])
    column_E = np.concatenate([best.columns.ravel(), _repeat(back.columns)])
    cosine_E = np.concatenate(
        [
            (best.values + price_M[best.columns]).ravel(),
            (back.values + value_N[back.columns]).ravel(),
        ]
    ).astype(np.float32)
    _, first = np.unique(row_E.astype(np.int64) * len(columns) + column_E, return_index=True)
    row_E, column_E, cosine_E = row_E[first], column_E[first], cosine_E[first]
    lines = _lines(row_E, column_E, cosine_E, len(rows))
    by_column = np.argsort(column_E, kind="stable")
    back_lines = _lines(column_E[by_column], row_E[by_column], cosine_E[by_column], len(columns))
    if start is None:
        start = (-price_M, 1 - value_N) if swapped else (1 - value_N, -price_M)
    if swapped:
        lines, back_lines = back_lines, lines
    geometry = CandidateGeometry(lines, back_lines, np.float32(epsilon), size=(len(a), len(b)))
    return geometry, start


def _repeat(found_NK: Int[np.ndarray, "N K"]) -> Int[np.ndarray, " E"]:
    return np.repeat(np.arange(len(found_NK)), found_NK.shape[1])


def _lines(
    latent_E: Int[np.ndarray, " E"],
    partner_E: Int[np.ndarray, " E"],
    cosine_E: Float32[np.ndarray, " E"],
    num: int,
) -> Lines:
    """Lines of pairs that are sorted by latent; their number is rounded up to a bucket."""
    degree = np.bincount(latent_E, minlength=num)
    num_lines = -(-degree // _LINE)
    first_line = np.cumsum(num_lines) - num_lines
    position = np.arange(len(latent_E)) - (np.cumsum(degree) - degree)[latent_E]
    line, slot = first_line[latent_E] + position // _LINE, position % _LINE
    size = bucket(int(num_lines.sum()), 8)
    partner = np.zeros((size, _LINE), np.int32)
    cosine = np.full((size, _LINE), _NEVER, np.float32)
    partner[line, slot], cosine[line, slot] = partner_E, cosine_E
    latent = np.full(size, num, np.int32)
    latent[: num_lines.sum()] = np.repeat(np.arange(num), num_lines)
    return Lines(*jax.device_put((partner, cosine, latent), host_or_gpu()))
