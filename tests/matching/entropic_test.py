"""Entropic matchings against the exact one, ott's own solver, and their limits."""

import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry.geometry import Geometry
from ott.problems.linear.linear_problem import LinearProblem
from ott.solvers.linear.sinkhorn import Sinkhorn
from ott.tools import unreg

from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.matching import Matching, match, verify
from saejax.matching.entropic import transport
from saejax.matching.similarity import directions
from saejax.mesh import make_mesh


@pytest.fixture
def allow_promotion():
    """What ott itself needs."""
    with jax.numpy_rank_promotion("allow"):
        yield


def mesh(count=8):
    return make_mesh(MeshConfig(), devices=jax.devices()[:count])


def entropic(a, b, epsilon, **options) -> Any:
    """A matching with its certificate and plan."""
    return match(a, b, method="sinkhorn", epsilon=epsilon, **options)


def solve(a, b, **options):
    given = {"epsilon": 0.05, "tolerance": 1e-4, "max_iterations": 3000, "memory_bytes": 2**30}
    return transport(a, b, mesh=mesh(), **(given | options))


def test_smaller_epsilons_come_closer_from_both_sides(make_pair):
    a, b = make_pair(300, 300, 24)
    exact: Any = match(a, b)
    best, gaps, bounds, sure = exact.certificate.primal, [], [], []
    for epsilon in (0.1, 0.03, 0.01, 0.003, 0.001):
        found = entropic(a, b, epsilon, start=exact)
        assert found.soft.converged
        assert found.soft.error < found.soft.tolerance == 1e-3
        gaps.append(best - found.certificate.primal)
        bounds.append(found.certificate.dual - best)
        sure.append(found.soft.num_sure)
        assert verify(a, b, found) <= 1e-13
        assert np.abs(found.soft.expected_cosine).max() <= 1 + 1e-5
        assert (found.soft.entropy >= -1e-3).all()
    assert min(gaps + bounds) >= -1e-9
    # A large epsilon leaves nearly all to the exact solver, a small one is nearly exact itself.
    assert max(gaps) <= 1e-4 * len(a)
    assert sure == sorted(sure)
    assert sure[0] < 150 < 270 < sure[-1]
    assert sorted(bounds, reverse=True) == bounds
    assert gaps[-1] <= 1e-9
    assert bounds[-1] <= 1e-9
    np.testing.assert_array_equal(found.target, exact.target)
    assert found.certificate.certified
    assert found.soft.num_partners.mean() < 1.1


@pytest.mark.parametrize("shape", [(60, 60), (50, 60), (60, 50)])
def test_every_shape_is_matched_and_bounded(make_pair, shape):
    a, b = make_pair(*shape, 12)
    exact: Any = match(a, b)
    found = entropic(a, b, 0.02)
    assert found.num_matched == 50 if shape != (60, 60) else 60
    assert found.soft.entropy.shape == found.target.shape
    assert found.certificate.primal <= exact.certificate.primal + 1e-9
    assert found.certificate.dual >= exact.certificate.primal - 1e-9
    assert verify(a, b, found) <= 1e-13


@pytest.mark.parametrize("memory", [2**30, 0])
def test_potentials_are_those_of_ott(make_pair, memory, allow_promotion):
    a, b = make_pair(40, 50, 8)
    found = solve(a, b, memory_bytes=memory, tolerance=1e-5, epsilon=0.1)
    cost = 1 - directions(a, "decoder") @ directions(b, "decoder").T
    theirs = Sinkhorn(threshold=1e-5)(LinearProblem(Geometry(cost_matrix=cost, epsilon=0.1)))
    plan = np.exp((found.f[:, None] + found.g[None] - cost) / 0.1)
    np.testing.assert_allclose(plan, theirs.matrix, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=0), np.full(50, 1 / 50), atol=1e-5)


def test_one_device_equals_eight(make_pair):
    a, b = make_pair(64, 64, 8)
    for memory in (2**30, 0):
        one, eight = (
            transport(
                a,
                b,
                mesh=mesh(count),
                epsilon=0.05,
                tolerance=1e-3,
                max_iterations=500,
                memory_bytes=memory,
            )
            for count in (1, 8)
        )
        assert one.iterations == eight.iterations
        np.testing.assert_allclose(one.f, eight.f, atol=1e-5)
        np.testing.assert_allclose(one.summaries.entropy, eight.summaries.entropy, atol=1e-3)


def test_candidates_and_exact_duals_save_iterations(make_pair, allow_promotion):
    a, b = make_pair(300, 300, 24)
    warm, cold = (entropic(a, b, 0.003, start=start).soft for start in (match(a, b), None))
    cost = 1 - directions(a, "decoder") @ directions(b, "decoder").T
    problem = LinearProblem(Geometry(cost_matrix=cost, epsilon=0.003))
    plain: Any = Sinkhorn(threshold=1e-3)(problem)
    assert plain.converged
    assert cold.converged
    assert warm.converged
    assert max(cold.iterations, warm.iterations) <= plain.n_iters / 10
    assert warm.iterations + warm.candidate_iterations < plain.n_iters / 2


