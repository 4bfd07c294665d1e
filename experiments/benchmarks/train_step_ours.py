"""The training step of saejax, for the benchmark.

Dimension letters: S seeds, n batches, B tokens in a batch, D activation width, N latents.
"""

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Float32
from train_step_peers import RUN_STEPS, Step

from saejax import mesh as mesh_lib
from saejax.config import Config, MeshConfig
from saejax.sae.init import unit_rows
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state
from saejax.train.step import make_step

# Starting the device is no part of what is measured.
_MESH = mesh_lib.make_mesh(MeshConfig(), devices=jax.devices()[:1])


def start(
    cfg: Config, x_nBD: Float32[np.ndarray, "n B D"], rows_SND: Float32[np.ndarray, "S N D"]
) -> Step:
    """See `train_step_peers.Start`."""
    batches = [jax.device_put(x_BD, NamedSharding(_MESH, mesh_lib.BATCH)) for x_BD in x_nBD]
    optimizer = make_optimizer(cfg, RUN_STEPS, latent_axis=mesh_lib.LATENT)
    state = init_state(cfg, batches[0], optimizer, _MESH)
    place = state.params.enc_rows.sharding
    enc_rows = jax.device_put(rows_SND, place, may_alias=False)
    w_dec = jax.device_put(jax.vmap(unit_rows)(enc_rows), place)
    state = state._replace(params=state.params._replace(enc_rows=enc_rows, w_dec=w_dec))
    train = make_step(cfg, optimizer, state, _MESH)

    def step(batch: int) -> float:
        nonlocal state
        state, metrics = train(state, batches[batch])
        jax.block_until_ready(state)
        return float(metrics["train/fvu"][0])

    return step
