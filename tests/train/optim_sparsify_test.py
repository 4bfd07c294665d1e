"""Signum and muon against the optimizer classes of sparsify, where that is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig
from saejax.sae.init import Params
from saejax.train import optim

torch = pytest.importorskip("torch")
muon = pytest.importorskip("sparsify.muon")
sign_sgd = pytest.importorskip("sparsify.sign_sgd")
schedulefree = pytest.importorskip("schedulefree")

N, D, STEPS = 24, 7, 10


def ours(cfg, params, grads_per_step):
    """Parameters after the steps, and those to export."""
    optimizer = optim.make_optimizer(cfg, STEPS, latent_axis="latent")

    def local(params, grads_per_step):
        state = optimizer.init(params)
        for grads in grads_per_step:
            updates, state = optimizer.update(grads, state, params)
            params = optim.apply_updates(cfg, params, updates)
        stacked = jax.tree.map(lambda leaf: leaf[None], (params, state))
        return params, jax.tree.map(lambda x: x[0], optim.params_to_export(cfg, *stacked))

    mesh = mesh_lib.make_mesh(MeshConfig(1, 1, 1))
    run = jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    return jax.jit(run)(*jax.tree.map(jnp.asarray, (params, grads_per_step)))


def theirs(params, grads_per_step, optimizers, schedulers):
    """The order of sparsify's trainer: unit decoder, projection, steps, schedules."""
    for grads in grads_per_step:
        with torch.no_grad():
            w_dec = params.w_dec
            w_dec /= w_dec.norm(dim=1, keepdim=True) + torch.finfo(torch.float32).eps
            for leaf, grad in zip(params[:4], grads[:4], strict=True):
                leaf.grad = torch.tensor(grad)
            w_dec.grad -= (w_dec.grad * w_dec).sum(1, keepdim=True) * w_dec
        for stage in (*optimizers, *schedulers):
            stage.step()


def draw():
    rng = np.random.default_rng(0)

    def one():
        shapes = ((N, D), (N,), (N, D), (D,))
        return Params(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))

    params = one()
    params = params._replace(w_dec=params.w_dec / np.linalg.norm(params.w_dec, axis=1)[:, None])
    return params, [one() for _ in range(STEPS)]


def to_torch(params):
    return Params(*(torch.nn.Parameter(torch.tensor(leaf)) for leaf in params[:4]))


def make_config(optimizer):
    cfg = Config()
    cfg.sae.num_latents, cfg.train.optimizer, cfg.train.lr_scale = N, optimizer, 0.1
    cfg.train.grad_clip = 0.0
    return cfg


def unit(w_dec):
    return w_dec / np.linalg.norm(w_dec, axis=1, keepdims=True)


def assert_close(mine, peer, atol):
    for name in ("enc_rows", "b_enc", "b_dec"):
        np.testing.assert_allclose(getattr(mine, name), getattr(peer, name).detach(), atol=atol)
    np.testing.assert_allclose(mine.w_dec, unit(peer.w_dec.detach().numpy()), atol=atol)


def test_signum_and_its_average():
    cfg = make_config("signum")
    params, grads_per_step = draw()
    y, x = ours(cfg, params, grads_per_step)
    peer = to_torch(params)
    base = sign_sgd.SignSGD(list(peer[:4]), lr=optim.learning_rate(cfg))
    wrapper = schedulefree.ScheduleFreeWrapper(base, momentum=0.95)
    wrapper.train()
    theirs(peer, grads_per_step, [wrapper], [])
    assert_close(y, peer, atol=2e-6)
    # sparsify normalises the decoder before a step and exports it after one: their average is
    # that of a y which is not of unit norm yet.
    with torch.no_grad():
        peer.w_dec.copy_(torch.tensor(unit(peer.w_dec.numpy())))
    wrapper.eval()
    assert_close(x, peer, atol=2e-6)


def test_muon(monkeypatch):
    transformers = pytest.importorskip("transformers")
    # Theirs iterates in bfloat16, with errors of a few per cent.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    cfg = make_config("muon")
    cfg.train.warmup_steps = 4
    params, grads_per_step = draw()
    mine, _ = ours(cfg, params, grads_per_step)
    peer, rate = to_torch(params), optim.learning_rate(cfg)
    optimizers = [
        muon.Muon([peer.enc_rows, peer.w_dec], lr=rate),
        torch.optim.Adam([peer.b_enc, peer.b_dec], lr=rate),
    ]
    schedulers = [
        transformers.get_linear_schedule_with_warmup(optimizer, warmup, STEPS)
        for optimizer, warmup in zip(optimizers, (0, 4), strict=True)
    ]
    theirs(peer, grads_per_step, optimizers, schedulers)
    assert_close(mine, peer, atol=5e-6)
