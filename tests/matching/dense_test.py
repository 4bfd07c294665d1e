"""The dense solver: its duals against the definition, and its memory."""

import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from saejax.errors import InputError
from saejax.matching import dense, match
from saejax.matching.similarity import directions


def scipy_match(a, b) -> Any:
    """A matching with its certificate."""
    return match(a, b, method="scipy")


@pytest.mark.parametrize(("num_a", "num_b"), [(120, 120), (90, 130), (130, 90)])
@pytest.mark.parametrize("common", [0.0, 1.0])
def test_larger_instances(num_a, num_b, common, monkeypatch, check_optimal):
    # Small blocks, so that rows of one problem fall into several; a common mean makes hubs.
    monkeypatch.setattr(dense, "_BLOCK_ENTRIES", 1000)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(num_a, 16)) + common, rng.normal(size=(num_b, 16)) + common
    b[:40] = a[:40] + 0.3 * rng.normal(size=(40, 16))
    check_optimal(a, b, scipy_match(a, b))


def test_every_kind_of_instance(kind, check_optimal):
    a, b = kind(40, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zero rows, repeated rows
        check_optimal(a, b, scipy_match(a, b))
        longer = 50 * a
        matching = match(longer, b, method="scipy", normalize=False)
        check_optimal(longer, b, matching, normalize=False)


def test_a_wrong_assignment_is_not_certified(monkeypatch):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    best = scipy_match(a, b).certificate
    monkeypatch.setattr(
        scipy.optimize, "linear_sum_assignment", lambda cost: (np.arange(20), np.arange(20))
    )
    wrong = scipy_match(a, b).certificate
    assert not wrong.certified
    assert wrong.primal < best.primal <= wrong.dual


def test_too_large_a_matrix_is_refused_with_the_bytes(monkeypatch):
    monkeypatch.setattr(dense, "DENSE_BYTES_LIMIT", 1000)
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(11, 2)), rng.normal(size=(12, 2))
    with pytest.raises(InputError, match=r"11 x 12 similarities need 1,056 bytes.*limit of 1,000"):
        scipy_match(a, b)
    scipy_match(a, b[:11])


def test_memory_that_is_not_there_is_an_input_error(monkeypatch):
    def no_memory(shape):
        raise MemoryError

    a = directions(np.eye(2), "decoder")
    monkeypatch.setattr(dense.np, "empty", no_memory)
    with pytest.raises(InputError, match="no 32 bytes for 2 x 2"):
        dense._costs(a, a, dense.Progress("test", total=2, unit="latents"))


def test_peak_bytes_are_what_the_solver_allocates():
    rng = np.random.default_rng(0)
    a, b = (directions(rng.normal(size=(n, 8)), "decoder") for n in (500, 600))
    tracemalloc.start()
    try:
        shown = dense.Progress("test", total=500, unit="latents")
        matching: Any = dense.solve(
            a, b, side="decoder", method="scipy", normalized=True, progress=shown
        )
        measured = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 * matching.certificate.peak_bytes < measured <= 1.1 * matching.certificate.peak_bytes
    assert shown._done == 500
