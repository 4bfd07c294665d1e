"""The optimizer of one autoencoder as an optax chain, run inside `jax.shard_map`.

Dimension letters: D activation width, N latents on this device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from saejax.config import Config, learning_rate
from saejax.sae.init import Params, unit_rows


def schedule(cfg: Config, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to the peak, then linear decay to 0 at `num_steps`.

    lr(t) = peak * min(t / warmup, (num_steps - t) / (num_steps - warmup)), for t = 0, 1, ...
    as transformers' `get_linear_schedule_with_warmup`, which sparsify used; the first step
    has lr 0. A warm-up longer than the run is cut to the run.
    """
    peak, warmup = learning_rate(cfg), min(cfg.train.warmup_steps, num_steps)
    return optax.schedules.join_schedules(
        [
            optax.schedules.linear_schedule(0.0, peak, max(warmup, 1)),
            optax.schedules.linear_schedule(peak, 0.0, max(num_steps - warmup, 1)),
        ],
        [warmup],
    )


def global_norm(tree: Params, latent_axis: str) -> jax.Array:
    """Norm of all entries, over all devices that hold latents of this autoencoder."""
    # Every device has the whole of these.
    whole = [tree.b_dec] if tree.w_skip is None else [tree.b_dec, tree.w_skip]
    split = jax.tree.leaves(tree._replace(b_dec=None, w_skip=None))
    local = sum(jnp.square(leaf).sum() for leaf in split)
    common = sum(jnp.square(leaf).sum() for leaf in whole)
    return jnp.sqrt(lax.psum(local, latent_axis) + common)


def clip_by_norm(max_norm: float, latent_axis: str) -> optax.GradientTransformation:
    """Scales the gradients of an autoencoder down to a norm of at most `max_norm`.

    As torch's `clip_grad_norm_`, over latents that may be split over devices.
    """

    def clip(grads: Any, params: Any) -> Any:
        del params
        # 1e-6 as in torch.
        factor = jnp.minimum(1.0, max_norm / (global_norm(grads, latent_axis) + 1e-6))
        return jax.tree.map(lambda g: g * factor, grads)

    return optax.stateless(clip)


def remove_parallel_gradient() -> optax.GradientTransformation:
    """Projects the decoder's gradient on the tangent of the unit sphere: g - (g.w) w.

    References:
      Bricken et al., Towards Monosemanticity (2023), "Autoencoder training".
    """

    def project(grads: Any, params: Any) -> Any:
        along_N1 = (grads.w_dec * params.w_dec).sum(axis=1, keepdims=True)
        return grads._replace(w_dec=grads.w_dec - along_N1 * params.w_dec)

    return optax.stateless(project)


def keep_unit_decoder() -> optax.GradientTransformation:
    """Changes the update so that decoder rows have unit norm after it."""

    def renormalise(updates: Any, params: Any) -> Any:
        target_ND = unit_rows(params.w_dec + updates.w_dec)
        return updates._replace(w_dec=target_ND - params.w_dec)

    return optax.stateless(renormalise)


def make_optimizer(
    cfg: Config, num_steps: int, *, latent_axis: str
) -> optax.GradientTransformation:
    """Clip, project, Adam with the schedule, unit-norm decoder: the recipe of the paper.

    With `sae.unit_decoder` false the decoder is free, and only clipped and stepped.

    References:
      sparsify at the paper's commits (December 2024): Adam (0.9, 0.999), eps 1e-8, clip 1.0
      per autoencoder before the projection.
    """
    adam = optax.adam(
        schedule(cfg, num_steps),
        b1=cfg.train.adam_b1,
        b2=cfg.train.adam_b2,
        eps=cfg.train.adam_eps,
    )
    clip = clip_by_norm(cfg.train.grad_clip, latent_axis)
    if not cfg.sae.unit_decoder:
        return optax.chain(clip, adam)
    return optax.chain(clip, remove_parallel_gradient(), adam, keep_unit_decoder())
