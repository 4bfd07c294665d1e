"""Matching of two autoencoders, by any of the methods. N, M: latents, D: width."""

import numpy as np
from jaxtyping import Float32

from saejax.config import MATCH_METHODS
from saejax.errors import InputError
from saejax.matching import dense as exact
from saejax.matching.matching import Matching
from saejax.matching.similarity import Source, check_widths, directions, row_max
from saejax.progress import Progress

# Those of a run are one to one; row maxima are not, and every run has them as its baseline.
METHODS = (*MATCH_METHODS, "max_cosine")


def match(a: Source, b: Source, *, method: str = "exact", side: str = "decoder") -> Matching:
    """Finds for each latent of one autoencoder a partner in another.

    "exact" maximises sum_i S_i,x(i), S_ij = cos(a_i, b_j), over all one-to-one x that cover the
    smaller of the two, and proves the result optimal. It is solved by SciPy on the dense
    matrix, 8 N M bytes and at most 16 GiB; "scipy" names that solver. "max_cosine" takes for
    each latent the argmax of its row, so that several may have the same partner; it needs
    little memory and is a baseline.

    Example:
      >>> a = np.eye(3)
      >>> m = match(a, a[[2, 0, 1]])
      >>> m.target
      array([1, 2, 0], dtype=int32)
      >>> m.certificate.certified
      True

    Args:
      a: An autoencoder, or rows [N, D]; rows are normalised.
      b: Another, or rows [M, D].
      method: "exact", "scipy" or "max_cosine".
      side: "decoder" compares the rows of w_dec, "encoder" the columns of w_enc. For rows given
        as arrays it is only recorded.

    Returns:
      The matching. Where N > M, N - M latents of a stay unmatched, but not by "max_cosine".

    Raises:
      InputError: For an unknown method or side, for weights that are not finite matrices of
        the same width, and for a matrix above the limit.

    References:
      Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features"
      (arXiv 2501.16615), section 3.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    a_ND, b_MD = directions(a, side, "a"), directions(b, side, "b")
    check_widths(a_ND, b_MD)
    with Progress(f"match {side}s, {method}", total=len(a_ND), unit="latents") as progress:
        return match_directions(a_ND, b_MD, method=method, side=side, progress=progress)


def match_directions(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    method: str,
    side: str,
    progress: Progress,
) -> Matching:
    """`match` for unit rows of one width made by `directions`; `progress` advances by N."""
    if method == "max_cosine":
        cosine_N, target_N = row_max(a_ND, b_MD, progress)
        return Matching(target_N, cosine_N, None, None, side, method, None)
    return exact.solve(a_ND, b_MD, side=side, method=method, progress=progress)
