"""The training state of S stacked seeds, born sharded.

Dimension letters: S seeds, N latents, D activation width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from saejax import mesh as mesh_lib
from saejax.config import Config
from saejax.sae.init import Params, init_params
from saejax.sae.sae import Sae


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      params: Parameters of S autoencoders, leading axis [S].
      opt_state: Optimizer state, leading axis [S] in every leaf.
      tokens_since_fired: [S, N] tokens since each latent was last active, saturating.
      step: Steps done.
    """

    params: Params
    opt_state: optax.OptState
    tokens_since_fired: Int[Array, "S N"]
    step: Int[Array, ""]


def init_state(
    cfg: Config,
    b_dec_D: Float[Array, " D"],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> TrainState:
    """The state before the first step; every device makes its own shards.

    Args:
      cfg: The run.
      b_dec_D: Initial decoder bias, the same for every seed.
      optimizer: From `saejax.train.optim`.
      mesh: Devices.
    """

    def init(seeds_S: Array, b_dec_D: Array) -> TrainState:
        params = jax.vmap(lambda s: init_params(s, b_dec_D, num_latents=cfg.sae.num_latents))(
            seeds_S
        )
        return TrainState(
            params=params,
            opt_state=jax.vmap(optimizer.init)(params),
            tokens_since_fired=jnp.zeros((len(cfg.init_seeds), cfg.sae.num_latents), jnp.int32),
            step=jnp.zeros((), jnp.int32),
        )

    seeds_S = jnp.asarray(cfg.init_seeds, jnp.uint32)
    shardings = mesh_lib.state_shardings(jax.eval_shape(init, seeds_S, b_dec_D), mesh)
    return jax.jit(init, out_shardings=shardings)(seeds_S, b_dec_D)


def to_saes(state: TrainState, cfg: Config, metadata: dict[str, str | int]) -> dict[int, Sae]:
    """The autoencoders of a state on the host, by seed."""
    params = jax.device_get(state.params)
    return {
        seed: Sae(
            w_enc=params.enc_rows[i].T,
            b_enc=params.b_enc[i],
            w_dec=params.w_dec[i],
            b_dec=params.b_dec[i],
            k=cfg.sae.k,
            metadata=tuple(sorted({**metadata, "seed": seed}.items())),
        )
        for i, seed in enumerate(cfg.init_seeds)
    }
