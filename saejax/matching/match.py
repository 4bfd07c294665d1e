"""Matching of two autoencoders, by any of the methods. N, M: latents, D: width."""

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from saejax.config import MATCH_METHODS, MatchConfig, MeshConfig
from saejax.errors import InputError
from saejax.matching import dense, exact
from saejax.matching.matching import Matching
from saejax.matching.operands import check_products, pass_dtype
from saejax.matching.similarity import Source, check_widths, directions, row_max
from saejax.mesh import make_mesh
from saejax.progress import Progress

# Those of a run are one to one; row maxima are not, and every run has them as its baseline.
METHODS = (*MATCH_METHODS, "max_cosine")
PASS_DTYPES = ("auto", "float32", "bfloat16")


def match(
    a: Source,
    b: Source,
    *,
    method: str = "exact",
    side: str = "decoder",
    normalize: bool = True,
    dtype: str = "auto",
    epsilon: float | None = None,
    tolerance: float | None = None,
    start: Matching | None = None,
    mesh: Mesh | None = None,
) -> Matching:
    """Finds for each latent of one autoencoder a partner in another.

    "exact" maximises sum_i S_i,x(i), S_ij = cos(a_i, b_j), over all one-to-one x that cover the
    smaller of the two, and proves the result optimal, in memory O((N + M) D) (see
    `saejax.matching.exact`). "scipy" does the same on the dense matrix, in 8 N M bytes and at
    most 16 GiB. "sinkhorn" solves the entropic problem with ott-jax and rounds its plan; the
    certificate's gap bounds how far from optimal that is (see `saejax.matching.entropic`).
    "max_cosine" takes for each latent the argmax of its row, so that several may
    have the same partner; it is a baseline.

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
      method: "exact", "sinkhorn", "scipy" or "max_cosine".
      side: "decoder" compares the rows of w_dec, "encoder" the columns of w_enc. For rows given
        as arrays it is only recorded.
      normalize: False compares inner products of the rows as they are instead of cosines.
      dtype: Of the streamed products of "exact": "float32", "bfloat16", or "auto", which is
        what the hardware multiplies faster. The result is the exact one with each.
      epsilon: Regularisation of "sinkhorn", in units of cosine; by default 0.01.
      tolerance: Of "sinkhorn": sum of absolute differences between the marginals of the plan and
        uniform ones; by default 0.001.
      start: Of "sinkhorn": a matching of the same two whose duals to start from, as an exact
        one, which saves most iterations. Without, epsilon falls to its value in stages.
      mesh: Devices that share the streamed products, those of all axes; by default all there
        are. With several processes every one has to call, with the same arguments.

    Returns:
      The matching. Where N > M, N - M latents of a stay unmatched, but not by "max_cosine".

    Raises:
      InputError: For an unknown method, side or dtype, for weights that are not finite
        matrices of the same width, for a matrix above the limit of "scipy", and for rows that
        are not normalised and so long or short that products leave the range of float32.

    Warns:
      UserWarning: If rows are zero or occur several times, with their number; and if "sinkhorn"
        did not converge.

    References:
      Paulo & Belrose, "Sparse Autoencoders Trained on the Same Data Learn Different Features"
      (arXiv 2501.16615), section 3.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    if dtype not in PASS_DTYPES:
        raise InputError(f"dtype={dtype!r}: choose one of {', '.join(PASS_DTYPES)}")
    if method in ("max_cosine", "sinkhorn") and not normalize:
        raise InputError(f"normalize=False: {method!r} compares cosines; use method='exact'")
    given = {"epsilon": epsilon, "tolerance": tolerance, "start": start}
    for name, value in given.items():
        if method != "sinkhorn" and value is not None:
            raise InputError(f"{name}: only method='sinkhorn' has it, not {method!r}")
    if method != "exact" and dtype != "auto":
        raise InputError(f"dtype={dtype!r}: only method='exact' has a choice of it")
    a_ND = directions(a, side, "a", normalize=normalize)
    b_MD = directions(b, side, "b", normalize=normalize)
    check_widths(a_ND, b_MD)
    if not normalize:
        check_products(a_ND, b_MD)
    with Progress(f"match {side}s, {method}", total=len(a_ND), unit="latents") as progress:
        return match_directions(
            a_ND,
            b_MD,
            method=method,
            side=side,
            progress=progress,
            normalized=normalize,
            dtype=dtype,
            epsilon=epsilon,
            tolerance=tolerance,
            start=start,
            mesh=mesh,
        )


def match_directions(
    a_ND: Float32[np.ndarray, "N D"],
    b_MD: Float32[np.ndarray, "M D"],
    *,
    method: str,
    side: str,
    progress: Progress,
    normalized: bool = True,
    dtype: str = "auto",
    epsilon: float | None = None,
    tolerance: float | None = None,
    start: Matching | None = None,
    mesh: Mesh | None = None,
) -> Matching:
    """`match` for rows of one width made by `directions`; `progress` advances by N."""
    if method == "scipy":
        return dense.solve(
            a_ND, b_MD, side=side, method=method, normalized=normalized, progress=progress
        )
    if mesh is None:
        mesh = make_mesh(MeshConfig())
    if method == "max_cosine":
        cosine_N, target_N = row_max(a_ND, b_MD, progress, mesh=mesh)
        return Matching(target_N, cosine_N, None, None, side, method, None)
    if method == "sinkhorn":
        # Seconds of imports that nothing else in the package needs.
        from saejax.matching import entropic

        return entropic.solve(
            a_ND,
            b_MD,
            side=side,
            method=method,
            epsilon=MatchConfig().epsilon if epsilon is None else epsilon,
            tolerance=MatchConfig().tolerance if tolerance is None else tolerance,
            start=start,
            mesh=mesh,
            progress=progress,
        )
    return exact.solve(
        a_ND,
        b_MD,
        side=side,
        method=method,
        normalized=normalized,
        dtype=pass_dtype(dtype),
        mesh=mesh,
        progress=progress,
    )
