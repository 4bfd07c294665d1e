"""Token windows to activations at a hook point, and the model's next-token losses.

Letters: B windows, L context length, D activation width, V vocabulary.
"""

import functools
import warnings
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from saejax.errors import InputError
from saejax.lm.decoder import Decoder
from saejax.lm.decoder_config import DecoderConfig
from saejax.lm.hooks import Hook, layers_needed, parse_hookpoint
from saejax.lm.load import Lm

# Tokens whose logits are held at once: 50 MB for SmolLM2's 49,152 words, in products large
# enough to be fast.
LOSS_TOKENS = 256

Capture = Callable[[Int[Array, "B L"]], dict[str, Float[Array, "B L D"]]]


def make_capture(lm: Lm, hookpoints: Sequence[str]) -> Capture:
    """Compiles the part of a model up to its hook points, all of which one pass serves.

    Only the layers before the last hook point run, and of its own block only what it needs.

    Args:
      lm: The model; the first `layers_needed` layers suffice.
      hookpoints: Of `saejax.lm.hooks.hookpoints`.

    Returns:
      A function from token ids in [0, V) ([B, L] int32, with L at most the model's context
      length) to activations [B, L, D] by hook point, in the type of the weights. Ids are not
      checked, as that would wait for the device: use `check_tokens` on the corpus. With a model on
      a mesh, windows come and go split over "data", if they can be; copies of the weights also
      spread them over "seed" and "latent" meanwhile, where their number divides by those devices.

    Raises:
      InputError: If the model has no such hook point or does not hold the layers it needs.
    """
    for hookpoint in hookpoints:
        needed = layers_needed(lm.config, hookpoint)
        if needed > lm.model.num_layers_held:
            raise InputError(
                f"hookpoint={hookpoint!r} needs {needed} layers, but the model was loaded with "
                f"num_layers={lm.model.num_layers_held}: load more"
            )
    hooks = tuple((name, parse_hookpoint(lm.config, name)) for name in hookpoints)
    return functools.partial(_activations, lm.model, hooks=hooks)


@functools.partial(jax.jit, static_argnames="hooks")
def _activations(
    model: Decoder, tokens_BL: Int[Array, "B L"], hooks: tuple[tuple[str, Hook], ...]
) -> dict[str, Float[Array, "B L D"]]:
    check_length(model.config, tokens_BL.shape[1])
    names, places = zip(*hooks, strict=True)
    seen = model.activations(tokens_BL, places)
    if model.placement is not None:
        seen = [model.placement.by_data(x_BLD) for x_BLD in seen]
    return dict(zip(names, seen, strict=True))


def logits(lm: Lm, tokens_BL: Int[Array | np.ndarray, "B L"]) -> Float[Array, "B L V"]:
    """Logits of the next token, in float32; B x L x V x 4 bytes are held at once.

    Raises:
      InputError: If the model is partial, an id is out of range, or a window is too long.
    """
    check_full(lm)
    check_tokens(lm.config, tokens_BL)
    return _logits(lm.model, jnp.asarray(tokens_BL))


@jax.jit
def _logits(model: Decoder, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L V"]:
    check_length(model.config, tokens_BL.shape[1])
    return model.unembed(model.hidden(tokens_BL))


def token_losses(lm: Lm, tokens_BL: Int[Array | np.ndarray, "B L"]) -> Float[Array, "B L-1"]:
    """Loss of each token given those before it, -log p(x_t | x_<t), in nats and float32.

    Entry t is the loss of token t + 1, as nothing predicts the first. Tokens appended to a
    window do not change the losses before them, so windows can be padded and cut.

    Raises:
      InputError: If the model is partial, an id is out of range, or a window is too long or
        has no second token.
    """
    check_full(lm)
    check_tokens(lm.config, tokens_BL)
    if tokens_BL.shape[1] < 2:
        raise InputError(f"windows of {tokens_BL.shape[1]} tokens predict nothing: use 2 or more")
    return _token_losses(lm.model, jnp.asarray(tokens_BL))


@jax.jit
def _token_losses(model: Decoder, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L-1"]:
    check_length(model.config, tokens_BL.shape[1])
    x_BLD = model.hidden(tokens_BL)[:, :-1]
    targets_BL = tokens_BL[:, 1:]

    def loss(x_and_target: tuple[Float[Array, " D"], Int[Array, ""]]) -> Float[Array, ""]:
        x_D, target = x_and_target
        logits_V = model.unembed(x_D)
        return jax.nn.logsumexp(logits_V) - logits_V[target]

    loss_B = jax.lax.map(
        loss,
        (x_BLD.reshape(-1, x_BLD.shape[-1]), targets_BL.reshape(-1)),
        batch_size=LOSS_TOKENS,
    )
    return loss_B.reshape(targets_BL.shape)


def cross_entropy(lm: Lm, tokens_BL: Int[Array | np.ndarray, "B L"]) -> float:
    """Mean of `token_losses`, in nats per token.

    Raises:
      InputError: As `token_losses`.
    """
    return float(jnp.mean(token_losses(lm, tokens_BL)))


def check_tokens(config: DecoderConfig, tokens: Int[Array | np.ndarray, "*shape"]) -> None:
    """Raises `InputError` unless all token ids are in the vocabulary; waits for the device."""
    if tokens.size and (tokens.min() < 0 or tokens.max() >= config.vocab_size):
        raise InputError(
            f"token ids from {tokens.min()} to {tokens.max()} do not fit a vocabulary of "
            f"{config.vocab_size}: tokenize with the model's own tokenizer"
        )


def check_length(config: DecoderConfig, length: int) -> None:
    """Looks whether windows are longer than those the model was trained on.

    Rotary positions go on beyond them, and the paper's windows of Pythia are a token longer (2,049
    for 2,048): that is a warning.

    Raises:
      InputError: If the model has learned positions, of which there are not as many.
    """
    if length <= config.context_length:
        return
    if config.positions:
        raise InputError(
            f"context_length={length}: the model takes windows of at most "
            f"{config.context_length} tokens; use shorter ones"
        )
    warnings.warn(
        f"context_length={length}: the model was trained on windows of at most "
        f"{config.context_length} tokens, and what it does with later ones is not known",
        stacklevel=3,
    )


def check_full(lm: Lm) -> None:
    """Raises `InputError` if the model lacks layers."""
    if lm.model.num_layers_held < lm.config.num_layers:
        raise InputError(
            f"this needs all {lm.config.num_layers} layers, but the model was loaded with "
            f"num_layers={lm.model.num_layers_held}: load it without num_layers"
        )
