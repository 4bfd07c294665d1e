"""The record: encode, decode, and its behaviour as a pytree."""

import jax
import jax.numpy as jnp
import numpy as np

from saejax.sae.sae import Codes, Sae, decode, encode


def make(D=6, N=40, k=4):
    keys = jax.random.split(jax.random.key(0), 4)
    return Sae(
        w_enc=jax.random.normal(keys[0], (D, N)),
        b_enc=jax.random.normal(keys[1], (N,)),
        w_dec=jax.random.normal(keys[2], (N, D)),
        b_dec=jax.random.normal(keys[3], (D,)),
        k=k,
    )


def test_reconstruction_equals_numpy():
    sae = make()
    x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    w_enc, b_enc, w_dec, b_dec = (
        np.asarray(a) for a in (sae.w_enc, sae.b_enc, sae.w_dec, sae.b_dec)
    )
    codes = encode(sae, jnp.asarray(x))
    assert isinstance(codes, Codes)
    x_hat = decode(sae, codes)
    for token in range(9):
        pre = np.maximum((x[token] - b_dec) @ w_enc + b_enc, 0)
        best = np.argsort(-pre, kind="stable")[:4]
        np.testing.assert_allclose(codes.values[token], pre[best], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            x_hat[token], pre[best] @ w_dec[best] + b_dec, rtol=1e-4, atol=1e-5
        )


def test_sizes_and_tree():
    sae = make()
    assert (sae.num_latents, sae.d_model) == (40, 6)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, sae)
    assert doubled.k == 4
    np.testing.assert_array_equal(doubled.w_dec, 2 * sae.w_dec)
