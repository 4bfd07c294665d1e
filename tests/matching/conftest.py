"""Instances of matching problems, and the whole contract of an exact matching."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize

from saejax.matching import Matching, verify


def dense_products(a, b, normalize):
    """S_ij of the float32 rows, in float64, without the code under test."""
    rows = []
    for x in (a, b):
        x = np.asarray(x, np.float32).astype(np.float64)
        if normalize:
            norm = np.sqrt((x**2).sum(axis=1))
            x = (x / np.where(norm == 0, 1, norm)[:, None]).astype(np.float32).astype(np.float64)
        rows.append(x)
    scale = max(1.0, *(float(np.sqrt((x**2).sum(axis=1)).max()) for x in rows)) ** 2
    return rows[0] @ rows[1].T, scale


def contract(a, b, matching: Matching, normalize: bool = True) -> None:
    similarity, scale = dense_products(a, b, normalize)
    num_a, num_b = similarity.shape
    matched = np.flatnonzero(matching.target >= 0)
    assert len(matched) == len(set(matching.target[matched])) == min(num_a, num_b)
    assert matching.normalized == normalize
    assert matching.target.dtype == np.int32
    assert matching.cosine.dtype == np.float32
    assert np.abs(matching.cosine).max() <= 1
    assert not matching.cosine[matching.target < 0].any()
    found = similarity[matched, matching.target[matched]]
    if normalize:
        np.testing.assert_allclose(matching.cosine[matched], found, atol=1e-6)

    assert matching.u is not None
    assert matching.v is not None
    slack = matching.u[:, None] + matching.v[None] - similarity
    assert slack.min() >= -1e-14 * scale
    assert np.abs(slack[matched, matching.target[matched]]).max() <= 1e-12 * scale
    if num_a < num_b:
        assert matching.v.min() >= 0
        assert not matching.v[np.setdiff1d(np.arange(num_b), matching.target)].any()
    if num_a > num_b:
        assert matching.u.min() >= 0
        assert not matching.u[matching.target < 0].any()

    certificate = matching.certificate
    assert certificate is not None
    best = similarity[scipy.optimize.linear_sum_assignment(similarity, maximize=True)].sum()
    assert certificate.certified
    assert certificate.primal == pytest.approx(best, rel=1e-9, abs=1e-12 * scale)
    assert certificate.dual >= best - 1e-13 * scale * len(a)
    assert certificate.gap == max(certificate.dual - certificate.primal, 0)
    assert certificate.peak_bytes > 0
    assert verify(a, b, matching) <= 1e-14 * scale


@pytest.fixture(scope="session")
def check_optimal() -> Callable[..., None]:
    """Raises unless a matching is all that an exact one promises, from the dense matrix."""
    return contract


def sae_like(num_a, num_b, width, *, hit=0.5, common=0.0, seed=0):
    """Rows of which a part is shared with noise, the rest anisotropic; `common` makes hubs."""
    rng = np.random.default_rng(seed)
    deviation = np.arange(1, width + 1) ** -0.25
    shared = int(hit * min(num_a, num_b))

    def rows(count):
        x = rng.normal(size=(count, width)) * deviation
        x[:, 0] += common * np.sqrt(np.square(deviation).sum())
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    base, sides = rows(shared), []
    for count in (num_a, num_b):
        noise = rng.uniform(0.05, 0.6, (shared, 1)) * rows(shared)
        sides.append(rng.permutation(np.concatenate([base + noise, rows(count - shared)])))
    return [x.astype(np.float32) for x in sides]


def _kinds(num: int, width: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(num + width)
    a, b = rng.normal(size=(2, num, width)).astype(np.float32)
    repeated, zero_a, zero_b = b.copy(), a.copy(), b.copy()
    repeated[: num // 3] = b[0]
    zero_a[: num // 3] = 0
    zero_b[num // 2 :] = 0
    few = max(1, 3 * num // 4)
    ones = np.ones((num, width), np.float32)
    return {
        "random": (a, b),
        "sae_like": sae_like(num, num, width),
        "hubs": sae_like(num, num, width, common=0.5),
        "strong_hubs": sae_like(num, num, width, common=1.0),
        "no_hits": sae_like(num, num, width, hit=0),
        "all_hits": sae_like(num, num, width, hit=1),
        "repeated_rows": (a, repeated),
        "zero_rows": (zero_a, zero_b),
        "one_side_zero": (0 * a, b),
        "all_equal": (ones, ones),
        "same": (a, a),
        "opposite": (a, -a),
        "signs": (np.sign(a), np.sign(b)),
        "rounded": (np.rint(a), np.rint(b)),
        "positive": (np.abs(a), np.abs(b)),
        "wide": (a[:few], b),
        "wide_hubs": sae_like(few, num, width, common=1.0),
        "wide_signs": (np.sign(a[:few]), np.sign(b)),
        "wide_all_equal": (ones[:few], ones),
        "almost_square": (a[: max(1, num - 1)], b),
        "tall": (a, b[: num // 2 + 1]),
    }


KINDS = tuple(_kinds(4, 2))


@pytest.fixture(params=KINDS)
def kind(request) -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Every kind of instance, of a size and a width."""
    return lambda num, width: _kinds(num, width)[request.param]


@pytest.fixture
def make_pair() -> Callable[..., list[np.ndarray]]:
    """See `sae_like`."""
    return sae_like
