"""How well autoencoders reconstruct, and what their reconstructions do to the model's predictions.

Dimension letters: W windows of the text, B of a batch, L context length, D and E widths of what
is read and of what is reconstructed, N latents, K active ones, S autoencoders, R replacements.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from saejax.analysis.evaluation import Evaluation, Sums, from_sums
from saejax.config import DataConfig
from saejax.data.corpus import Windows
from saejax.data.exclude import keep_tokens
from saejax.errors import InputError
from saejax.lm import Lm, hook_width, make_capture
from saejax.lm.splice import splice
from saejax.progress import Progress
from saejax.sae.sae import Sae, decode, encode


def evaluate(
    lm: Lm,
    saes: Sequence[Sae],
    windows_WL: Windows | Int[np.ndarray, "W L"],
    *,
    hookpoint: str,
    target_hookpoint: str = "",
    data: DataConfig,
    special_ids: Sequence[int] = (),
    batch_windows: int = 8,
) -> Evaluation:
    """Evaluates autoencoders on windows of text, by themselves and spliced into the model.

    The positions that training leaves out keep their activations in every replacement and count
    nowhere: the first `data.skip_tokens` of each window, which no autoencoder has seen, and those
    that `data.exclude_special_tokens` and `data.max_norm_multiple` exclude. All others of a
    window are replaced at once. Two passes: the first finds the mean activation. Memory is that of
    a batch, whatever the text; the model runs once for each autoencoder, and three times besides.

    Args:
      lm: The whole model.
      saes: All of the same place.
      windows_WL: Token ids, at least 2 windows, which training should not have used.
      hookpoint: What the autoencoders read.
      target_hookpoint: What transcoders reconstruct, and where they are spliced in.
      data: Which positions are left out, norms being those at `hookpoint`; no other field is
        looked at.
      special_ids: Of the tokenizer, for `data.exclude_special_tokens`.
      batch_windows: Windows in a forward pass.

    Raises:
      InputError: If an autoencoder does not fit the hook points, there are too few windows or
        positions, or something is not finite.

    References:
      Cunningham et al. 2023, arXiv 2309.08600, and Bricken et al. 2023, Towards Monosemanticity
      (Transformer Circuits): reconstructions in place of activations, loss recovered.
    """
    target = target_hookpoint or hookpoint
    _check(lm, saes, windows_WL, hookpoint, target, data)
    capture = make_capture(lm, tuple(dict.fromkeys((hookpoint, target))))
    ids = np.asarray(special_ids, np.int32)

    @jax.jit
    def counted(
        tokens_BL: Int[Array, "B L"], seen: dict[str, Array], real_B: Bool[Array, " B"]
    ) -> Bool[Array, "B L"]:
        kept = keep_tokens(tokens_BL, seen, data, special_ids=ids, norms_of=hookpoint)
        keep_BL = ~kept.replaced_BL & real_B[:, None]
        return jnp.pad(keep_BL, ((0, 0), (data.skip_tokens, 0)))

    def batches(label: str) -> Iterator[_Batch]:
        for tokens_BL, num_real in _padded(windows_WL, batch_windows, label):
            seen = capture(tokens_BL)
            count_BL = counted(tokens_BL, seen, jnp.arange(len(tokens_BL)) < num_real)
            yield _Batch(tokens_BL, count_BL, seen[hookpoint], seen[target], num_real)

    num_tokens, sum_E = 0, np.zeros(())
    for batch in batches("mean activation"):
        num_tokens += int(batch.count.sum())
        sum_E = sum_E + np.asarray(_sum(batch), np.float64)
    mean_E = jnp.asarray(sum_E / num_tokens, jnp.float32)
    if not np.isfinite(mean_E).all():
        raise InputError(f"hookpoint={target!r}: its activations on this text are not finite")

    saes = [jax.device_put(sae) for sae in saes]  # once, not in every call
    of_batches: list[Sums] = []
    residual_SE = np.zeros((len(saes), len(mean_E)))
    uses_SN = [np.zeros(sae.num_latents, np.int64) for sae in saes]
    for batch in batches("evaluate"):
        found = [_reconstruct(sae, batch) for sae in saes]
        y_RBLE = _replacements(batch, mean_E, [each.y_hat for each in found])
        spliced = splice(lm, batch.tokens, target, y_RBLE)
        predicts_BL = np.asarray(batch.count[:, :-1])
        sums = Sums(
            tokens=np.asarray(batch.count.sum(axis=1)),
            predictions=predicts_BL.sum(axis=1),
            variance=_variance(batch, mean_E),
            error=np.stack([each.error for each in found]),
            active=np.stack([each.active for each in found]),
            **{
                name: np.where(predicts_BL, x, 0).sum(axis=-1, dtype=np.float64)
                for name, x in spliced._asdict().items()
            },
        )
        of_batches.append(Sums(*(np.asarray(x, np.float64)[..., : batch.num_real] for x in sums)))
        residual_SE += np.stack([each.residual for each in found])
        for uses_N, each in zip(uses_SN, found, strict=True):
            uses_N += np.asarray(each.uses)
    sums = Sums(*(np.concatenate(parts, axis=-1) for parts in zip(*of_batches, strict=True)))
    return from_sums(sums, residual_SE, uses_SN)


class _Batch(NamedTuple):
    """Windows, and what the model has in them."""

    tokens: Int[Array, "B L"]
    count: Bool[Array, "B L"]  # whether a position is replaced, and counts
    x: Float[Array, "B L D"]  # at the hook point
    y: Float[Array, "B L E"]  # at the target
    num_real: int  # windows that do not only fill the batch


class _Reconstruction(NamedTuple):
    """What an autoencoder makes of a batch; positions that do not count are as they were."""

    y_hat: Float[Array, "B L E"]
    error: Float[Array, " B"]  # sum ||e||^2
    active: Int[Array, " B"]
    residual: Float[Array, " E"]  # sum e
    uses: Int[Array, " N"]


def _check(
    lm: Lm,
    saes: Sequence[Sae],
    windows_WL: Windows | np.ndarray,
    hookpoint: str,
    target: str,
    data: DataConfig,
) -> None:
    num_windows, length = windows_WL.shape
    if not saes:
        raise InputError("no autoencoder to evaluate: give at least one")
    if num_windows < 2:
        raise InputError(f"{num_windows} window has no standard error: evaluate 2 or more")
    if data.skip_tokens > length - 2:
        raise InputError(
            f"data.skip_tokens={data.skip_tokens} leaves no prediction in windows of {length} "
            f"tokens: at most {length - 2}"
        )
    widths = hook_width(lm.config, hookpoint), hook_width(lm.config, target)
    for number, sae in enumerate(saes):
        name = f"seed {dict(sae.metadata).get('seed', number)}"
        if sae.transcoder != (target != hookpoint):
            raise InputError(
                f"{name} is {'a transcoder' if sae.transcoder else 'no transcoder'}: "
                f"{'name' if sae.transcoder else 'leave out'} target_hookpoint"
            )
        if (sae.d_model, sae.d_out) != widths:
            raise InputError(
                f"{name} maps width {sae.d_model} to {sae.d_out}, but {hookpoint} and {target} "
                f"have widths {widths[0]} and {widths[1]}: name its own hook point and model"
            )


def _padded(
    windows_WL: Windows | np.ndarray, batch_windows: int, label: str
) -> Iterator[tuple[Int[Array, "B L"], int]]:
    """Batches of one size, of which the last repeats its last window, and how many are real."""
    num_windows, length = windows_WL.shape
    size = min(batch_windows, num_windows)
    with Progress(label, total=num_windows * length, unit="tokens") as progress:
        for start in range(0, num_windows, size):
            tokens_BL = windows_WL[start : start + size]
            num_real = len(tokens_BL)
            padded_BL = np.pad(tokens_BL, ((0, size - num_real), (0, 0)), mode="edge")
            yield jnp.asarray(padded_BL, jnp.int32), num_real
            progress.advance(num_real * length)


@jax.jit
def _sum(batch: _Batch) -> Float[Array, " E"]:
    y_BLE = batch.y.astype(jnp.float32)
    return jnp.where(batch.count[..., None], y_BLE, 0.0).sum(axis=(0, 1))


@jax.jit
def _variance(batch: _Batch, mean_E: Float[Array, " E"]) -> Float[Array, " B"]:
    square_BL = jnp.square(batch.y.astype(jnp.float32) - mean_E[None, None]).sum(axis=2)
    return jnp.where(batch.count, square_BL, 0.0).sum(axis=1)


@jax.jit
def _replacements(
    batch: _Batch, mean_E: Float[Array, " E"], y_hats: list[Float[Array, "B L E"]]
) -> Float[Array, "R B L E"]:
    """Zeros, the mean, and reconstructions."""
    y_BLE, fills = batch.y.astype(jnp.float32), (jnp.zeros_like(mean_E), mean_E)
    ablations = [jnp.where(batch.count[..., None], x_E[None, None], y_BLE) for x_E in fills]
    return jnp.stack([*ablations, *y_hats])


@jax.jit
def _reconstruct(sae: Sae, batch: _Batch) -> _Reconstruction:
    # A window at a time: the pre-activations [L, N] of all would be the most memory there is.
    def window(given: tuple[Array, Array, Array]) -> tuple[Array, ...]:
        x_LD, y_LE, count_L = given
        codes = encode(sae, x_LD)
        y_hat_LE = jnp.where(count_L[:, None], decode(sae, codes, x_LD), y_LE)
        e_LE = y_LE - y_hat_LE
        active_LK = ((codes.values > 0) & count_L[:, None]).astype(jnp.int32)
        uses_N = jnp.zeros(sae.num_latents, jnp.int32).at[codes.indices].add(active_LK)
        return y_hat_LE, jnp.square(e_LE).sum(), active_LK.sum(), e_LE.sum(axis=0), uses_N

    y_hat_BLE, error_B, active_B, residual_BE, uses_BN = jax.lax.map(
        window, (batch.x.astype(jnp.float32), batch.y.astype(jnp.float32), batch.count)
    )
    return _Reconstruction(
        y_hat_BLE, error_B, active_B, residual_BE.sum(axis=0), uses_BN.sum(axis=0)
    )
