"""The numbers of an evaluation: what sums over windows say, as a record and as a table.

Dimension letters: W windows of the text, E width of what is reconstructed, N latents, S
autoencoders.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from saejax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over tokens, or a ratio of two, and its standard error over windows."""

    value: float
    standard_error: float


@dataclasses.dataclass(frozen=True)
class Replaced:
    """The model's predictions with its activations at the hook point replaced, in nats a token.

    SAELens' `ce_loss_with_sae`, `ce_loss_with_ablation` (by zeros) and `kl_div_with_sae`, where
    every position is replaced. Sparsify can train on such losses and evaluates none.
    """

    cross_entropy: Estimate  # -log p(next token)
    increase: Estimate  # over the model as it is, of the same tokens
    kl: Estimate  # KL(model || model with the replacement)


@dataclasses.dataclass(frozen=True)
class Scores:
    """One autoencoder: y is what it reconstructs, y_hat the reconstruction, e = y - y_hat.

    Attributes:
      fvu: sum ||e||^2 / sum ||y - mean(y)||^2, the mean being that of all tokens evaluated.
        Training, as sparsify, takes the mean of a batch, and with input_scaling="per_token" scaled
        activations. SAELens' `explained_variance` is 1 - FVU.
      explained_variance: 1 - sum ||e - mean(e)||^2 / sum ||y - mean(y)||^2, which forgives a
        constant error; dictionary_learning's `frac_variance_explained`, there batch by batch.
      l0: Active latents per token.
      dead_frac: Latents that were active on none of the tokens evaluated.
      spliced: Predictions with y_hat in place of y.
      loss_recovered_zero: (CE_zero - CE_sae) / (CE_zero - CE), with zeros in place of y; None
        where these do not raise the loss. SAELens' `ce_loss_score`; dictionary_learning's
        `frac_recovered`, which is a mean of ratios of batches. Both replace every position.
      loss_recovered_mean: The same with mean(y) in place of y; neither has it.
    """

    fvu: Estimate
    explained_variance: float
    l0: Estimate
    dead_frac: float
    spliced: Replaced
    loss_recovered_zero: Estimate | None
    loss_recovered_mean: Estimate | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What autoencoders of one place of a model do on a text.

    Attributes:
      num_windows: W.
      num_tokens: Positions that were reconstructed.
      num_predictions: Those of them that have a next token, over which losses are means.
      cross_entropy: Of the model as it is.
      zero_ablation: With zeros at these positions.
      mean_ablation: With the mean activation of these positions.
      saes: In the order given.
    """

    num_windows: int
    num_tokens: int
    num_predictions: int
    cross_entropy: Estimate
    zero_ablation: Replaced
    mean_ablation: Replaced
    saes: tuple[Scores, ...]


class Sums(NamedTuple):
    """Sums over the positions of each window, of those that count."""

    tokens: np.ndarray  # [W]
    predictions: np.ndarray  # [W] that have a next token
    variance: np.ndarray  # [W] ||y - mean(y)||^2
    error: np.ndarray  # [S, W] ||e||^2
    active: np.ndarray  # [S, W]
    loss: np.ndarray  # [W]
    replaced_loss: np.ndarray  # [2 + S, W] zeros, the mean, the autoencoders
    kl: np.ndarray  # [2 + S, W] likewise


def from_sums(
    sums: Sums, residual_SE: Float[np.ndarray, "S E"], uses_SN: list[np.ndarray]
) -> Evaluation:
    """An evaluation from what its windows add up to.

    Args:
      sums: Over the positions of each window.
      residual_SE: sum e over all positions.
      uses_SN: [N] for each autoencoder, on how many positions each latent was active.

    Raises:
      InputError: If something is not finite, or there is nothing to divide by.
    """
    if not (np.isfinite(sums.variance).all() and np.isfinite(sums.loss).all()):
        raise InputError(
            "the model's activations or losses on this text are not finite; if lm.dtype is "
            "bfloat16, use float32"
        )
    for i in range(len(uses_SN)):
        if not np.isfinite(sums.error[i].sum() + sums.replaced_loss[2 + i].sum()):
            raise InputError(
                f"autoencoder {i + 1} of {len(uses_SN)}: its reconstructions, or the losses with "
                "them, are not finite; look for weights that are not"
            )
    num_tokens, variance = sums.tokens.sum(), sums.variance.sum()
    if not (variance and sums.predictions.sum()):
        raise InputError(
            "all activations on this text are the same, or no position that counts has a next "
            "token: evaluate on more text"
        )
    replaced = [
        Replaced(
            cross_entropy=ratio(loss_W, sums.predictions),
            increase=ratio(loss_W - sums.loss, sums.predictions),
            kl=ratio(kl_W, sums.predictions),
        )
        for loss_W, kl_W in zip(sums.replaced_loss, sums.kl, strict=True)
    ]

    def recovered(ablated_W: np.ndarray, spliced_W: np.ndarray) -> Estimate | None:
        lost_W = ablated_W - sums.loss
        return ratio(ablated_W - spliced_W, lost_W) if lost_W.sum() > 0 else None

    scores = []
    for i, uses_N in enumerate(uses_SN):
        spliced_W = sums.replaced_loss[2 + i]
        centred = sums.error[i].sum() - np.square(residual_SE[i]).sum() / num_tokens
        scores.append(
            Scores(
                fvu=ratio(sums.error[i], sums.variance),
                explained_variance=float(1 - centred / variance),
                l0=ratio(sums.active[i], sums.tokens),
                dead_frac=float((uses_N == 0).mean()),
                spliced=replaced[2 + i],
                loss_recovered_zero=recovered(sums.replaced_loss[0], spliced_W),
                loss_recovered_mean=recovered(sums.replaced_loss[1], spliced_W),
            )
        )
    return Evaluation(
        num_windows=len(sums.tokens),
        num_tokens=int(num_tokens),
        num_predictions=int(sums.predictions.sum()),
        cross_entropy=ratio(sums.loss, sums.predictions),
        zero_ablation=replaced[0],
        mean_ablation=replaced[1],
        saes=tuple(scores),
    )


def ratio(top_W: Float[np.ndarray, " W"], bottom_W: Float[np.ndarray, " W"]) -> Estimate:
    """R = sum top / sum bottom, with standard error sqrt(W/(W-1) sum (top - R bottom)^2) / sum.

    References:
      Cochran 1977, Sampling Techniques, 3rd edition, section 2.11.
    """
    value = top_W.sum() / bottom_W.sum()
    num_windows = len(top_W)
    square = np.square(top_W - value * bottom_W).sum() * num_windows / (num_windows - 1)
    return Estimate(float(value), float(np.sqrt(square) / abs(bottom_W.sum())))


def evaluation_record(names: Sequence[Any], evaluation: Evaluation) -> dict[str, Any]:
    """What `results/evaluate.json` holds of an evaluation.

    Args:
      names: What the autoencoders are called: their seeds.
      evaluation: All of them.

    Returns:
      The fields of `Evaluation`, each estimate as `value` and `standard_error`, `saes` with
      their `seed`; and `over_seeds`, mean, min and max of each number over the autoencoders,
      without those that are null for one of them.
    """
    found = dataclasses.asdict(evaluation)
    flat = [_values(scores) for scores in found["saes"]]
    found["saes"] = [
        {"seed": name, **scores} for name, scores in zip(names, found["saes"], strict=True)
    ]
    common = [name for name in flat[0] if all(name in values for values in flat)]
    over = {name: np.array([values[name] for values in flat]) for name in common}
    found["over_seeds"] = {
        name: {"mean": float(x.mean()), "min": float(x.min()), "max": float(x.max())}
        for name, x in over.items()
    }
    return found


def _values(scores: dict[str, Any], path: str = "") -> dict[str, float]:
    """Numbers by dotted path, without standard errors and what is null."""
    values: dict[str, float] = {}
    for name, value in scores.items():
        if isinstance(value, dict) and "value" in value:
            values[path + name] = value["value"]
        elif isinstance(value, dict):
            values |= _values(value, f"{path}{name}.")
        elif value is not None:
            values[path + name] = value
    return values


def evaluation_table(names: Sequence[Any], evaluation: Evaluation) -> str:
    """An evaluation as plain text: predictions, then reconstructions; +- is the standard error."""
    titles = ("cross entropy", "increase", "KL", "recovered (zero)", "recovered (mean)")
    lines = ["predictions".ljust(16) + "".join(title.rjust(20) for title in titles)]
    lines.append("model".ljust(16) + _cell(evaluation.cross_entropy))
    rows: list[tuple[str, Replaced, tuple[Estimate | None, ...]]] = [
        ("zero ablation", evaluation.zero_ablation, ()),
        ("mean ablation", evaluation.mean_ablation, ()),
    ]
    rows += [
        (str(name), each.spliced, (each.loss_recovered_zero, each.loss_recovered_mean))
        for name, each in zip(names, evaluation.saes, strict=True)
    ]
    for name, replaced, recovered in rows:
        of_replaced = (replaced.cross_entropy, replaced.increase, replaced.kl)
        lines.append(name.ljust(16) + "".join(_cell(x) for x in (*of_replaced, *recovered)))
    titles = ("FVU", "explained variance", "L0", "dead")
    lines += ["", "reconstructions".ljust(16) + "".join(title.rjust(20) for title in titles)]
    for name, each in zip(names, evaluation.saes, strict=True):
        cells = f"{each.explained_variance:20.4f}{_cell(each.l0, 2)}{each.dead_frac:20.1%}"
        lines.append(str(name).ljust(16) + _cell(each.fvu) + cells)
    return "\n".join(lines)


def _cell(estimate: Estimate | None, digits: int = 4) -> str:
    if estimate is None:
        return "-".rjust(20)
    return f"{estimate.value:.{digits}f} +- {estimate.standard_error:.{digits}f}".rjust(20)
