"""One training step of S stacked autoencoders on the same activations.

The step runs under `jax.shard_map` over ("seed", "data", "latent"): each device holds some
of the seeds, some of the tokens and some of the latents, and every exchange between devices
is written out. Seeds on one device run one after another, so each is computed exactly as if
it were alone and the temporaries of one seed are all that is held.

Dimension letters: S seeds, B tokens, D activation width, E width of a transcoder's target, N
latents, K active latents.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from saejax import mesh as mesh_lib
from saejax.config import Config
from saejax.mesh import DATA, LATENT, SEED
from saejax.sae.architectures import ARCHITECTURES
from saejax.sae.objective import Axes, Batch, Outcome, total_variance
from saejax.sae.sae import token_scale
from saejax.train.optim import apply_updates, global_norm
from saejax.train.state import TrainState

Metrics = dict[str, jax.Array]
# Metrics with one number a seed.
PER_SEED = ("train/fvu", "train/l0", "train/dead_frac", "train/grad_norm")
# Pre-activations of a chunk on a device: those of 2,048 tokens at the paper's 32,768 latents.
_CHUNK_BYTES = 2**28
# Weight of a new step in BatchTopK's threshold (SAELens: topk_threshold_lr).
_THRESHOLD_RATE = 0.01
# (state, activations [B, D], targets [B, E] of a transcoder or None) -> (state, metrics)
Step = Callable[..., tuple[TrainState, Metrics]]


def make_step(
    cfg: Config, optimizer: optax.GradientTransformation, state: TrainState, mesh: Mesh
) -> Step:
    """Compiles a step, which consumes the old state. One of a transcoder also takes targets.

    Args:
      cfg: The run.
      optimizer: From `saejax.train.optim`.
      state: A state, for its structure.
      mesh: Devices; B must divide by the axis "data".

    Returns:
      The step. Its metrics are the arrays [S] named in `PER_SEED`: FVU, mean active latents
      per token, fraction of latents silent for `dead_after_tokens`, gradient norm before
      clipping; and the scalar `train/total_variance`, the denominator of FVU, of the targets.
    """
    architecture = ARCHITECTURES[cfg.sae.arch]
    axes = Axes(DATA, LATENT)

    def gradients(params: Any, batch: Batch) -> tuple[Any, Outcome]:
        """Of this device's tokens, whose gradients are summed over "data"."""

        def loss(params: Any) -> tuple[Array, Outcome]:
            # The gradient of a parameter is a sum over the tokens of all devices on "data":
            # the transpose of this cast.
            params = jax.tree.map(lambda leaf: lax.pcast(leaf, DATA, to="varying"), params)
            return architecture.loss(params, batch, cfg.sae, axes)

        return jax.grad(loss, has_aux=True)(params)

    def one_seed(
        state: TrainState, x_BD: Array, target_BE: Array | None, total_var: Array
    ) -> tuple[TrainState, Metrics]:
        """A step of one autoencoder on this device's tokens and latents."""
        params: Any = state.params
        tokens = x_BD.shape[0] * lax.axis_size(DATA)
        ramp = (state.step + 1) / max(cfg.sae.sparsity_warmup_steps, 1)
        batch = Batch(
            x=x_BD,
            total_variance=total_var,
            num_tokens=jnp.asarray(tokens),
            dead=state.tokens_since_fired >= cfg.train.dead_after_tokens,
            sparsity_scale=jnp.minimum(ramp, 1.0).astype(jnp.float32),
            target=target_BE,
        )
        num_chunks = _num_chunks(cfg, len(x_BD), len(params.b_enc))
        if num_chunks == 1:
            grads, outcome = gradients(params, batch)
        else:
            x_CBD, target_CBE = jax.tree.map(
                lambda a: a.reshape(num_chunks, -1, a.shape[1]), (x_BD, target_BE)
            )

            def of_chunk(part):
                return gradients(params, batch._replace(x=part[0], target=part[1]))

            def add(done, part):
                more = of_chunk(part)
                return jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, done, more)

            # The first chunk stands for zeros, whose kind on the mesh would have to be told.
            first, others = (
                jax.tree.map(lambda a, at=at: a[at], (x_CBD, target_CBE))
                for at in (0, slice(1, None))
            )
            (grads, outcome), _ = lax.scan(lambda d, p: (add(d, p), None), of_chunk(first), others)
            outcome = outcome._replace(threshold=outcome.threshold / num_chunks)
        updates, opt_state = optimizer.update(grads, state.opt_state, params)
        fired_N = lax.psum(outcome.fired.astype(jnp.int32), DATA) > 0
        # Saturates well below the int32 limit, far above any dead_after_tokens.
        silent_N = jnp.minimum(state.tokens_since_fired + tokens, jnp.int32(2**30))
        silent_N = jnp.where(fired_N, 0, silent_N)
        dead_N = silent_N >= cfg.train.dead_after_tokens
        metrics = {
            "train/fvu": outcome.fvu,
            "train/l0": outcome.active,
            "train/dead_frac": lax.psum(dead_N.sum(), LATENT) / cfg.sae.num_latents,
            "train/grad_norm": global_norm(grads, LATENT),
        }
        # The first step has nothing to average with.
        rate = jnp.where(state.step == 0, 1.0, _THRESHOLD_RATE)
        return state._replace(
            params=apply_updates(cfg, params, updates),
            opt_state=opt_state,
            tokens_since_fired=silent_N,
            batch_threshold=state.batch_threshold
            + rate * (outcome.threshold - state.batch_threshold),
        ), metrics

    def local_step(
        state: TrainState, x_BD: Array, target_BE: Array | None
    ) -> tuple[TrainState, Metrics]:
        x_BD, target_BE = jax.tree.map(lambda a: a.astype(jnp.float32), (x_BD, target_BE))
        total_var = total_variance(x_BD if target_BE is None else target_BE, DATA)
        x_BD, target_BE = jax.tree.map(
            lambda a: lax.pcast(a, SEED, to="varying"), (x_BD, target_BE)
        )
        output_scale = state.input_scale if state.target_scale is None else state.target_scale
        stacked = (state.params, state.opt_state, state.tokens_since_fired, state.batch_threshold)

        # Over the numbers of the seeds, and not over the stacks themselves: a loop over these
        # writes its results to a second copy of the whole state.
        def body(stacked, seed):
            of_seed = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, seed, 0, False), stacked)
            seed_state = TrainState(*of_seed, input_scale=state.input_scale, step=state.step)
            new, metrics = one_seed(seed_state, x_BD, target_BE, total_var)
            done = new.params, new.opt_state, new.tokens_since_fired, new.batch_threshold
            stacked = jax.tree.map(
                lambda a, b: lax.dynamic_update_index_in_dim(a, b, seed, 0), stacked, done
            )
            return stacked, metrics

        stacked, metrics = lax.scan(body, stacked, jnp.arange(len(state.batch_threshold)))
        metrics["train/total_variance"] = total_var / jnp.square(output_scale)
        scales = {"input_scale": state.input_scale, "target_scale": state.target_scale}
        return TrainState(*stacked, **scales, step=state.step + 1), metrics

    specs = mesh_lib.state_specs(state)
    sharded = jax.shard_map(
        local_step,
        mesh=mesh,
        in_specs=(specs, P(DATA, None), P(DATA, None) if cfg.target_hookpoint else None),
        out_specs=(specs, {name: P(SEED) for name in PER_SEED} | {"train/total_variance": P()}),
        # On one device the sums over devices that the check inserts would be copies of gradients.
        check_vma=mesh.size > 1,
    )

    def step(state: TrainState, x_BD: Array, target_BE: Array | None = None):
        return sharded(state, x_BD, target_BE)

    step = jax.jit(step, donate_argnums=0)
    if cfg.train.input_scaling == "none":
        return step

    # Compiled on its own: XLA inlines the loop over one seed, and would then fuse this product
    # with what follows and round differently from the loop over several.
    @jax.jit
    def scaled(scale: Array, x_BD: Array) -> Array:
        x_BD = x_BD.astype(jnp.float32)
        return x_BD * (token_scale(x_BD) if cfg.train.input_scaling == "per_token" else scale)

    def scaled_step(state: TrainState, x_BD: Array, target_BE: Array | None = None):
        if target_BE is not None:
            target_BE = scaled(state.target_scale, target_BE)
        return step(state, scaled(state.input_scale, x_BD), target_BE)

    return scaled_step


def _num_chunks(cfg: Config, num_tokens: int, num_latents: int) -> int:
    """The least number of equal chunks of a device's tokens that are small enough."""
    most = cfg.train.chunk_tokens or max(_CHUNK_BYTES // (4 * num_latents), 1)
    count = -(-num_tokens // most)
    while num_tokens % count:
        count += 1
    return count
