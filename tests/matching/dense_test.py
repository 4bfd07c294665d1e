"""The optimum against all permutations and SciPy, its duals against the definition."""

import itertools
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saejax.errors import InputError
from saejax.matching import exact, match, verify
from saejax.matching.similarity import directions


def dense(a, b):
    """All cosines of the float32 unit rows, in float64, without the code under test."""
    units = []
    for x in (a, b):
        x = np.asarray(x, np.float32).astype(np.float64)
        norm = np.sqrt((x**2).sum(axis=1))
        units.append((x / np.where(norm == 0, 1, norm)[:, None]).astype(np.float32))
    return units[0].astype(np.float64) @ units[1].astype(np.float64).T


def brute_force(similarity):
    """Best sum over all injections of the smaller side into the larger."""
    if similarity.shape[0] > similarity.shape[1]:
        similarity = similarity.T
    num_rows, num_columns = similarity.shape
    return max(
        sum(similarity[i, j] for i, j in enumerate(columns))
        for columns in itertools.permutations(range(num_columns), num_rows)
    )


def check_optimal(a, b, matching):
    """The whole contract of an exact matching, from the dense matrix."""
    similarity = dense(a, b)
    num_a, num_b = similarity.shape
    matched = np.flatnonzero(matching.target >= 0)
    assert len(matched) == len(set(matching.target[matched])) == min(num_a, num_b)
    np.testing.assert_allclose(
        matching.cosine[matched], similarity[matched, matching.target[matched]], atol=1e-6
    )
    assert not matching.cosine[matching.target < 0].any()
    assert matching.target.dtype == np.int32
    assert matching.cosine.dtype == np.float32
    assert np.abs(matching.cosine).max() <= 1

    slack = matching.u[:, None] + matching.v[None] - similarity
    assert slack.min() >= -1e-14
    assert np.abs(slack[matched, matching.target[matched]]).max() <= 1e-12
    if num_a < num_b:
        assert matching.v.min() >= 0
        assert not matching.v[np.setdiff1d(np.arange(num_b), matching.target)].any()
    if num_a > num_b:
        assert matching.u.min() >= 0
        assert not matching.u[matching.target < 0].any()

    certificate = matching.certificate
    rows, columns = scipy.optimize.linear_sum_assignment(similarity, maximize=True)
    best = similarity[rows, columns].sum()
    assert certificate.certified
    assert certificate.primal == pytest.approx(best, abs=1e-12)
    assert certificate.dual >= best - 1e-13
    assert certificate.gap >= 0
    assert certificate.gap == max(certificate.dual - certificate.primal, 0)
    assert certificate.relative_gap == certificate.gap / max(1, abs(certificate.primal))
    assert verify(a, b, matching) <= 1e-14


@pytest.mark.parametrize("num_a", range(1, 7))
@pytest.mark.parametrize("num_b", range(1, 7))
def test_no_permutation_is_better(num_a, num_b):
    rng = np.random.default_rng(10 * num_a + num_b)
    a, b = rng.normal(size=(num_a, 3)), rng.normal(size=(num_b, 3))
    matching: Any = match(a, b)
    assert matching.certificate.primal == pytest.approx(brute_force(dense(a, b)), abs=1e-12)
    check_optimal(a, b, matching)


@st.composite
def instances(draw):
    """Few values, so ties, duplicates and zero rows abound; b may be a, -a or a reordered."""
    num_a, width = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    values = draw(st.sampled_from([st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-2, 2, width=32)]))
    a = draw(hnp.arrays(np.float32, (num_a, width), elements=values))
    kind = draw(st.sampled_from(["free", "same", "opposite", "reordered", "duplicates"]))
    if kind == "same":
        return a, a
    if kind == "opposite":
        return a, -a
    if kind == "reordered":
        return a, a[draw(st.permutations(range(num_a)))]
    num_b = draw(st.integers(1, 12))
    if kind == "duplicates":
        return a, a[draw(hnp.arrays(np.int32, num_b, elements=st.integers(0, num_a - 1)))]
    return a, draw(hnp.arrays(np.float32, (num_b, width), elements=values))


@settings(max_examples=150)
@given(instances())
def test_every_instance_is_solved_and_certified(instance):
    a, b = instance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zero rows
        matching = match(a, b)
    check_optimal(a, b, matching)


@pytest.mark.parametrize(("num_a", "num_b"), [(120, 120), (90, 130), (130, 90)])
@pytest.mark.parametrize("common", [0.0, 1.0])
def test_larger_instances(num_a, num_b, common, monkeypatch):
    # Small blocks, so that rows of one problem fall into several; a common mean makes hubs.
    monkeypatch.setattr(exact, "_BLOCK_ENTRIES", 1000)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(num_a, 16)) + common, rng.normal(size=(num_b, 16)) + common
    b[:40] = a[:40] + 0.3 * rng.normal(size=(40, 16))
    check_optimal(a, b, match(a, b))


def test_all_equal_rows_are_certified():
    check_optimal(np.ones((60, 3)), np.ones((80, 3)), match(np.ones((60, 3)), np.ones((80, 3))))


def test_a_wrong_assignment_is_not_certified(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    best: Any = match(a, b).certificate
    monkeypatch.setattr(
        scipy.optimize, "linear_sum_assignment", lambda cost: (np.arange(20), np.arange(20))
    )
    wrong: Any = match(a, b).certificate
    assert not wrong.certified
    assert wrong.primal < best.primal <= wrong.dual


def test_too_large_a_matrix_is_refused_with_the_bytes(monkeypatch):
    monkeypatch.setattr(exact, "DENSE_BYTES_LIMIT", 1000)
    with pytest.raises(InputError, match=r"11 x 12 similarities need 1,056 bytes.*limit of 1,000"):
        match(np.ones((11, 2)), np.ones((12, 2)))
    match(np.ones((11, 2)), np.ones((11, 2)))


def test_memory_that_is_not_there_is_an_input_error(monkeypatch):
    def no_memory(shape):
        raise MemoryError

    a = directions(np.ones((2, 2)), "decoder")
    monkeypatch.setattr(exact.np, "empty", no_memory)
    with pytest.raises(InputError, match="no 32 bytes for 2 x 2"):
        exact._costs(a, a, exact.Progress("test", total=2, unit="latents"))


def test_peak_bytes_are_what_the_solver_allocates():
    rng = np.random.default_rng(0)
    a, b = (directions(rng.normal(size=(n, 8)), "decoder") for n in (500, 600))
    tracemalloc.start()
    try:
        shown = exact.Progress("test", total=500, unit="latents")
        matching: Any = exact.solve(a, b, side="decoder", method="exact", progress=shown)
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 * matching.certificate.peak_bytes < measured <= 1.1 * matching.certificate.peak_bytes
    assert shown._done == 500
