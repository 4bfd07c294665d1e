"""The exact solver against all permutations, SciPy and itself on other devices."""

import dataclasses
import itertools
import warnings
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.matching import column_generation, match, sparse_lap, verify
from saejax.matching.verify import VerificationError
from saejax.mesh import make_mesh

# What bfloat16 keeps of a float32; the certificate has to be about the float32 all the same.
DTYPES = ("float32", "bfloat16")


def solved(a, b, **options) -> Any:
    """A matching with its certificate, without the warnings about zero and repeated rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return match(a, b, **options)


def brute_force(similarity):
    """Best sum over all injections of the smaller side into the larger."""
    if similarity.shape[0] > similarity.shape[1]:
        similarity = similarity.T
    num_rows, num_columns = similarity.shape
    return max(
        sum(similarity[i, j] for i, j in enumerate(columns))
        for columns in itertools.permutations(range(num_columns), num_rows)
    )


@pytest.mark.parametrize("num_a", range(1, 6))
@pytest.mark.parametrize("num_b", range(1, 6))
def test_no_permutation_is_better(num_a, num_b, check_optimal):
    rng = np.random.default_rng(10 * num_a + num_b)
    a, b = rng.normal(size=(num_a, 3)), rng.normal(size=(num_b, 3))
    matching = solved(a, b)
    units = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
        for x in (a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64))
    ]
    assert matching.certificate.primal == pytest.approx(brute_force(units[0] @ units[1].T))
    check_optimal(a, b, matching)


@st.composite
def instances(draw):
    """Few values, so ties, duplicates and zero rows abound; b may be a, -a or a reordered."""
    num_a, width = draw(st.integers(1, 40)), draw(st.integers(1, 4))
    values = draw(st.sampled_from([st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-2, 2, width=32)]))
    a = draw(hnp.arrays(np.float32, (num_a, width), elements=values))
    kind = draw(st.sampled_from(["free", "same", "opposite", "reordered", "duplicates"]))
    if kind == "same":
        return a, a
    if kind == "opposite":
        return a, -a
    if kind == "reordered":
        return a, a[draw(st.permutations(range(num_a)))]
    num_b = draw(st.integers(1, 40))
    if kind == "duplicates":
        return a, a[draw(hnp.arrays(np.int32, num_b, elements=st.integers(0, num_a - 1)))]
    return a, draw(hnp.arrays(np.float32, (num_b, width), elements=values))


@settings(max_examples=60)
@given(instances(), st.sampled_from(DTYPES))
def test_every_small_instance_is_solved_and_certified(check_optimal, instance, dtype):
    a, b = instance
    check_optimal(a, b, solved(a, b, dtype=dtype))


@pytest.mark.parametrize("width", [2, 3, 24])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_kind_of_instance(kind, width, dtype, check_optimal):
    a, b = kind(150, width)
    check_optimal(a, b, solved(a, b, dtype=dtype))


def test_every_kind_with_rows_of_any_length(kind, check_optimal):
    a, b = kind(150, 8)
    lengths = np.random.default_rng(0).lognormal(0, 1, (len(a), 1)).astype(np.float32)
    check_optimal(7 * lengths * a, b, solved(7 * lengths * a, b, normalize=False), normalize=False)


def test_the_permutation_is_found_where_it_is_unique(make_pair):
    a, b = make_pair(700, 700, 32)
    ours, scipy = solved(a, b), solved(a, b, method="scipy")
    np.testing.assert_array_equal(ours.target, scipy.target)
    assert ours.certificate.solver == "saejax"
    assert 1 <= ours.certificate.passes < 1.5


def test_a_reordered_and_rescaled_copy_is_undone():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 16))
    order = rng.permutation(400)
    matching = solved(a, (a * rng.uniform(0.1, 10, (400, 1)))[order])
    np.testing.assert_array_equal(order[matching.target], np.arange(400))


def test_swapping_the_sides_inverts_the_matching(make_pair):
    a, b = make_pair(300, 400, 16)
    there, back = solved(a, b), solved(b, a)
    assert there.certificate.primal == pytest.approx(back.certificate.primal, rel=1e-12)
    np.testing.assert_array_equal(back.target[there.target], np.arange(300))
    assert (back.target < 0).sum() == 100


@pytest.mark.parametrize("shape", [(300, 300), (200, 300), (300, 200)])
def test_one_device_equals_eight(make_pair, shape):
    a, b = make_pair(*shape, 16)
    results = []
    for count in (1, 8):
        mesh = make_mesh(MeshConfig(), devices=jax.devices()[:count])
        results.append(solved(a, b, mesh=mesh))
    np.testing.assert_array_equal(results[0].target, results[1].target)
    np.testing.assert_array_equal(results[0].u, results[1].u)
    np.testing.assert_array_equal(results[0].v, results[1].v)


def test_a_training_mesh_is_used_whole(make_pair):
    a, b = make_pair(100, 100, 8)
    axes = ("seed", "data", "latent")
    mesh = jax.make_mesh((2, 2, 2), axes, axis_types=(jax.sharding.AxisType.Auto,) * 3)
    np.testing.assert_array_equal(solved(a, b, mesh=mesh).target, solved(a, b).target)


# The hard way: whatever goes wrong inside, the independent check must refuse the result.


def test_swapped_partners_are_refused(make_pair, monkeypatch):
    a, b = make_pair(300, 300, 16)

    def swapped(*args, **kwargs):
        price, target = solve(*args, **kwargs)
        if (target >= 0).all():
            target[[3, 77]] = target[[77, 3]]
        return price, target

    solve = sparse_lap.solve
    monkeypatch.setattr(sparse_lap, "solve", swapped)
    matching = solved(a, b)
    assert not matching.certificate.certified
    assert verify(a, b, matching) <= 1e-14  # It does not claim to be optimal.
    with pytest.raises(VerificationError):
        verify(a, b, claimed(matching))


def claimed(matching):
    """The same with a certificate that says it is optimal."""
    certificate = dataclasses.replace(matching.certificate, certified=True)
    return dataclasses.replace(matching, certificate=certificate)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_shifted_duals_are_refused(make_pair, monkeypatch, shift):
    a, b = make_pair(300, 300, 16)

    def shifted(self, *args):
        self.state.price[5] += int(shift * 2**48)
        return result(self, *args)

    result = column_generation.Problem.result
    monkeypatch.setattr(column_generation.Problem, "result", shifted)
    matching = solved(a, b)
    # A price that is too low violates other pairs; one too high costs more than it proves.
    if shift > 0:
        assert not matching.certificate.certified
        matching = claimed(matching)
    with pytest.raises(VerificationError):
        verify(a, b, matching)


def test_a_dropped_candidate_is_refused(make_pair, monkeypatch):
    a, b = make_pair(300, 300, 16)
    best = solved(a, b)
    # Any edge of the optimum whose loss costs something; here of the first shared latent.
    row = int(np.argmax(best.cosine))

    def without(self, rows, columns):
        keep = (np.asarray(rows) != row) | (np.asarray(columns) != best.target[row])
        return add(self, np.asarray(rows)[keep], np.asarray(columns)[keep])

    add = column_generation.Edges.add
    monkeypatch.setattr(column_generation.Edges, "add", without)
    worse = solved(a, b)
    assert worse.certificate.primal < best.certificate.primal - 1e-6
    assert worse.certificate.certified  # The solver believes its graph ...
    with pytest.raises(VerificationError, match="below the cosine of that pair"):
        verify(a, b, worse)  # ... the check does not.


def test_a_pass_that_overlooks_pairs_is_refused(make_pair, monkeypatch):
    a, b = make_pair(600, 600, 16)

    def blind(x, y, rows, prices, k, on_rows):
        kept = top_k(x, y, rows, prices, k + 1, on_rows)
        # The best column of every third row is dropped, as a wrong kernel might.
        first = np.where(np.arange(len(rows)) % 3 == 0, 1, 0)[:, None]
        take = np.arange(k)[None] + first
        return kept._replace(
            columns=np.take_along_axis(kept.columns, take, 1),
            values=np.take_along_axis(kept.values, take, 1),
        )

    top_k = column_generation.top_k
    monkeypatch.setattr(column_generation, "top_k", blind)
    with pytest.raises(VerificationError):
        verify(a, b, solved(a, b))


# The paths that ordinary instances do not take.


def test_rows_without_a_path_get_one(make_pair, monkeypatch, check_optimal):
    monkeypatch.setattr(column_generation, "FIRST_K", 1)
    monkeypatch.setattr(column_generation, "_FEW_ROWS", 0)
    joined = []
    join = column_generation.Problem._join_stuck
    monkeypatch.setattr(
        column_generation.Problem,
        "_join_stuck",
        lambda self, rows: (joined.append(len(rows)), join(self, rows)),
    )
    for shape in ((200, 200), (150, 200)):
        a, b = make_pair(*shape, 12)
        check_optimal(a, b, solved(a, b))
    assert joined


def test_ties_beyond_what_a_pass_keeps_are_checked_exactly(monkeypatch, check_optimal):
    checked = []
    check = column_generation.Problem._check_exactly
    monkeypatch.setattr(
        column_generation.Problem,
        "_check_exactly",
        lambda self, x, y, rows, *rest: (checked.append(len(rows)), check(self, x, y, rows, *rest)),
    )
    rng = np.random.default_rng(0)
    a, b = rng.choice([-1.0, 1.0], size=(2, 500, 3)).astype(np.float32)
    check_optimal(a, b, solved(a, b))
    assert max(checked) > 0


def test_progress_counts_every_row_once_and_says_where_it_is(make_pair, capsys):
    for shape in ((300, 300), (200, 300), (300, 200)):
        solved(*make_pair(*shape, 8))
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"{shape[0]}/{shape[0]} latents" in last
        for word in ("passes 1", "tiles/s", "violations 0", "gap"):
            assert word in last


@pytest.mark.parametrize(
    ("scale", "message"), [(1e16, r"up to 4e\+32, outside \[1e-20, 1e\+30\]"), (1e-12, "4e-24")]
)
def test_products_outside_the_range_of_float32_are_refused(scale, message):
    rows = scale * np.eye(4, dtype=np.float32) * 2
    with pytest.raises(InputError, match=message):
        match(rows, rows, normalize=False)
    assert solved(rows, rows).certificate.certified


@pytest.mark.slow
@pytest.mark.parametrize(("num", "width"), [(2048, 64), (1500, 3), (1500, 2)])
def test_every_kind_of_larger_instance(kind, num, width, check_optimal):
    a, b = kind(num, width)
    check_optimal(a, b, solved(a, b))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(16384, 16384), (3000, 4096), (16384, 8192), (8191, 8192)])
@pytest.mark.parametrize("common", [0.0, 1.0])
def test_large_instances_equal_scipy(make_pair, shape, common):
    a, b = make_pair(*shape, 256, common=common)
    ours, scipy = solved(a, b), solved(a, b, method="scipy")
    assert ours.certificate.certified
    assert ours.certificate.primal == pytest.approx(scipy.certificate.primal, rel=1e-9)
    np.testing.assert_array_equal(ours.target, scipy.target)
