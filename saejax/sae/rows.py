"""Sums over rows of a weight matrix that codes pick, each made as suits the kind of device.

CPUs go row by row, in loops whose turns cost nothing: no row that is not picked is touched. On
accelerators each turn of a loop is the start of a kernel or more, and there are as many turns as
tokens: there a sum has as few steps as codes have slots, or is one dense product.

Dimension letters: B tokens, D activation width, N latents on this device, K active latents.
"""

import contextlib
from collections.abc import Callable, Iterator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Slots that are written out one after another when rows are added up.
_UNROLLED = 64

_pretending = False


@contextlib.contextmanager
def as_on_accelerators() -> Iterator[None]:
    """Traces what accelerators run, for `saejax.plan`, which compiles it for CPUs to count it."""
    global _pretending
    before, _pretending = _pretending, True
    try:
        yield
    finally:
        _pretending = before


def _by_device(*arrays: Array, cpu: Callable[..., Array], default: Callable[..., Array]) -> Array:
    if _pretending:
        return default(*arrays)
    return lax.platform_dependent(*arrays, cpu=cpu, default=default)


def weighted_rows(
    value_BK: Float[Array, "B K"], index_BK: Int[Array, "B K"], w_ND: Float[Array, "N D"]
) -> Float[Array, "B D"]:
    """sum_k value[b, k] w[index[b, k]], accumulated slot by slot: memory O(B D)."""
    whole = value_BK.shape[1] // _UNROLLED * _UNROLLED if value_BK.shape[1] > _UNROLLED else 0
    # Compiling grows with the slots written out, so that many are a loop over groups of them.
    acc_BD = 0.0 * value_BK[:, :1] * w_ND[index_BK[:, 0]] if whole else None
    if acc_BD is not None:

        def group(acc_BD: Array, part: tuple[Array, Array]) -> tuple[Array, None]:
            for value_B, index_B in zip(*part, strict=True):
                acc_BD += value_B[:, None] * w_ND[index_B]
            return acc_BD, None

        values, indices = (
            part_BK[:, :whole].T.reshape(-1, _UNROLLED, len(part_BK))
            for part_BK in (value_BK, index_BK)
        )
        acc_BD, _ = lax.scan(group, acc_BD, (values, indices))
    for slot in range(whole, value_BK.shape[1]):
        part_BD = value_BK[:, slot : slot + 1] * w_ND[index_BK[:, slot]]
        acc_BD = part_BD if acc_BD is None else acc_BD + part_BD
    assert acc_BD is not None  # There is at least one slot.
    return acc_BD


def row_dots(
    g_BD: Float[Array, "B D"], index_BK: Int[Array, "B K"], w_ND: Float[Array, "N D"]
) -> Float[Array, "B K"]:
    """<g[b], w[index[b, k]]> for all b and k.

    Memory: O(K D) on CPUs, token by token; O(B D) on accelerators, slot by slot.
    """
    return _by_device(g_BD, index_BK, w_ND, cpu=_row_dots_by_token, default=_row_dots_by_slot)


def _row_dots_by_token(g_BD: Array, index_BK: Array, w_ND: Array) -> Array:
    return lax.map(lambda token: w_ND[token[1]] @ token[0], (g_BD, index_BK))


def _row_dots_by_slot(g_BD: Array, index_BK: Array, w_ND: Array) -> Array:
    dots_KB = lax.map(lambda index_B: jnp.sum(g_BD * w_ND[index_B], axis=1), index_BK.T)
    return dots_KB.T


def scattered_rows(
    value_BK: Float[Array, "B K"],
    index_BK: Int[Array, "B K"],
    g_BD: Float[Array, "B D"],
    num_latents: int,
) -> Float[Array, "N D"]:
    """Adds value[b, k] g[b] to row index[b, k] of a zero [N, D] matrix.

    The indices of one token are distinct. So on CPUs each token is one scatter without collisions,
    and the sum over tokens has one fixed order: the result is bitwise reproducible. On accelerators
    it is C^T g with the codes C [B, N], which are as large as the pre-activations that were there
    before: a scatter of rows that collide is either not reproducible (GPU, atomic additions) or
    slow (TPU), and the product is what the encoder's is. As that one it has the precision of
    `jax_default_matmul_precision`.
    """

    def by_token(value_BK: Array, index_BK: Array, g_BD: Array) -> Array:
        return _scattered_by_token(value_BK, index_BK, g_BD, num_latents)

    def by_product(value_BK: Array, index_BK: Array, g_BD: Array) -> Array:
        return _scattered_by_product(value_BK, index_BK, g_BD, num_latents)

    return _by_device(value_BK, index_BK, g_BD, cpu=by_token, default=by_product)


def _scattered_by_token(value_BK: Array, index_BK: Array, g_BD: Array, num_latents: int) -> Array:
    def add(b: Array, acc_ND: Array) -> Array:
        update_KD = value_BK[b][:, None] * g_BD[b][None, :]
        return acc_ND.at[index_BK[b]].add(update_KD, unique_indices=True, mode="promise_in_bounds")

    # A zero that depends on the values: XLA would merge the equal zero buffers of the two
    # weight gradients, and then copy the merged one in full.
    zero = 0.0 * value_BK[0, 0]
    zeros_ND = jnp.broadcast_to(zero, (num_latents, g_BD.shape[1]))
    return lax.fori_loop(0, g_BD.shape[0], add, zeros_ND)


def _scattered_by_product(value_BK: Array, index_BK: Array, g_BD: Array, num_latents: int) -> Array:
    token_B1 = jnp.arange(value_BK.shape[0])[:, None]
    codes_BN = jnp.zeros((value_BK.shape[0], num_latents), value_BK.dtype)
    codes_BN = codes_BN.at[token_B1, index_BK].set(
        value_BK, unique_indices=True, mode="promise_in_bounds"
    )
    return codes_BN.T @ g_BD


def paired_dots(a_ND: Float[Array, "N D"], b_ND: Float[Array, "N D"]) -> Float[Array, " N"]:
    """<a[n], b[n]> for all n.

    On CPUs row by row: as one reduction it materialises the product, or runs slower where it is
    fused into what comes after.
    """
    return _by_device(a_ND, b_ND, cpu=_paired_by_row, default=_paired_by_reduction)


def _paired_by_row(a_ND: Array, b_ND: Array) -> Array:
    return lax.map(lambda rows: rows[0] @ rows[1], (a_ND, b_ND))


def _paired_by_reduction(a_ND: Array, b_ND: Array) -> Array:
    return jnp.sum(a_ND * b_ND, axis=1)
