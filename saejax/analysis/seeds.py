"""How many latents of a seed no other seed has, as seeds are added. N latents, S seeds.

Columns of arrays that end in `k` are numbers of autoencoders, from 2 on.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64
from scipy.special import stdtrit

from saejax.errors import InputError

# Of all intervals.
CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Trend:
    """What is shared among S seeds; every seed is the base in turn.

    Attributes:
      levels: [S, S]; entry [i, m] counts the latents of seed i that are shared with exactly m of
        the others.
      by_base: [S, S - 1]; entry [i, k - 2] is the fraction of the latents of seed i that are
        shared with none of k - 1 others, averaged over all choices of these others.
      leave_one_out: [S, S - 2]; entry [s, k - 2] is `only_in_base_frac[k]` of the seeds without
        s, as base and as other.
    """

    levels: Int64[np.ndarray, "S S"]
    by_base: Float64[np.ndarray, "S k"]
    leave_one_out: Float64[np.ndarray, "S j"]

    @property
    def only_in_base_frac(self) -> dict[int, float]:
        """{k: fraction}: latents of a base in none of k - 1 others, k = 2, ..., S.

        The mean over all bases and all choices of others, which is exact. Never rises with k.
        """
        return _by_number(self.by_base.mean(axis=0))

    @property
    def standard_error(self) -> dict[int, float]:
        """{k: standard error of `only_in_base_frac[k]`} by the jackknife over seeds, k < S.

        sqrt((S - 1) / S sum_s (f_s - f)^2) with f_s the fraction without seed s; the mean of the
        f_s is f, since both average the same choices of seeds. It estimates how much f would change
        with other seeds, all else the same. Its square is on average not below the true variance,
        since f is a U-statistic of the seeds. At k = S no seed can be left out.

        References:
          Efron & Stein 1981, The jackknife estimate of variance, Annals of Statistics 9; for
          U-statistics with Hoeffding 1948, theorem 5.2: S times their variance falls with S.
        """
        if self.leave_one_out.shape[1] == 0:
            return {}
        S = len(self.levels)
        return _by_number(math.sqrt(S - 1) * self.leave_one_out.std(axis=0))

    @property
    def interval(self) -> dict[int, tuple[float, float]]:
        """{k: (low, high)}: 95 % interval of `only_in_base_frac[k]` over seeds, k < S.

        The fraction plus and minus `standard_error` times the quantile of Student's t with S - 1
        degrees of freedom, within [0, 1]. It takes seeds for independent draws and the fraction
        for normally distributed; intervals of neighbouring k are not independent.
        """
        quantile = float(stdtrit(len(self.levels) - 1, (1 + CONFIDENCE) / 2))
        frac = self.only_in_base_frac
        return {
            k: (max(0.0, frac[k] - quantile * error), min(1.0, frac[k] + quantile * error))
            for k, error in self.standard_error.items()
        }


def seen_from_other(
    shared_N: Bool[np.ndarray, " N"], target_N: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Which latents of the other seed are shared: the partners of those that are."""
    back_N = np.zeros_like(shared_N)
    back_N[target_N[shared_N]] = True
    return back_N


def trend(hits: Sequence[Sequence[np.ndarray | None]]) -> Trend:
    """Fractions of latents that none of k - 1 other seeds has, over all subsets of seeds.

    A latent that is shared with m of the S - 1 others is missed by C(S-1-m, k-1) of the
    C(S-1, k-1) choices of k - 1 others, so nothing is sampled:

        f(k) = 1/(S N) sum_i sum_m levels[i, m] C(S-1-m, k-1) / C(S-1, k-1)

    Example:
      >>> yes, no = np.array([True, True]), np.array([True, False])
      >>> t = trend([[None, yes, no], [yes, None, no], [no, no, None]])
      >>> t.levels.tolist()
      [[0, 1, 1], [0, 1, 1], [1, 0, 1]]
      >>> {k: round(fraction, 4) for k, fraction in t.only_in_base_frac.items()}
      {2: 0.3333, 3: 0.1667}

    Args:
      hits: hits[i][j]: [N] bool, is each latent of seed i shared with seed j; None for i = j.

    Raises:
      InputError: For fewer than two seeds, a row of another length, masks that are not bool or
        not all of the same length, and where something other than None is on the diagonal.

    References:
      Paulo & Belrose (arXiv 2501.16615), figure A1.
    """
    masks = _checked(hits)
    S, N = len(masks), masks[0][0].size
    others_SN = [np.sum(row, axis=0, dtype=np.int64) for row in masks]
    levels_SS = np.stack([np.bincount(others_N, minlength=S) for others_N in others_SN])
    leave_one_out_Sk = np.empty((S, S - 2))
    missed_Sk = _missed(S - 1)
    for s in range(S):
        kept_S = sum(
            np.bincount(others_SN[i] - masks[i][s], minlength=S - 1) for i in range(S) if i != s
        )
        leave_one_out_Sk[s] = kept_S / ((S - 1) * N) @ missed_Sk
    return Trend(levels_SS, levels_SS / N @ _missed(S), leave_one_out_Sk)


def _missed(S: int) -> Float64[np.ndarray, "S k"]:
    """Which part of the choices of k - 1 of S - 1 others misses m given ones, at [m, k - 2].

    C(S-1-m, k-1) / C(S-1, k-1) is the product over r < k - 1 of (S-1-m-r) / (S-1-r). Its factors
    are at most 1, so that nothing overflows.
    """
    left_Sk = S - 1 - np.arange(S)[:, None] - np.arange(S - 1)[None]
    return np.cumprod(np.maximum(left_Sk, 0) / left_Sk[:1], axis=1)


def _by_number(values_k: Float64[np.ndarray, " k"]) -> dict[int, float]:
    return {k: float(value) for k, value in enumerate(values_k, start=2)}


def _checked(hits: Sequence[Sequence[np.ndarray | None]]) -> list[list[np.ndarray]]:
    """The masks, all False on the diagonal: a seed is no other of its own."""
    S = len(hits)
    if S < 2:
        raise InputError(f"hits of {S} seeds: what is shared needs at least two")
    for i, row in enumerate(hits):
        if len(row) != S:
            raise InputError(f"hits[{i}] has {len(row)} entries for {S} seeds; give one for each")
        if row[i] is not None:
            raise InputError(f"hits[{i}][{i}] must be None: a seed is no other of its own")
    first = np.asarray(hits[0][1])
    masks = [
        [np.zeros(first.shape, bool) if i == j else np.asarray(mask) for j, mask in enumerate(row)]
        for i, row in enumerate(hits)
    ]
    for i, j in itertools.permutations(range(S), 2):
        mask = masks[i][j]
        if mask.dtype != bool or mask.ndim != 1 or not mask.size:
            raise InputError(
                f"hits[{i}][{j}] is {mask.dtype} of shape {mask.shape}: give a bool for each latent"
            )
        if mask.size != first.size:
            raise InputError(
                f"hits[{i}][{j}] is of {mask.size} latents and hits[0][1] of {first.size}: "
                "fractions of seeds of different sizes cannot be averaged"
            )
    return masks
