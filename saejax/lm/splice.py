"""The model's predictions with the activations at one hook point replaced by others.

Letters: B windows, L context length, D width of the residual stream, V vocabulary, R replacements.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from saejax.errors import InputError
from saejax.lm.capture import LOSS_TOKENS, check_full, check_length, check_tokens
from saejax.lm.decoder import Decoder
from saejax.lm.hooks import Hook, parse_hookpoint
from saejax.lm.load import Lm


class Spliced(NamedTuple):
    """Predictions of the model and of R changed ones; entry t is about token t + 1.

    Attributes:
      loss: [B, L-1] -log p(x_t+1 | x_<=t) of the model as it is, in nats.
      replaced_loss: [R, B, L-1] the same with each replacement.
      kl: [R, B, L-1] KL(p || p_replaced) = sum_v p(v) log(p(v) / p_replaced(v)), in nats; at least
        0 but for rounding.
    """

    loss: Float[Array, "B L-1"]
    replaced_loss: Float[Array, "R B L-1"]
    kl: Float[Array, "R B L-1"]


def splice(
    lm: Lm,
    tokens_BL: Int[Array | np.ndarray, "B L"],
    hookpoint: str,
    y_RBLD: Float[Array | np.ndarray, "R B L D"],
) -> Spliced:
    """Runs the whole model, as it is and with each of R replacements at a hook point.

    What comes before the hook point is run once. Logits are held for 256 rows at once, whatever
    R is, and activations for one replacement.

    Args:
      lm: The whole model.
      tokens_BL: Token ids.
      hookpoint: Of `saejax.lm.hooks.hookpoints`. What its module gives is replaced: at a norm the
        input of attention or of the MLP, at a block the residual stream.
      y_RBLD: What it is replaced by; for instance what `make_capture` sees there, reconstructed.

    Returns:
      Losses, as `saejax.lm.token_losses`, and divergences.

    Raises:
      InputError: If the model is partial or has no such hook point, an id is out of range, or a
        window is too long or has no second token.
    """
    check_full(lm)
    check_tokens(lm.config, tokens_BL)
    if tokens_BL.shape[1] < 2:
        raise InputError(f"windows of {tokens_BL.shape[1]} tokens predict nothing: use 2 or more")
    hook = parse_hookpoint(lm.config, hookpoint)
    return _splice(lm.model, jnp.asarray(tokens_BL), jnp.asarray(y_RBLD), hook)


@functools.partial(jax.jit, static_argnames="hook")
def _splice(
    model: Decoder, tokens_BL: Int[Array, "B L"], y_RBLD: Float[Array, "R B L D"], hook: Hook
) -> Spliced:
    check_length(model.config, tokens_BL.shape[1])
    hidden_BLRD = jnp.moveaxis(_hidden(model, tokens_BL, y_RBLD, hook), 0, 2)[:, :-1]
    targets_BL = tokens_BL[:, 1:]

    def compare(x_and_target: tuple[Float[Array, "R D"], Int[Array, ""]]) -> tuple[Array, Array]:
        x_RD, target = x_and_target
        logp_RV = jax.nn.log_softmax(model.unembed(x_RD))
        kl_R = (jnp.exp(logp_RV[:1]) * (logp_RV[:1] - logp_RV[1:])).sum(axis=1)
        return -logp_RV[:, target], kl_R

    rows = hidden_BLRD.shape[2]
    loss_TR, kl_TR = jax.lax.map(
        compare,
        (hidden_BLRD.reshape(-1, rows, hidden_BLRD.shape[-1]), targets_BL.reshape(-1)),
        batch_size=max(1, LOSS_TOKENS // rows),
    )
    loss_RBL, kl_RBL = (x_TR.T.reshape(-1, *targets_BL.shape) for x_TR in (loss_TR, kl_TR))
    return Spliced(loss_RBL[0], loss_RBL[1:], kl_RBL)


def _hidden(
    model: Decoder, tokens_BL: Int[Array, "B L"], y_RBLD: Float[Array, "R B L D"], hook: Hook
) -> Float[Array, "_ B L D"]:
    """What the unembedding reads: of the model as it is, then with each replacement."""
    layer = hook.layer or 0
    before_BLD = model.run_blocks(model.embed(tokens_BL), 0, layer)

    def after(y_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        x_BLD, done = y_BLD, layer
        if hook.layer is not None:
            outputs = model.block(layer).outputs(
                before_BLD, lambda part, x_BLD: y_BLD if part == hook.part else x_BLD
            )
            x_BLD, done = outputs[""], layer + 1
        return model.norm(model.run_blocks(x_BLD, done, model.config.num_layers))

    own_BLD = before_BLD
    if hook.layer is not None:
        own_BLD = model.block(layer).outputs(before_BLD)[hook.part]
    # Its own activations are put in like the others: what changes nothing differs in no bit.
    return jax.lax.map(after, jnp.concatenate([own_BLD[None], y_RBLD.astype(own_BLD.dtype)]))
