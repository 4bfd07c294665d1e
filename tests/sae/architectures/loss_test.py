"""Losses and gradients of every architecture against dense autodiff in plain numpy terms.

Letters: B tokens, D width, E width of a transcoder's target, N latents.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from saejax import mesh as mesh_lib
from saejax.config import MeshConfig, SaeConfig
from saejax.sae.architectures import ARCHITECTURES
from saejax.sae.init import Params
from saejax.sae.objective import Axes, Batch, Outcome, total_variance

B, D, E, N = 24, 6, 9, 64


def make_params(arch, dtype, seed=0, rounded=False, width_out=D, skip=False):
    rng = np.random.default_rng(seed)
    shapes = {"enc_rows": (N, D), "b_enc": (N,), "w_dec": (N, width_out), "b_dec": (width_out,)}
    if skip:
        shapes |= {"w_skip": (width_out, D)}
    if arch == "gated":
        shapes |= {"r_mag": (N,), "b_mag": (N,)}
    leaves = {name: rng.normal(size=shape) / 2 for name, shape in shapes.items()}
    if rounded:
        leaves = {name: np.round(2 * leaf) / 2 for name, leaf in leaves.items()}
    if arch == "jump_relu":
        leaves["threshold"] = rng.normal(size=N) / 4 + 0.3
    return Params(**{name: jnp.asarray(leaf, dtype) for name, leaf in leaves.items()})


def dense_top(x_BN, k, axis=1):
    """x where it is among the k largest; lower indices win ties."""
    rank = jnp.argsort(jnp.argsort(-lax.stop_gradient(x_BN), axis=axis, stable=True), axis=axis)
    return jnp.where(rank < k, x_BN, 0.0)


def fvu(x, found):
    return jnp.square(x - found).sum() / jnp.square(x - x.mean(0)).sum()


def oracle(params, x, target, dead, cfg):
    """The loss of the docstrings, with codes [B, N] in full; of a transcoder if it has a target."""
    y = x if target is None else target
    pre = (x if y is target else x - params.b_dec) @ params.enc_rows.T + params.b_enc
    positive = jax.nn.relu(pre)
    norm = jnp.sqrt(jnp.square(params.w_dec).sum(1))

    def decode(codes, params=params):
        skip = 0.0 if params.w_skip is None else x @ params.w_skip.T
        return codes @ params.w_dec + params.b_dec + skip

    def mse(codes):
        return jnp.square(y - decode(codes)).sum() / B

    if cfg.arch == "relu":
        return mse(positive) + cfg.sparsity_coefficient * (positive * norm).sum() / B
    if cfg.arch == "gated":
        magnitude = jax.nn.relu((pre - params.b_enc) * jnp.exp(params.r_mag) + params.b_mag)
        frozen = lax.stop_gradient(params) if cfg.gated_auxiliary == "frozen" else params
        return (
            mse(jnp.where(pre > 0, magnitude, 0.0))
            + jnp.square(y - decode(positive, frozen)).sum() / B
            + cfg.sparsity_coefficient * (positive * norm).sum() / B
        )
    if cfg.arch == "jump_relu":
        theta, width = jax.nn.relu(params.threshold), cfg.bandwidth
        # A step with the pseudo-derivative: its value is exact, its slope that of a ramp.
        above = positive > theta
        ramp = jnp.clip((lax.stop_gradient(positive) - theta) / width + 0.5, 0.0, 1.0)
        step = above + ramp - lax.stop_gradient(ramp)
        codes = jnp.where(above, positive, 0.0)
        codes += lax.stop_gradient(theta) * (ramp - lax.stop_gradient(ramp))
        return mse(codes) + cfg.sparsity_coefficient * step.sum() / B
    if cfg.arch == "batch_topk":
        spread = dense_top(positive, 4 * cfg.k)
        least = jnp.sort(lax.stop_gradient(spread).reshape(-1))[-min(cfg.k * B, spread.size)]
        codes = jnp.where((spread >= least) & (spread > 0), spread, 0.0)
    else:
        codes = dense_top(positive, cfg.k)
    error = lax.stop_gradient(y - decode(codes))
    parts = [fvu(y, decode(codes))]
    for size in cfg.prefixes:
        parts.append(fvu(y, decode(jnp.where(jnp.arange(N) < size, codes, 0.0))))
    total = sum(parts) / len(parts)
    if cfg.multi_topk:
        total += fvu(y, decode(dense_top(positive, 4 * cfg.k))) / 8
    if cfg.auxk_alpha:
        half = y.shape[1] // 2
        aux = dense_top(jnp.where(dead, positive, 0.0), half) @ params.w_dec
        scale = jnp.minimum(dead.sum() / half, 1.0)
        variance = jnp.square(y - y.mean(0)).sum()
        total += cfg.auxk_alpha * scale * jnp.square(error - aux).sum() / variance
    return total


def ours(params, x, target, dead, cfg, sizes=(1, 1, 1)):
    """Loss, gradients and outcome under the mesh, as in the training step."""
    mesh = mesh_lib.make_mesh(MeshConfig(*sizes), devices=jax.devices()[: np.prod(sizes)])
    axes = Axes("data", "latent")

    def local(params, x, target, dead):
        batch = Batch(
            x=x,
            target=target,
            total_variance=total_variance(x if target is None else target, "data"),
            num_tokens=jnp.asarray(B),
            dead=dead,
            sparsity_scale=jnp.ones((), x.dtype),
        )

        def loss(params):
            params = jax.tree.map(lambda leaf: lax.pcast(leaf, "data", to="varying"), params)
            return ARCHITECTURES[cfg.arch].loss(params, batch, cfg, axes)

        (value, outcome), grads = jax.value_and_grad(loss, has_aux=True)(params)
        fired = lax.psum(outcome.fired.astype(jnp.int32), "data") > 0
        return value, grads, outcome._replace(fired=fired)

    latent = {"b_dec": P(), "w_skip": P()}
    specs = Params(
        **{
            name: None if leaf is None else latent.get(name, P("latent"))
            for name, leaf in params._asdict().items()
        }
    )
    sharded = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(specs, P("data"), None if target is None else P("data"), P("latent")),
        out_specs=(P(), specs, Outcome(P(), P(), P("latent"), P())),
    )
    return jax.jit(sharded)(params, x, target, dead)


CASES = {
    "topk": SaeConfig(k=5),
    "topk of few": SaeConfig(k=N),
    "auxk": SaeConfig(k=4, auxk_alpha=0.5),
    "multi": SaeConfig(k=4, multi_topk=True),
    "all of topk": SaeConfig(k=3, auxk_alpha=0.3, multi_topk=True, prefixes=(8, 20)),
    "batch_topk": SaeConfig(arch="batch_topk", k=4),
    "all of batch_topk": SaeConfig(
        arch="batch_topk", k=3, auxk_alpha=0.3, multi_topk=True, prefixes=(20,)
    ),
    "relu": SaeConfig(arch="relu", sparsity_coefficient=0.7),
    "gated": SaeConfig(arch="gated", sparsity_coefficient=0.7),
    "gated, attached": SaeConfig(
        arch="gated", sparsity_coefficient=0.7, gated_auxiliary="attached"
    ),
    "jump_relu": SaeConfig(arch="jump_relu", sparsity_coefficient=0.7, bandwidth=0.2),
}


def data(dtype, seed=1, rounded=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, D)) * 2
    return jnp.asarray(np.round(x) if rounded else x, dtype), jnp.asarray(rng.random(N) < 0.4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param("float32", 2e-6, marks=pytest.mark.slow), ("float64", 1e-12)],
)
def test_loss_and_gradients_equal_dense_autodiff(case, dtype, tolerance):
    cfg = CASES[case]
    with jax.enable_x64(dtype == "float64"):
        params = make_params(cfg.arch, dtype)
        x, dead = data(dtype)
        value, grads, _ = ours(params, x, None, dead, cfg)
        assert_dense_autodiff_agrees(value, grads, (params, x, None, dead), cfg, tolerance)


@pytest.mark.parametrize("sizes", [(1, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_auxk_of_no_dead_latents_is_nothing(sizes):
    cfg = CASES["auxk"]
    params = make_params(cfg.arch, "float32")
    x, dead = data("float32")
    none = jnp.zeros_like(dead)
    value, grads, _ = ours(params, x, None, none, cfg, sizes)
    assert_dense_autodiff_agrees(value, grads, (params, x, None, none), cfg, 2e-6)
    without, _, _ = ours(params, x, None, dead, SaeConfig(k=cfg.k), sizes)
    assert float(value) == float(without)


def assert_dense_autodiff_agrees(value, grads, given, cfg, tolerance):
    with jax.numpy_rank_promotion("allow"):
        expected, oracle_grads = jax.jit(jax.value_and_grad(oracle), static_argnums=4)(
            *given, _Hashed(cfg)
        )
    assert float(value) == pytest.approx(float(expected), rel=tolerance)
    for name, mine in grads._asdict().items():
        theirs = getattr(oracle_grads, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            scale = float(jnp.abs(theirs).max())
            assert scale > 0
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance * scale)


SOME = (((1, 2, 4), "float32", True), ((1, 1, 1), "float64", False))
COMPLETE = ("all of topk", "all of batch_topk", "relu", "gated", "jump_relu")


@pytest.mark.parametrize(
    "case",
    [c if c in COMPLETE else pytest.param(c, marks=pytest.mark.slow) for c in CASES],
)
@pytest.mark.parametrize(
    ("sizes", "dtype", "skip"),
    [
        combination if combination in SOME else pytest.param(*combination, marks=pytest.mark.slow)
        for combination in itertools.product(
            [(1, 1, 1), (1, 2, 4), (1, 8, 1)], ["float32", "float64"], [False, True]
        )
    ],
)
def test_transcoders_equal_dense_autodiff(case, sizes, dtype, skip):
    cfg, tolerance = CASES[case], 2e-6 if dtype == "float32" else 1e-12
    with jax.enable_x64(dtype == "float64"):
        params = make_params(cfg.arch, dtype, width_out=E, skip=skip)
        x, dead = data(dtype)
        target = jnp.asarray(np.random.default_rng(2).normal(size=(B, E)) + 1.0, dtype)
        value, grads, _ = ours(params, x, target, dead, cfg, sizes)
        assert_dense_autodiff_agrees(value, grads, (params, x, target, dead), cfg, tolerance)


@pytest.mark.parametrize("case", ["relu", "gated"])
def test_gradients_of_a_decoder_of_zeros_are_finite(case):
    """The penalty's norms have no gradient there; the error's still moves the decoder."""
    cfg = CASES[case]
    params = make_params(cfg.arch, jnp.float32, width_out=E)
    params = params._replace(w_dec=jnp.zeros_like(params.w_dec))
    x, dead = data(jnp.float32)
    _, grads, _ = ours(params, x, jnp.ones((B, E)).at[0].set(3.0), dead, cfg)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert grads.w_dec.any()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [(1, 2, 4), pytest.param((1, 1, 8), marks=pytest.mark.slow)])
@pytest.mark.parametrize("rounded", [False, True])
def test_meshes_agree_also_on_ties(case, sizes, rounded):
    cfg = CASES[case]
    params = make_params(cfg.arch, jnp.float32, rounded=rounded)
    x, dead = data(jnp.float32, rounded=rounded)
    value, grads, outcome = ours(params, x, None, dead, cfg)
    found, sharded, seen = ours(params, x, None, dead, cfg, sizes)
    assert float(found) == pytest.approx(float(value), rel=1e-5)
    np.testing.assert_array_equal(seen.fired, outcome.fired)
    assert float(seen.active) == pytest.approx(float(outcome.active), rel=1e-6)
    for mine, one in zip(jax.tree.leaves(sharded), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(mine, one, rtol=0, atol=2e-6 * float(jnp.abs(one).max()))


def test_outcomes_count_what_is_active():
    x, dead = data(jnp.float32)
    for case in ("topk", "batch_topk", "relu", "gated", "jump_relu"):
        cfg = CASES[case]
        params = make_params(cfg.arch, jnp.float32)
        _, _, outcome = ours(params, x, None, dead, cfg)
        params = jax.tree.map(np.asarray, params)
        pre = np.asarray((np.asarray(x) - params.b_dec) @ params.enc_rows.T + params.b_enc)
        if case == "topk":
            codes = np.asarray(dense_top(jnp.maximum(pre, 0), cfg.k))
        elif case == "batch_topk":
            codes = np.where(pre >= np.sort(pre.ravel())[-cfg.k * B], pre, 0)
            assert float(outcome.threshold) == pytest.approx(codes[codes > 0].min(), rel=1e-5)
        elif case == "jump_relu":
            codes = np.where(np.maximum(pre, 0) > np.maximum(params.threshold, 0), pre, 0)
        elif case == "gated":
            magnitude = (pre - params.b_enc) * np.exp(params.r_mag) + params.b_mag
            codes = np.where(pre > 0, np.maximum(magnitude, 0), 0)
        else:
            codes = np.maximum(pre, 0)
        np.testing.assert_array_equal(outcome.fired, (codes > 0).any(0))
        assert float(outcome.active) == pytest.approx((codes > 0).sum(1).mean(), rel=1e-6)
        x_hat = codes @ np.asarray(params.w_dec) + np.asarray(params.b_dec)
        assert float(outcome.fvu) == pytest.approx(float(fvu(np.asarray(x), x_hat)), rel=1e-4)


class _Hashed:
    """A configuration as a static argument."""

    def __init__(self, cfg):
        self._cfg = cfg

    def __getattr__(self, name):
        return getattr(self._cfg, name)


@pytest.mark.parametrize("arch", ["topk", "batch_topk"])
def test_bfloat16_products_choose_and_nothing_else(arch):
    """Where all latents are chosen, and all dead ones, loss and gradients are as in float32.

    The factors have few bits, so that the product has the same sign in both.
    """
    cfg = SaeConfig(arch=arch, k=N, auxk_alpha=0.5, product_dtype="bfloat16")
    params = make_params(arch, "float32")
    params = params._replace(
        enc_rows=params.enc_rows.astype("bfloat16").astype("float32"),
        b_dec=jnp.round(4 * params.b_dec) / 4,
    )
    x, _ = data("float32", rounded=True)
    dead = jnp.arange(N) < D // 2
    value, grads, _ = ours(params, x, None, dead, cfg)
    assert_dense_autodiff_agrees(value, grads, (params, x, None, dead), cfg, 2e-6)
