"""One training step of S stacked autoencoders on the same activations.

The step runs under `jax.shard_map` over ("seed", "data", "latent"): each device holds some
of the seeds, some of the tokens and some of the latents, and every exchange between devices
is written out. Seeds on one device run one after another, so each is computed exactly as if
it were alone and the temporaries of one seed are all that is held.

Dimension letters: S seeds, B tokens, D activation width, N latents, K active latents.
"""

from collections.abc import Callable

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
from saejax.sae import losses
from saejax.train.optim import global_norm
from saejax.train.state import TrainState

Metrics = dict[str, jax.Array]
# Metrics with one number a seed.
PER_SEED = ("train/fvu", "train/l0", "train/dead_frac", "train/grad_norm")
Step = Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]


def make_step(
    cfg: Config, optimizer: optax.GradientTransformation, state: TrainState, mesh: Mesh
) -> Step:
    """Compiles (state, activations [B, D]) -> (state, metrics). The old state is consumed.

    Args:
      cfg: The run.
      optimizer: From `saejax.train.optim`.
      state: A state, for its structure.
      mesh: Devices; B must divide by the axis "data".

    Returns:
      The step. Its metrics are the arrays [S] named in `PER_SEED`: FVU, mean active latents
      per token, fraction of latents silent for `dead_after_tokens`, gradient norm before
      clipping; and the scalar `train/total_variance`, the denominator of FVU.
    """

    def one_seed(state: TrainState, x_BD: Array, total_var: Array) -> tuple[TrainState, Metrics]:
        """A step of one autoencoder on this device's tokens and latents."""

        def loss(params):
            # The gradient of a parameter is a sum over the tokens of all devices on "data":
            # the transpose of this cast.
            params = jax.tree.map(lambda leaf: lax.pcast(leaf, DATA, to="varying"), params)
            return losses.topk_fvu(
                params, x_BD, total_var, k=cfg.sae.k, data_axis=DATA, latent_axis=LATENT
            )

        (fvu, codes), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        fired_N = jnp.zeros(state.tokens_since_fired.shape, jnp.int32)
        active_BK = (codes.values > 0).astype(jnp.int32)
        fired_N = lax.psum(fired_N.at[codes.indices].max(active_BK), DATA) > 0
        tokens = x_BD.shape[0] * lax.axis_size(DATA)
        # Saturates well below the int32 limit, far above any dead_after_tokens.
        silent_N = jnp.minimum(state.tokens_since_fired + tokens, jnp.int32(2**30))
        silent_N = jnp.where(fired_N, 0, silent_N)
        dead_N = silent_N >= cfg.train.dead_after_tokens
        metrics = {
            "train/fvu": fvu,
            "train/l0": lax.psum(active_BK.sum(), (DATA, LATENT)) / tokens,
            "train/dead_frac": lax.psum(dead_N.sum(), LATENT) / cfg.sae.num_latents,
            "train/grad_norm": global_norm(grads, LATENT),
        }
        params = optax.apply_updates(state.params, updates)
        return state._replace(
            params=params, opt_state=opt_state, tokens_since_fired=silent_N
        ), metrics

    def local_step(state: TrainState, x_BD: Array) -> tuple[TrainState, Metrics]:
        x_BD = x_BD.astype(jnp.float32)
        total_var = losses.total_variance(x_BD, DATA)
        x_BD = lax.pcast(x_BD, SEED, to="varying")
        stacked = (state.params, state.opt_state, state.tokens_since_fired)

        def body(per_seed):
            seed_state = TrainState(*per_seed, step=state.step)
            new, metrics = one_seed(seed_state, x_BD, total_var)
            return (new.params, new.opt_state, new.tokens_since_fired), metrics

        stacked, metrics = lax.map(body, stacked)
        metrics["train/total_variance"] = total_var
        return TrainState(*stacked, step=state.step + 1), metrics

    specs = mesh_lib.state_specs(state)
    sharded = jax.shard_map(
        local_step,
        mesh=mesh,
        in_specs=(specs, P(DATA, None)),
        out_specs=(specs, {name: P(SEED) for name in PER_SEED} | {"train/total_variance": P()}),
    )
    return jax.jit(sharded, donate_argnums=0)