def test_ott_without_regularisation_finds_the_exact_matching(make_pair, allow_promotion):
    a, b = make_pair(60, 60, 12)
    cost = 1 - directions(a, "decoder") @ directions(b, "decoder").T
    transport_cost, theirs = unreg.hungarian(Geometry(cost_matrix=jnp.asarray(cost)))
    exact: Any = match(a, b)
    assert exact.certificate.primal == pytest.approx(60 * (1 - float(transport_cost)), abs=1e-4)
    partner = np.asarray(theirs.matrix.todense()).argmax(axis=1)
    np.testing.assert_array_equal(partner, exact.target)
    np.testing.assert_array_equal(partner, entropic(a, b, 0.001).target)


def test_given_marginals_are_met_and_unbalanced_ones_need_not_be(make_pair):
    a, b = make_pair(30, 40, 8)
    rng = np.random.default_rng(0)
    p, q = (x / x.sum() for x in (rng.uniform(0.5, 1, 30), rng.uniform(0.5, 1, 40)))
    cost = 1 - directions(a, "decoder") @ directions(b, "decoder").T

    def plan(found):
        return np.exp((found.f[:, None] + found.g[None] - cost) / 0.05)

    met = plan(solve(a, b, marginals=(p, q)))
    np.testing.assert_allclose(met.sum(axis=0), q, atol=1e-5)
    np.testing.assert_allclose(met.sum(axis=1), p, atol=1e-5)
    loose = solve(a, b, marginals=(p, 2 * q), tau=(0.5, 0.5))
    assert loose.converged
    assert np.abs(plan(loose).sum(axis=1) - p).max() > 1e-3
    np.testing.assert_allclose(loose.summaries.mass, plan(loose).sum(axis=1), rtol=1e-3)


def test_what_does_not_converge_says_so(make_pair, tmp_path):
    a, b = make_pair(100, 100, 16)
    with pytest.warns(UserWarning, match="not converged"):
        found = entropic(a, b, 0.001, tolerance=1e-9)
    assert not found.soft.converged
    assert verify(a, b, found) <= 1e-13
    found.save(tmp_path / "m.npz")
    loaded = Matching.load(tmp_path / "m.npz")
    assert loaded.soft is not None
    for field in dataclasses.fields(found.soft):
        np.testing.assert_array_equal(
            getattr(loaded.soft, field.name), getattr(found.soft, field.name)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon=0.0: must be above 0"),
        ({"epsilon": float("nan")}, "epsilon=nan: must be above 0"),
        ({"tolerance": 0.0}, "tolerance=0.0"),
        ({"tau": (0.0, 1.0)}, r"tau=\(0.0, 1.0\)"),
        ({"marginals": (np.ones(4), np.ones(5))}, "different masses, 4 and 5"),
        ({"marginals": (np.ones(4), np.array([1, 1, 1, 1, 0.0]))}, "marginal q: needs 5 positive"),
        ({"marginals": (np.ones(3), np.ones(5))}, "marginal p: needs 4 positive"),
        ({"marginals": (np.full(4, np.inf), np.ones(5))}, "marginal p: a weight is infinite"),
    ],
)
def test_bad_options_are_input_errors(options, message):
    a, b = np.eye(4, 5), np.eye(5)
    with pytest.raises(InputError, match=message):
        solve(a, b, **options)


def test_options_of_other_methods_are_refused(make_pair):
    a, b = make_pair(10, 10, 4)
    with pytest.raises(InputError, match="epsilon: only method='sinkhorn' has it"):
        match(a, b, epsilon=0.1)
    with pytest.raises(InputError, match="'sinkhorn' compares cosines"):
        entropic(a, b, 0.1, normalize=False)
    with pytest.raises(InputError, match="start: a matching of method 'max_cosine' has no duals"):
        entropic(a, b, 0.1, start=match(a, b, method="max_cosine"))
    with pytest.raises(InputError, match="start: has 10 and 8 duals for 10 and 10 latents"):
        entropic(a, b, 0.1, start=match(a, b[:8]))


def test_a_mesh_set_by_the_caller_changes_nothing(make_pair):
    a, b = make_pair(20, 20, 6)
    expected = entropic(a, b, 0.1)
    with jax.set_mesh(mesh()), warnings.catch_warnings():
        found = entropic(jnp.asarray(a), jnp.asarray(b), 0.1)
    np.testing.assert_array_equal(found.target, expected.target)
