"""Independent check of a matching and its certificate. N, M: latents, D: width, T, R: tile.

Shares no code with the solvers: it reads the weights, normalises them and streams the
similarities by itself.
"""

import math

import numpy as np

from saejax.errors import InputError
from saejax.matching.matching import Certificate, Matching
from saejax.matching.similarity import SaeLike, Source
from saejax.progress import Progress

# Rows of a and of b in one float64 tile: 32 MiB.
_TILE = 2048
# Matched cosines are stored as float32.
_COSINE_TOLERANCE = 1e-5
# What `Certificate.certified` promises about the relative gap.
_CERTIFIED_GAP = 1e-9


class VerificationError(ValueError):
    """A matching is not what it claims to be.

    Example:
      >>> import dataclasses, numpy as np, saejax
      >>> matching = saejax.match(np.eye(2), np.eye(2), method="scipy")
      >>> swapped = dataclasses.replace(matching, target=matching.target[::-1])
      >>> try:
      ...     saejax.verify(np.eye(2), np.eye(2), swapped)
      ... except saejax.VerificationError as error:
      ...     print(error)
      latent 0 has cosine 0 with its partner, not 1
    """


def verify(a: Source, b: Source, matching: Matching) -> float:
    """Checks a matching against the weights it was made from, and its optimality.

    Checks, in this order: the sizes; that partners exist and differ; the cosines (within 1e-5);
    the signs of the duals where N and M differ; the sums of the certificate; u_i + v_j >= S_ij
    for every pair; and that the gap is as small as the certificate says. By weak duality the
    last three prove that no matching is better by more than the gap.

    Similarities are float64 products of unit rows rounded to float32, with an error of at most
    D * 2^-53 here and in the solver, so a violation within
    2 (D + 4) 2^-53 (1 + max |u| + max |v|) is rounding. For a matching of rows that were not
    normalised they are products of the rows as they are, and the 1 is the largest |a_i| |b_j|.

    Cost: one pass, N M D multiplications in float64 on the host. Memory: both sets of rows in
    float32 and three tiles of 32 MiB.

    Example:
      >>> from saejax.matching import match
      >>> a = np.eye(3, dtype=np.float32)
      >>> verify(a, a[::-1], match(a, a[::-1], method="scipy")) < 1e-14
      True

    Args:
      a: The autoencoder, or rows [N, D], that was given to `match`.
      b: The other one, [M, D].
      matching: The result; its `side` says which weights it is about.

    Returns:
      The largest violation, max(0, max_ij S_ij - u_i - v_j).

    Raises:
      VerificationError: At the first of these checks that fails.
      InputError: If the matching has no duals, as those of the method "max_cosine", or the
        weights cannot be compared.
    """
    if matching.u is None or matching.v is None or matching.certificate is None:
        raise InputError(
            f"a matching of method {matching.method!r} has no duals, so nothing proves it "
            "optimal; verify one of method 'exact'"
        )
    a_ND, a_norm_N = _rows(a, matching, "a")
    b_MD, b_norm_M = _rows(b, matching, "b")
    if a_ND.shape[1] != b_MD.shape[1]:
        raise InputError(f"a has width {a_ND.shape[1]}, b has width {b_MD.shape[1]}")
    u_N, v_M, certificate = matching.u, matching.v, matching.certificate
    pairs_N = _check_target(matching, u_N, v_M, len(a_ND), len(b_MD))
    if not (np.isfinite(u_N).all() and np.isfinite(v_M).all()):
        raise VerificationError("a dual is NaN or infinite")

    similarity_N = np.zeros(len(a_ND))
    for i in pairs_N:
        similarity_N[i] = a_ND[i].astype(np.float64) @ b_MD[matching.target[i]].astype(np.float64)
    length_N = a_norm_N * b_norm_M[matching.target]
    cosine_N = similarity_N / np.where(length_N > 0, length_N, 1)
    wrong_N = ~(np.abs(matching.cosine - cosine_N) <= _COSINE_TOLERANCE)
    if wrong_N.any():
        i = int(wrong_N.argmax())
        raise VerificationError(
            f"latent {i} has cosine {cosine_N[i]:.9g} with its partner, not "
            f"{matching.cosine[i]:.9g}"
        )
    # On the larger side a latent may stay unmatched, and its constraint is an inequality.
    if len(a_ND) > len(b_MD):
        _check_signs("u", u_N, matching.target < 0, certificate)
    if len(a_ND) < len(b_MD):
        _check_signs("v", v_M, ~np.isin(np.arange(len(b_MD)), matching.target), certificate)

    scale = float(a_norm_N.max() * b_norm_M.max())
    rounding = 2 * (a_ND.shape[1] + 4) * 2**-53 * (scale + np.abs(u_N).max() + np.abs(v_M).max())
    slack = rounding * (len(a_ND) + len(b_MD))
    primal = math.fsum(similarity_N)
    dual = math.fsum(u_N) + math.fsum(v_M)
    if not abs(certificate.primal - primal) <= slack:
        raise VerificationError(
            f"the matched cosines sum to {primal!r}, but the certificate says "
            f"{certificate.primal!r}"
        )
    if not abs(certificate.dual - dual) <= slack:
        raise VerificationError(
            f"the duals sum to {dual!r}, but the certificate says {certificate.dual!r}"
        )
    violation = _largest_violation(a_ND, b_MD, u_N, v_M, rounding)
    _check_gap(certificate, primal, dual, slack, scale)
    return violation


