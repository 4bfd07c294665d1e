"""Do matchings of three seeds agree: following i -> j -> k -> i, who returns? N latents, S seeds.

T: triples of seeds.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int64

from saejax.errors import InputError

# By the places of the two seeds, the earlier first.
_Pairs = dict[tuple[int, int], np.ndarray]


class Cycles(NamedTuple):
    """Latents that were followed around each triple of seeds, and those that returned."""

    triples: tuple[tuple[int, int, int], ...]  # T places i < j < k in the list of seeds
    followed: Int64[np.ndarray, " T"]  # latents of i
    returned: Int64[np.ndarray, " T"]  # of these
    chance: float  # 1 / N

    @property
    def frac(self) -> list[float | None]:
        """Of each triple, returned / followed; None where no latent was followed."""
        pairs = zip(self.returned.tolist(), self.followed.tolist(), strict=True)
        return [back / of if of else None for back, of in pairs]

    @property
    def mean_frac(self) -> float | None:
        """Mean of `frac` over the triples that have one; None where none has."""
        known = [frac for frac in self.frac if frac is not None]
        return sum(known) / len(known) if known else None


def cycles(
    targets: Sequence[Sequence[np.ndarray | None]],
    hits: Sequence[Sequence[np.ndarray | None]] | None = None,
) -> Cycles:
    """Follows latents from i to j, on to k and back to i, for all i < j < k.

    Matchings of three seeds are made independently of each other, so nothing forces a latent to
    return. Uniformly random matchings return one latent of N on average (`chance`). From whichever
    seed and in whichever direction a triple is followed, the same number of latents return.

    Args:
      targets: targets[i][j] for i < j: [N] integers, the partner in seed j of each latent of seed
        i, -1 for none; None elsewhere. The way back is its inverse.
      hits: Follow only latents shared in all three: those of i that are shared with j and with k,
        and whose partner in j is shared with k. hits[i][j] for i < j: [N] bool, is each latent of
        seed i shared with seed j; other entries are not needed. Without it all N are followed.

    Raises:
      InputError: For fewer than three seeds, or a target that is not one to one.
    """
    target = _checked(targets)
    N = len(target[0, 1])
    triples = tuple(itertools.combinations(range(len(targets)), 3))
    hit = None if hits is None else _checked_hits(hits, target)
    counts = []
    for triple in triples:
        followed_N = np.ones(N, bool) if hit is None else _shared(target, hit, triple)
        counts.append((followed_N.sum(), (_returned(target, triple) & followed_N).sum()))
    followed_T, returned_T = np.array(counts, np.int64).T
    return Cycles(triples, followed_T, returned_T, 1 / N)


def invert(target_N: Int[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The matching the other way, between as many latents; -1 for those that nobody has."""
    back_N = np.full(len(target_N), -1)
    matched_N = target_N >= 0
    back_N[target_N[matched_N]] = np.flatnonzero(matched_N)
    return back_N


def core(
    targets: Sequence[Sequence[np.ndarray | None]], hits: Sequence[Sequence[np.ndarray | None]]
) -> Bool[np.ndarray, " N"]:
    """Which latents of the first seed are one and the same in all seeds.

    Each is shared with every other seed, its partners are shared with each other, and every way
    through the seeds leads to the same ones. Every seed has the same number of them.

    Args:
      targets: As for `cycles`.
      hits: As for `cycles`.

    Raises:
      InputError: As `cycles`.
    """
    target = _checked(targets)
    hit = _checked_hits(hits, target)
    core_N = np.ones(len(target[0, 1]), bool)
    # If all triangles from the first seed close, so do all others between its partners.
    for j, k in itertools.combinations(range(1, len(targets)), 2):
        core_N &= _shared(target, hit, (0, j, k)) & _returned(target, (0, j, k))
    return core_N


def _returned(target: _Pairs, triple: tuple[int, int, int]) -> np.ndarray:
    """[N] bool, of latents of the first."""
    i, j, k = triple
    in_j_N = target[i, j]
    in_k_N = np.where(in_j_N >= 0, target[j, k][in_j_N], -1)
    home_N = np.where(in_k_N >= 0, invert(target[i, k])[in_k_N], -1)
    return home_N == np.arange(len(in_j_N))


def _shared(target: _Pairs, hit: _Pairs, triple: tuple[int, int, int]) -> np.ndarray:
    """[N] bool, of latents of the first."""
    i, j, k = triple
    in_j_N = target[i, j]
    return hit[i, j] & hit[i, k] & (in_j_N >= 0) & hit[j, k][in_j_N]


def _checked_hits(hits: Sequence[Sequence[np.ndarray | None]], target: _Pairs) -> _Pairs:
    S = len(hits)
    if [len(row) for row in hits] != [S] * S or 2 * len(target) != S * (S - 1):
        raise InputError(f"hits of {S} seeds must have {S} entries each, for the seeds of targets")
    found = {}
    for (i, j), target_N in target.items():
        found[i, j] = mask_N = np.asarray(hits[i][j])
        if mask_N.dtype != bool or mask_N.shape != target_N.shape:
            raise InputError(f"hits[{i}][{j}] must hold a bool for each of {target_N.size} latents")
    return found


def _checked(targets: Sequence[Sequence[np.ndarray | None]]) -> _Pairs:
    S = len(targets)
    if S < 3:
        raise InputError(f"targets of {S} seeds: a cycle needs three")
    found: _Pairs = {}
    if [len(row) for row in targets] != [S] * S:
        raise InputError(f"targets must have {S} entries for each of the {S} seeds")
    for i, j in itertools.product(range(S), repeat=2):
        target = targets[i][j]
        if (target is None) != (i >= j):
            wanted = "None: it follows from the other way" if i >= j else "a matching, not None"
            raise InputError(f"targets[{i}][{j}] must be {wanted}")
        if target is not None:
            target = np.asarray(target)
            N = found[0, 1].size if found else target.size
            matched = target[target >= 0]
            if (
                target.shape != (N,)
                or not N
                or not np.issubdtype(target.dtype, np.integer)
                or target.min() < -1
                or target.max() >= N
                or len(np.unique(matched)) != len(matched)
            ):
                raise InputError(
                    f"targets[{i}][{j}] is no matching of {N} latents: it needs {N} different "
                    f"integers below {N}, or -1"
                )
            found[i, j] = target.astype(np.int64)
    return found
