"""The sparse graph that stands for all pairs: its first prices and its edges. N, M: rows.

D: width, E: edges, C: edges in a chunk, T: sampled rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int

from saejax.matching.operands import Side, on_one_device
from saejax.matching.pricing import two_level_top_k

# Rows that the covariance is estimated from: its error, 1 % of the standard deviations, is far
# below what the choice of z leaves.
_COVARIANCE_ROWS = 8192
# Rows on which z is chosen, and their candidates: 256 x 131,072 similarities are 128 MiB.
_SAMPLE_ROWS, _SAMPLE_TOP = 256, 24
# Standard deviations above the mean to choose from. On most autoencoders 2 is chosen; 4 would
# overprice, and leave ten times as many edges in the end.
_DEVIATIONS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
# Pairs whose products are formed at a time: 12 MiB at D = 768, which caches hold.
_CHUNK_PAIRS = 1024
# Pairs of one call, one compiled shape whatever their number.
_CALL_PAIRS = 16 * _CHUNK_PAIRS


def popularity(x: Side, y: Side) -> Float64[np.ndarray, " M"]:
    """First prices of the rows of y: high where many rows of x are similar to it.

    Prices may be chosen freely without changing which matching is best. Those under which every
    column is among the best of about equally many rows need the fewest candidates:
    p_j = mean_i S_ij + z std_i S_ij, both in closed form from the first two moments of x, with the
    z under which the best columns of sampled rows repeat the least. Where N < M columns may
    stay free, at the least price, so the M - N least popular ones all get the least.

    Cost: M D^2 multiplications. The sample is the same in every call.
    """
    rng = np.random.default_rng(0)
    num_rows, num_columns = len(x), len(y)
    some = np.sort(rng.permutation(num_rows)[:_COVARIANCE_ROWS])
    # Of fewer rows than are wanted some come twice.
    sample = np.resize(np.sort(rng.permutation(num_rows)[:_SAMPLE_ROWS]), _SAMPLE_ROWS)
    some_ND = x.exact if len(some) == num_rows else x.rows[some]
    with on_one_device():
        mean, deviation = _moments(some_ND, jnp.asarray(len(some), jnp.float32), y.exact)
        mean_M = np.asarray(mean, np.float64)[:num_columns]
        deviation_M = np.asarray(deviation, np.float64)[:num_columns]
        prices = mean_M + np.outer(_DEVIATIONS, deviation_M)
        prices = with_floor(prices, num_columns - num_rows)
        padding = ((0, 0), (0, len(y.exact) - num_columns))
        padded = np.pad(prices.astype(np.float32), padding, constant_values=np.inf)
        best = np.asarray(
            _best_of_sample(x.rows[sample], y.exact, padded, min(_SAMPLE_TOP, num_columns))
        )
    repeats = [np.square(np.bincount(columns.ravel())).sum() for columns in best]
    return prices[int(np.argmin(repeats))]


def with_floor(prices: np.ndarray, num_free: int) -> np.ndarray:
    """Prices [..., M] shifted so that the `num_free` + 1 least are 0, as those of free columns.

    With none free it is the shift alone, which changes nothing that prices decide.
    """
    prices = prices - np.partition(prices, num_free)[..., num_free, None]
    return np.maximum(prices, 0) if num_free else prices


@jax.jit
def _moments(x_ND: jax.Array, count: jax.Array, y_MD: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each y_j . x_i over `count` rows; further ones are zero."""
    mean_D = x_ND.sum(axis=0) / count
    covariance_DD = x_ND.T @ x_ND / count - mean_D[:, None] * mean_D[None]
    variance_M = jnp.sum((y_MD @ covariance_DD) * y_MD, axis=1)
    return y_MD @ mean_D, jnp.sqrt(jnp.maximum(variance_M, 0))


@partial(jax.jit, static_argnums=3)
def _best_of_sample(x_TD: jax.Array, y_MD: jax.Array, prices: jax.Array, k: int) -> jax.Array:
    """[number of price vectors, T, k] columns."""
    similarity_TM = x_TD @ y_MD.T
    return jax.lax.map(lambda p_M: two_level_top_k(similarity_TM - p_M[None], k)[1], prices)


class Edges:
    """Pairs with their exact similarities: float64 products of the float32 rows.

    Attributes:
      rows, columns: [E] int32, sorted by row, then column, no pair twice.
      weights: [E] float64, each within D 2^-53 |a_i||b_j| of S_ij.
    """

    def __init__(self, a: Side, b: Side):
        self._a, self._b = a, b
        self._keys, self.weights = np.empty(0, np.int64), np.empty(0)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def num_bytes(self) -> int:
        """Of the keys and weights."""
        return self._keys.nbytes + self.weights.nbytes

    @property
    def rows(self) -> np.ndarray:
        """[E] int32."""
        return (self._keys // len(self._b)).astype(np.int32)

    @property
    def columns(self) -> np.ndarray:
        """[E] int32."""
        return (self._keys % len(self._b)).astype(np.int32)

    def add(self, rows: np.ndarray, columns: np.ndarray) -> int:
        """Adds pairs, of which some may be there already; returns how many were not."""
        keys = np.unique(rows.astype(np.int64) * len(self._b) + columns)
        place = np.searchsorted(self._keys, keys)
        known = np.zeros(len(keys), bool)
        inside = place < len(self._keys)
        known[inside] = self._keys[place[inside]] == keys[inside]
        keys, place = keys[~known], place[~known]
        if len(keys):
            weights = pair_products(self._a, self._b, keys // len(self._b), keys % len(self._b))
            self._keys = np.insert(self._keys, place, keys)
            self.weights = np.insert(self.weights, place, weights)
        return len(keys)


def pair_products(
    a: Side, b: Side, rows_E: Int[np.ndarray, " E"], columns_E: Int[np.ndarray, " E"]
) -> Float64[np.ndarray, " E"]:
    """a_i . b_j of pairs (i, j), in float64. Memory on the device: a, b in float32, and 12 MiB."""
    size = len(rows_E)
    pairs = np.zeros((2, -(-size // _CALL_PAIRS) * _CALL_PAIRS), np.int32)
    pairs[0, :size], pairs[1, :size] = rows_E, columns_E
    with jax.enable_x64(True), on_one_device():
        products = [
            _products(a.exact, b.exact, pairs[:, start : start + _CALL_PAIRS])
            for start in range(0, size, _CALL_PAIRS)
        ]
        return np.concatenate([np.asarray(part) for part in products])[:size]


@jax.jit
def _products(a_ND: jax.Array, b_MD: jax.Array, pairs: jax.Array) -> jax.Array:
    def chunk(_: None, pairs: jax.Array) -> tuple[None, jax.Array]:
        a_CD, b_CD = a_ND[pairs[0]], b_MD[pairs[1]]
        return None, jnp.sum(a_CD.astype(jnp.float64) * b_CD.astype(jnp.float64), axis=1)

    chunks = pairs.reshape(2, -1, _CHUNK_PAIRS).swapaxes(0, 1)
    return jax.lax.scan(chunk, None, chunks)[1].reshape(-1)