def _rows(source: Source, matching: Matching, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that `match` compared, [N, D] float32, and what makes their products cosines.

    Unit rows are normalised in float64 and rounded once; the second result is then 1 for every
    row. Otherwise it is the norms [N].
    """
    if isinstance(source, SaeLike):
        decoder = matching.side == "decoder"
        rows = source.w_dec if decoder else np.swapaxes(source.w_enc, 0, 1)
    else:
        rows = source
    with np.errstate(over="ignore"):  # What float32 cannot hold is reported below.
        x_ND = np.array(rows, dtype=np.float32, order="C")
    if x_ND.ndim != 2 or not np.isfinite(x_ND).all():
        raise InputError(f"{name}: needs finite weights of shape [latents, width]")
    length_N = np.ones(len(x_ND))
    for i in range(0, len(x_ND), _TILE):
        x64_TD = x_ND[i : i + _TILE].astype(np.float64)
        norm_T = np.sqrt(np.sum(np.square(x64_TD), axis=1))
        if matching.normalized:
            x_ND[i : i + _TILE] = x64_TD / np.where(norm_T > 0, norm_T, 1)[:, None]
        else:
            length_N[i : i + _TILE] = norm_T
    return x_ND, length_N


def _check_target(
    matching: Matching, u_N: np.ndarray, v_M: np.ndarray, num_a: int, num_b: int
) -> np.ndarray:
    """Raises unless it maps the latents one to one; returns those that have a partner."""
    sizes = (matching.target.shape, matching.cosine.shape, u_N.shape, v_M.shape)
    if sizes != ((num_a,), (num_a,), (num_a,), (num_b,)):
        raise VerificationError(
            f"target, cosine, u and v have shapes {sizes} for {num_a} and {num_b} latents"
        )
    outside_N = (matching.target < -1) | (matching.target >= num_b)
    if outside_N.any():
        i = int(outside_N.argmax())
        raise VerificationError(
            f"latent {i} has partner {matching.target[i]}, but b has {num_b} latents"
        )
    pairs_N = np.flatnonzero(matching.target >= 0)
    if len(pairs_N) != min(num_a, num_b):
        raise VerificationError(
            f"{len(pairs_N)} latents are matched, but {min(num_a, num_b)} could be"
        )
    count_M = np.bincount(matching.target[pairs_N], minlength=num_b)
    if count_M.max() > 1:
        j = int(count_M.argmax())
        raise VerificationError(f"latent {j} of b is the partner of {count_M[j]} latents")
    return pairs_N


def _check_signs(
    name: str, dual: np.ndarray, unmatched: np.ndarray, certificate: Certificate
) -> None:
    """Raises unless the duals of the larger side are >= 0, and in an optimum 0 if unmatched."""
    if (dual < 0).any():
        i = int((dual < 0).argmax())
        raise VerificationError(
            f"{name}[{i}] = {dual[i]!r} is negative, though latents of that side may stay unmatched"
        )
    if certificate.certified and dual[unmatched].any():
        i = int((unmatched & (dual != 0)).argmax())
        raise VerificationError(
            f"{name}[{i}] = {dual[i]!r} is not 0, though latent {i} is unmatched"
        )


def _largest_violation(
    a_ND: np.ndarray, b_MD: np.ndarray, u_N: np.ndarray, v_M: np.ndarray, rounding: float
) -> float:
    """The largest S_ij - u_i - v_j, or 0; raises at the first tile that exceeds rounding."""
    largest = 0.0
    with Progress("verify", total=len(a_ND), unit="latents") as progress:
        for i in range(0, len(a_ND), _TILE):
            a_TD = a_ND[i : i + _TILE].astype(np.float64)
            for j in range(0, len(b_MD), _TILE):
                excess_TR = a_TD @ b_MD[j : j + _TILE].astype(np.float64).T
                excess_TR -= u_N[i : i + _TILE, None]
                excess_TR -= v_M[None, j : j + _TILE]
                worst = float(excess_TR.max())
                if worst > rounding:
                    t, r = np.unravel_index(excess_TR.argmax(), excess_TR.shape)
                    raise VerificationError(
                        f"u[{i + t}] + v[{j + r}] is below the cosine of that pair by {worst:.3g}, "
                        f"more than rounding explains ({rounding:.3g})"
                    )
                largest = max(largest, worst)
            progress.advance(len(a_TD))
    return largest


def _check_gap(
    certificate: Certificate, primal: float, dual: float, slack: float, scale: float
) -> None:
    """Raises unless the certificate's gap and verdict follow from its sums."""
    scale = max(scale, abs(primal)) or 1.0  # All rows may be zero.
    gap = max(dual - primal, 0.0)
    if not (certificate.gap >= 0 and abs(certificate.gap - gap) <= 2 * slack):
        raise VerificationError(
            f"the gap between the duals and the cosines is {gap!r}, but the certificate says "
            f"{certificate.gap!r}"
        )
    if not abs(certificate.relative_gap - gap / scale) <= 2 * slack / scale:
        raise VerificationError(
            f"the relative gap is {gap / scale!r}, but the certificate says "
            f"{certificate.relative_gap!r}"
        )
    if certificate.certified and not gap <= _CERTIFIED_GAP * scale + 2 * slack:
        raise VerificationError(
            f"called certified, but a matching may be better by {gap!r} of {primal!r}"
        )
