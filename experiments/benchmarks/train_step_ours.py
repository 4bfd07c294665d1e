"""The training step of saejax, for the benchmark.

Dimension letters: S seeds, n batches, B tokens in a batch, D activation width, N latents.
"""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float32
from train_step_peers import RUN_STEPS, Step

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig
from saejax.sae.init import unit_rows
from saejax.train.optim import make_optimizer
from saejax.train.state import TrainState, init_state
from saejax.train.step import make_step

# Starting the device is no part of what is measured.
_MESH = mesh_lib.make_mesh(MeshConfig(), devices=jax.devices()[:1])


@functools.partial(jax.jit, donate_argnums=0)
def _with_rows(state: TrainState, seed: int, rows_ND: jax.Array) -> TrainState:
    params = state.params
    enc_rows = params.enc_rows.at[seed].set(rows_ND)
    w_dec = params.w_dec.at[seed].set(unit_rows(rows_ND))
    return state._replace(params=params._replace(enc_rows=enc_rows, w_dec=w_dec))


def start(
    cfg: Config, x_nBD: Float32[np.ndarray, "n B D"], rows_SND: Float32[np.ndarray, "S N D"]
) -> Step:
    """See `train_step_peers.Start`."""
    batches = [jax.device_put(x_BD, NamedSharding(_MESH, mesh_lib.BATCH)) for x_BD in x_nBD]
    optimizer = make_optimizer(cfg, RUN_STEPS, latent_axis=mesh_lib.LATENT)
    state = init_state(cfg, batches[0], optimizer, _MESH)
    for seed, rows_ND in enumerate(rows_SND):
        state = _with_rows(state, seed, jax.numpy.asarray(rows_ND))
    train = make_step(cfg, optimizer, state, _MESH)

    def step(batch: int) -> float:
        nonlocal state
        state, metrics = train(state, batches[batch])
        jax.block_until_ready(state)
        return float(metrics["train/fvu"][0])

    return step
