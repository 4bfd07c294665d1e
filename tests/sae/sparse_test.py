"""Sparse codes and gradients against dense, obvious versions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

from saejax.sae import sparse

# Eager calls would compile their many parts one by one.
encode = jax.jit(sparse.encode_topk, static_argnums=(4, 5))
top_k = jax.jit(sparse.top_k, static_argnums=1)


def arrays(seed, B, D, N):
    keys = jax.random.split(jax.random.key(seed), 5)
    return (
        jax.random.normal(keys[0], (B, D)),
        jax.random.normal(keys[1], (N, D)),
        0.3 * jax.random.normal(keys[2], (N,)),
        0.3 * jax.random.normal(keys[3], (D,)),
    )


def dense_codes(x_BD, enc_rows_ND, b_enc_N, b_dec_D, k):
    """[B, N] codes with all but the k largest set to zero, by a full sort."""
    pre_BN = jnp.maximum((x_BD - b_dec_D[None]) @ enc_rows_ND.T + b_enc_N[None], 0.0)
    # Stable descending sort: the lower index wins a tie.
    rank_BN = jnp.argsort(jnp.argsort(-lax.stop_gradient(pre_BN), axis=1, stable=True), axis=1)
    return jnp.where(rank_BN < k, pre_BN, 0.0)


def scatter(values, indices, N):
    B = values.shape[0]
    return np.zeros((B, N), values.dtype) + np.asarray(
        jnp.zeros((B, N), values.dtype).at[jnp.arange(B)[:, None], indices].add(values)
    )


# Few shapes, since each compiles; many values.
@given(
    shape=st.sampled_from([(1, 1), (5, 2), (16, 4), (48, 48), (160, 3), (160, 9), (160, 11)]),
    seed=st.integers(0, 2**31),
    levels=st.integers(1, 50),
)
def test_top_k_equals_a_stable_sort_also_on_ties(shape, seed, levels):
    columns, k = shape
    x = np.random.default_rng(seed).integers(0, levels, (3, columns)).astype(np.float32)
    values, indices = top_k(jnp.asarray(x), k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(x, expected, 1))


@pytest.mark.parametrize("shape", [(7, 5, 48, 3), (4, 8, 16, 16), (3, 4, 10, 10), (1, 2, 1, 1)])
def test_codes_equal_dense(shape):
    B, D, N, k = shape
    x, enc, b_enc, b_dec = arrays(0, B, D, N)
    values, indices = encode(x, enc, b_enc, b_dec, k, None)
    assert values.shape == indices.shape == (B, k)
    np.testing.assert_allclose(
        scatter(values, indices, N), dense_codes(x, enc, b_enc, b_dec, k), rtol=1e-5, atol=1e-6
    )
    assert (np.diff(np.asarray(values), axis=1) <= 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("shape", [(9, 6, 64, 3), (5, 4, 32, 32), (3, 4, 10, 2)])
def test_all_gradients_equal_dense_autodiff(shape, dtype, tolerance):
    B, D, N, k = shape
    with jax.enable_x64(dtype == "float64"):
        inputs = [a.astype(dtype) for a in arrays(1, B, D, N)]
        w_dec = jax.random.normal(jax.random.key(9), (N, D), dtype)
        target = jax.random.normal(jax.random.key(8), (B, D), dtype)

        def sparse_loss(x, enc, b_enc, b_dec, w_dec):
            values, indices = sparse.encode_topk(x, enc, b_enc, b_dec, k, None)
            return jnp.square(sparse.decode_sparse(values, indices, w_dec) - target).sum()

        def dense_loss(x, enc, b_enc, b_dec, w_dec):
            return jnp.square(dense_codes(x, enc, b_enc, b_dec, k) @ w_dec - target).sum()

        ours = jax.jit(jax.grad(sparse_loss, argnums=(0, 1, 2, 3, 4)))(*inputs, w_dec)
        dense = jax.jit(jax.grad(dense_loss, argnums=(0, 1, 2, 3, 4)))(*inputs, w_dec)
        for mine, oracle in zip(ours, dense, strict=True):
            scale = float(jnp.abs(oracle).max())
            np.testing.assert_allclose(mine, oracle, rtol=0, atol=tolerance * scale)
            assert scale > 0


def test_selected_zeros_get_no_gradient():
    # One positive pre-activation, k = 2: the second code is 0 and must not pull its latent.
    x, enc = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0], [-1.0, 0.0], [-2.0, 0.0]])

    def loss(enc):
        values, indices = sparse.encode_topk(x, enc, jnp.zeros(3), jnp.zeros(2), 2, None)
        return sparse.decode_sparse(values, indices, jnp.ones((3, 2))).sum()

    gradient = jax.jit(jax.grad(loss))(enc)
    np.testing.assert_array_equal(gradient[1:], jnp.zeros((2, 2)))
    assert gradient[0, 0] == 2.0


@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("ties", ["none", "many"])
def test_latents_split_over_devices_select_the_same(devices, ties):
    B, D, N, k = 6, 5, 64, 12
    x, enc, b_enc, b_dec = arrays(2, B, D, N)
    if ties == "many":
        x, enc, b_enc, b_dec = jnp.round(x), jnp.round(enc), jnp.round(b_enc), jnp.zeros(D)
    mesh = jax.make_mesh((devices,), ("latent",), axis_types=(jax.sharding.AxisType.Auto,))

    def local(x, enc, b_enc, b_dec):
        x, b_dec = (lax.pcast(a, "latent", to="varying") for a in (x, b_dec))
        values, indices = sparse.encode_topk(x, enc, b_enc, b_dec, k, "latent")
        n = enc.shape[0]
        codes = jnp.zeros((B, n)).at[jnp.arange(B)[:, None], indices].add(values)
        return codes

    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P("latent"), P("latent"), P()),
        out_specs=P(None, "latent"),
    )
    codes = jax.jit(sharded)(x, enc, b_enc, b_dec)
    whole = scatter(*encode(x, enc, b_enc, b_dec, k, None), N)
    np.testing.assert_array_equal(codes != 0, whole != 0)
    np.testing.assert_allclose(codes, whole, rtol=1e-6)


def test_low_precision_chooses_and_values_stay_exact():
    rng = np.random.default_rng(0)
    x_BD, w_ND = rng.normal(size=(40, 24)), rng.normal(size=(64, 24))
    encoder = [jnp.asarray(a, jnp.float32) for a in (x_BD, w_ND, rng.normal(size=64), x_BD[0])]
    low_BN = sparse.preactivations(*encoder, dtype="bfloat16")
    assert low_BN.dtype == jnp.bfloat16
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float64) for a in (x_BD - x_BD[0], w_ND)]
    sums_BN = rounded[0] @ rounded[1].T + np.asarray(encoder[2], np.float64)
    np.testing.assert_allclose(np.asarray(low_BN, np.float64), sums_BN, rtol=2**-7, atol=1e-3)
    index_BK, _ = sparse.select(low_BN, 5, None)
    expected_BK = np.argsort(-np.asarray(low_BN, np.float32), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(index_BK, expected_BK)
    exact_BN = (x_BD - x_BD[0]) @ w_ND.T + np.asarray(encoder[2])
    np.testing.assert_allclose(
        sparse.preactivations_at(low_BN, index_BK, *encoder),
        np.take_along_axis(exact_BN, expected_BK, axis=1),
        atol=2e-5,
    )
