"""The optimizer of one autoencoder as an optax chain, run inside `jax.shard_map`.

- `adam`: the paper's, with linear warm-up and decay.
- `signum`: sign descent without a schedule, whose iterates are averaged (Defazio et al., The Road
  Less Scheduled, 2024, arXiv 2405.15682). Sparsify's default since 2025.
- `muon`: orthogonalised momentum for matrices, Adam for biases, as sparsify offers it.

Dimension letters: D activation width, N latents on this device.
"""

import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from saejax.config import Config
from saejax.sae.init import Params, unit_rows
from saejax.sae.rows import paired_dots
from saejax.train.muon import orthogonal_updates

# Peak learning rates. adam: 2e-4 / sqrt(N / 2^14), with which Paulo & Belrose train (sparsify,
# December 2024; the rule is from Gao et al. 2024, arXiv 2406.04093, section A.3). signum: 5e-3 by
# the same rule. muon: 2e-3 whatever N is (both sparsify 1.3.3, trainer.py).
_LR_AT_2_14_LATENTS = {"adam": 2e-4, "signum": 5e-3}
_LR_OF_MUON = 2e-3
_REFERENCE_LATENTS = 2**14
# sparsify 1.3.3, trainer.py: ScheduleFreeWrapper(SignSGD(...), momentum=0.95).
_SIGNUM_INTERPOLATION = 0.95
# sparsify 1.3.3, muon.py.
_MUON_MOMENTUM, _MUON_WEIGHT_DECAY = 0.95, 0.1


def learning_rate(cfg: Config) -> float:
    """Peak learning rate, lr_scale * 2e-4 / sqrt(num_latents / 2^14) of adam.

    With 5e-3 for 2e-4 that of signum; lr_scale * 2e-3 of muon.
    """
    if cfg.train.optimizer == "muon":
        return cfg.train.lr_scale * _LR_OF_MUON
    peak = cfg.train.lr_scale * _LR_AT_2_14_LATENTS[cfg.train.optimizer]
    return peak / math.sqrt(cfg.sae.num_latents / _REFERENCE_LATENTS)


def schedule(cfg: Config, num_steps: int) -> optax.Schedule:
    """The learning rate of step t = 0, 1, ... of `num_steps`; of muon, that of the matrices.

    adam: linear warm-up from 0 to the peak, then linear decay to 0 at `num_steps`,

        lr(t) = peak * min(t / warmup, (num_steps - t) / (num_steps - warmup)),

    as transformers' `get_linear_schedule_with_warmup`, which sparsify used; the first step
    has lr 0. A warm-up longer than the run is cut to the run. muon: the same without warm-up.
    signum: constant.
    """
    peak = learning_rate(cfg)
    if cfg.train.optimizer == "signum":
        return optax.schedules.constant_schedule(peak)
    warmup = 0 if cfg.train.optimizer == "muon" else cfg.train.warmup_steps
    return _up_and_down(peak, warmup, num_steps)


