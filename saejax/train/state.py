"""The training state of S stacked seeds, born sharded.

Dimension letters: S seeds, N latents, D activation width, E width of a transcoder's target.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from saejax import mesh as mesh_lib
from saejax.config import Config
from saejax.processes import fetch
from saejax.sae.architectures import ARCHITECTURES
from saejax.sae.init import (
    Params,
    init_params,
    init_transcoder_params,
    initial_decoder_bias,
)
from saejax.sae.sae import Sae, token_scale
from saejax.train.optim import params_to_export


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
      params: Parameters of S autoencoders, leading axis [S].
      opt_state: Optimizer state, leading axis [S] in every leaf.
      tokens_since_fired: [S, N] tokens since each latent was last active, saturating.
      batch_threshold: [S] least value that BatchTopK keeps, averaged over steps; 0 for others.
      input_scale: Factor on the activations, see `train.input_scaling`.
      step: Steps done.
      target_scale: Factor on the targets of a transcoder; None for an autoencoder.
    """

    params: Params
    opt_state: optax.OptState
    tokens_since_fired: Int[Array, "S N"]
    batch_threshold: Float[Array, " S"]
    input_scale: Float[Array, ""]
    step: Int[Array, ""]
    target_scale: Float[Array, ""] | None = None


def init_state(
    cfg: Config,
    first_BD: Float[Array, "B D"],
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    first_target_BE: Float[Array, "B E"] | None = None,
) -> TrainState:
    """The state before the first step; every device makes its own shards.

    Args:
      cfg: The run.
      first_BD: Activations of the first batch, which decide the scale of the input and the
        first decoder bias, the same for every seed.
      optimizer: From `saejax.train.optim`.
      mesh: Devices.
      first_target_BE: Targets of the first batch, with `target_hookpoint`; the decoder bias is
        theirs then.
    """
    assert (first_target_BE is not None) == bool(cfg.target_hookpoint)
    architecture = ARCHITECTURES[cfg.sae.arch]

    def init(seeds_S: Array, of_input: FromData, of_target: FromData | None) -> TrainState:
        def one(seed: Array) -> Params:
            if of_target is None:
                params = init_params(seed, of_input.centre, num_latents=cfg.sae.num_latents)
            else:
                params = init_transcoder_params(
                    seed,
                    of_target.centre,
                    of_input.centre,
                    num_latents=cfg.sae.num_latents,
                    skip=cfg.sae.skip_connection,
                )
            return architecture.init(params)

        params: Any = jax.vmap(one)(seeds_S)
        return TrainState(
            params=params,
            opt_state=jax.vmap(optimizer.init)(params),
            tokens_since_fired=jnp.zeros((len(cfg.init_seeds), cfg.sae.num_latents), jnp.int32),
            batch_threshold=jnp.zeros(len(cfg.init_seeds)),
            input_scale=of_input.scale,
            step=jnp.zeros((), jnp.int32),
            target_scale=None if of_target is None else of_target.scale,
        )

    seeds_S = jnp.asarray(cfg.init_seeds, jnp.uint32)
    from_data = jax.jit(_from_data, static_argnums=(1, 2))
    scaling, rule = cfg.train.input_scaling, cfg.train.decoder_bias_init
    if first_target_BE is None:
        given = seeds_S, from_data(first_BD, scaling, rule), None
    else:
        of_input = from_data(first_BD, scaling, "mean")
        given = seeds_S, of_input, from_data(first_target_BE, scaling, rule)
    shardings = mesh_lib.state_shardings(jax.eval_shape(init, *given), mesh)
    return jax.jit(init, out_shardings=shardings)(*given)


class FromData(NamedTuple):
    """What the first batch of activations decides: their scale, and the centre of the scaled."""

    scale: Float[Array, ""]
    centre: Float[Array, " D"]


def _from_data(x_BD: Array, scaling: str, centre_rule: str) -> FromData:
    x_BD = x_BD.astype(jnp.float32)
    scale = jnp.ones(())
    if scaling == "per_token":
        x_BD = x_BD * token_scale(x_BD)
    if scaling == "sqrt_width":
        scale = jnp.sqrt(x_BD.shape[1]) / jnp.linalg.norm(x_BD, axis=1).mean()
    return FromData(scale, initial_decoder_bias(scale * x_BD, centre_rule))


def to_saes(
    state: TrainState, cfg: Config, metadata: dict[str, str | int]
) -> Iterator[tuple[int, Sae]]:
    """The autoencoders of a state on the host, one after the other, for activations as they are.

    Of several processes all take all of them, and each has them whole.

    All codes are homogeneous in the biases and thresholds, so dividing these by the scale of the
    input takes it back, and gives codes in units of the activations. A transcoder maps inputs
    scaled by s to targets scaled by t: what it makes of s times the codes, or of s x, it divides
    by t, and so W_dec and W_skip are multiplied by s / t, and b_dec is divided by t. BatchTopK
    becomes a JumpReLU with one threshold, which is how it is used on single tokens. Of signum it
    is the averages.

    Yields:
      Seed and autoencoder.
    """
    params = params_to_export(cfg, state.params, state.opt_state)
    scale = output_scale = np.float32(state.input_scale)
    if state.target_scale is not None:
        output_scale = np.float32(state.target_scale)
        metadata = {**metadata, "target_hookpoint": cfg.target_hookpoint}
    threshold_S = fetch(state.batch_threshold)
    for i, seed in enumerate(cfg.init_seeds):
        own: Params = jax.tree.map(lambda leaf, i=i: fetch(leaf[i]), params)
        arch, k, threshold_N = cfg.sae.arch, cfg.sae.num_latents, None
        if arch == "topk":
            k = cfg.sae.k
        elif arch == "batch_topk":
            # Kept are values from the threshold on; a JumpReLU keeps those above it.
            least = np.nextafter(threshold_S[i], np.float32(0))
            arch, threshold_N = "jump_relu", np.full(cfg.sae.num_latents, least / scale)
        elif arch == "jump_relu":
            assert own.threshold is not None
            threshold_N = np.maximum(own.threshold, 0) / scale
        yield (
            seed,
            Sae(
                w_enc=own.enc_rows.T,
                b_enc=own.b_enc / scale,
                w_dec=own.w_dec * (scale / output_scale),
                b_dec=own.b_dec / output_scale,
                k=k,
                arch=arch,
                threshold=None if threshold_N is None else threshold_N.astype(np.float32),
                r_mag=own.r_mag,
                b_mag=None if own.b_mag is None else own.b_mag / scale,
                transcoder=state.target_scale is not None,
                normalize_activations=(
                    "constant_norm_rescale" if cfg.train.input_scaling == "per_token" else "none"
                ),
                w_skip=None if own.w_skip is None else own.w_skip * (scale / output_scale),
                metadata=tuple(sorted({**metadata, "seed": seed}.items())),
            ),
        )
