"""The record: encode, decode, and its behaviour as a pytree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax.errors import InputError
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


@pytest.mark.parametrize("skip", [False, True])
def test_transcoders_equal_numpy(skip):
    rng = np.random.default_rng(5)
    w_enc, b_enc, w_dec, b_dec, w_skip, x = (
        rng.normal(size=shape).astype(np.float32)
        for shape in ((6, 40), (40,), (40, 9), (9,), (9, 6), (7, 6))
    )
    sae = Sae(w_enc, b_enc, w_dec, b_dec, k=4, transcoder=True, w_skip=w_skip if skip else None)
    assert (sae.d_model, sae.d_out, sae.num_latents) == (6, 9, 40)
    pre = np.maximum(x @ w_enc + b_enc, 0)
    dense = np.where(np.argsort(np.argsort(-pre, axis=1, kind="stable"), axis=1) < 4, pre, 0)
    expected = dense @ w_dec + b_dec + (x @ w_skip.T if skip else 0)
    codes = encode(sae, jnp.asarray(x))
    np.testing.assert_allclose(decode(sae, codes, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-4)
    if skip:
        with pytest.raises(InputError, match=r"give decode\(sae, codes, x\)"):
            decode(sae, codes)
    else:
        np.testing.assert_allclose(decode(sae, codes), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["relu", "jump_relu", "gated"])
def test_codes_of_other_architectures_equal_numpy(arch):
    rng = np.random.default_rng(3)
    sae = make(N=100, k=100)
    r_mag, b_mag = rng.normal(size=(2, 100)).astype(np.float32) / 2
    threshold = rng.random(100).astype(np.float32)
    extra = {"jump_relu": {"threshold": threshold}, "gated": {"r_mag": r_mag, "b_mag": b_mag}}
    sae = sae.replace(arch=arch, **extra.get(arch, {}))
    x = rng.normal(size=(9, 6)).astype(np.float32)
    inner = (x - np.asarray(sae.b_dec)) @ np.asarray(sae.w_enc)
    pre = inner + np.asarray(sae.b_enc)
    dense = np.maximum(pre, 0)
    if arch == "jump_relu":
        dense = np.where(dense > threshold, dense, 0)
    elif arch == "gated":
        dense = np.where(pre > 0, np.maximum(inner * np.exp(r_mag) + b_mag, 0), 0)
    codes = encode(sae, jnp.asarray(x))
    found = np.zeros_like(dense)
    np.put_along_axis(found, np.asarray(codes.indices), np.asarray(codes.values), 1)
    np.testing.assert_allclose(found, dense, rtol=1e-4, atol=1e-5)
    # More than 64 slots are added up in a loop.
    expected = dense @ np.asarray(sae.w_dec) + np.asarray(sae.b_dec)
    np.testing.assert_allclose(decode(sae, codes), expected, rtol=1e-4, atol=1e-4)