def _up_and_down(peak: float, warmup: int, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then linear decay."""
    warmup = min(warmup, num_steps)
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
        along_N = paired_dots(grads.w_dec, params.w_dec)
        return grads._replace(w_dec=grads.w_dec - along_N[:, None] * params.w_dec)

    return optax.stateless(project)


def scale_by_adam(*, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction m' / (sqrt(v') + eps), in place of the moments it is made from.

    m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2, m' = m / (1 - b1^t), v' = v / (1 - b2^t).
    The same as `optax.scale_by_adam`, from which XLA on CPUs makes a pass over the old moments for
    each of m, v and the parameters: it copies all moments first, to write the new ones over them,
    which costs half of the step's temporary memory. Here the moments are made in a loop of one turn
    whose length the compiler cannot know, so that it can neither merge what comes after nor copy.

    References:
      Kingma & Ba (2015), Adam, arXiv 1412.6980, algorithm 1.
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(
            jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params)
        )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        step = state.count + 1

        def moments(turn: jax.Array, old: Any) -> Any:
            # Always 1; a constant would let the compiler take these products out of the loop.
            one = jnp.where(turn < 1, 1.0, 0.0)
            m_weight, v_weight = one * (1 - b1), one * (1 - b2)
            return (
                jax.tree.map(lambda m, g: b1 * m + m_weight * g, old[0], updates),
                jax.tree.map(lambda v, g: b2 * v + v_weight * g * g, old[1], updates),
            )

        mu, nu = lax.fori_loop(0, jnp.minimum(step, 1), moments, (state.mu, state.nu))
        m_bias, v_bias = (1 - b ** step.astype(jnp.float32) for b in (b1, b2))
        direction = jax.tree.map(lambda m, v: (m / m_bias) / (jnp.sqrt(v / v_bias) + eps), mu, nu)
        return direction, optax.ScaleByAdamState(step, mu, nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    cfg: Config, num_steps: int, *, latent_axis: str
) -> optax.GradientTransformation:
    """Clip, project, step with the optimizer of the run; `apply_updates` takes its updates.

    With `sae.unit_decoder` false the decoder is free, and only clipped and stepped.

    References:
      sparsify at the paper's commits (December 2024): Adam (0.9, 0.999), eps 1e-8, clip 1.0
      per autoencoder before the projection. sparsify 1.3.3: signum, muon, no clip.
    """
    if cfg.train.optimizer == "signum":
        step = _signum(cfg)
    elif cfg.train.optimizer == "muon":
        step = _muon(cfg, num_steps, latent_axis)
    else:
        step = _adam(cfg, schedule(cfg, num_steps))
    clip = [clip_by_norm(cfg.train.grad_clip, latent_axis)] if cfg.train.grad_clip else []
    if not cfg.sae.unit_decoder:
        return optax.chain(*clip, step)
    return optax.chain(*clip, remove_parallel_gradient(), step)


def apply_updates(cfg: Config, params: Any, updates: Any) -> Any:
    """The parameters after a step, with decoder rows of unit norm if the run keeps them so."""
    params = optax.apply_updates(params, updates)
    return params._replace(w_dec=unit_rows(params.w_dec)) if cfg.sae.unit_decoder else params


def params_to_export(cfg: Config, params: Any, opt_state: optax.OptState) -> Any:
    """The parameters of stacked seeds as they should be used.

    Those of signum are the points y where gradients are taken; its result is the average
    x = (y - 0.05 z) / 0.95, with decoder rows of unit norm again. Others are what they are.
    """
    if cfg.train.optimizer != "signum":
        return params

    def is_average(node: Any) -> bool:
        return isinstance(node, optax.contrib.ScheduleFreeState)

    (average,) = filter(is_average, jax.tree.leaves(opt_state, is_leaf=is_average))
    params = jax.vmap(optax.contrib.schedule_free_eval_params)(average, params)
    if cfg.sae.unit_decoder:
        params = params._replace(w_dec=jax.vmap(unit_rows)(params.w_dec))
    return params


def _adam(cfg: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    train = cfg.train
    direction = scale_by_adam(b1=train.adam_b1, b2=train.adam_b2, eps=train.adam_eps)
    return optax.chain(direction, optax.scale_by_learning_rate(rate))


def _signum(cfg: Config) -> optax.GradientTransformation:
    """Steps z <- z - lr sign(g(y)), averages x of all z, and y = 0.95 x + 0.05 z.

    A unit-norm decoder is that of y, as in sparsify, and x follows from it.
    """
    rate = learning_rate(cfg)
    # The weight of a step in the average is lr^power. The rate is constant, so any power weighs
    # all steps alike, and the ones of power 0 are added up without rounding.
    return optax.contrib.schedule_free(
        optax.sign_sgd(rate), rate, b1=_SIGNUM_INTERPOLATION, weight_lr_power=0.0
    )


def _muon(cfg: Config, num_steps: int, latent_axis: str) -> optax.GradientTransformation:
    """Orthogonalised Nesterov momentum and weight decay for matrices; Adam for vectors.

    Sparsify's momentum is (1 - 0.95) times the one here, a factor that orthogonalisation drops.
    """

    def matrices(axis: str | None) -> optax.GradientTransformation:
        return optax.chain(
            optax.trace(_MUON_MOMENTUM, nesterov=True),
            orthogonal_updates(axis),
            optax.add_decayed_weights(_MUON_WEIGHT_DECAY),
            optax.scale_by_learning_rate(schedule(cfg, num_steps)),
        )

    # At the same peak rate, but with the warm-up.
    vectors = _adam(cfg, _up_and_down(learning_rate(cfg), cfg.train.warmup_steps, num_steps))
    parts: dict[Hashable, optax.GradientTransformation] = {
        "split": matrices(latent_axis),
        "whole": matrices(None),
        "vector": vectors,
    }

    def kinds(params: Any) -> Any:
        named = jax.tree.map(lambda leaf: "split" if leaf.ndim == 2 else "vector", params)
        # Every device has the whole skip connection.
        return named if params.w_skip is None else named._replace(w_skip="whole")

    return optax.partition(parts, kinds)
