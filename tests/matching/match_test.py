"""The public entry: methods, sides, errors."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.matching import match, verify
from saejax.matching.match import METHODS
from saejax.mesh import make_mesh


class Weights(NamedTuple):
    w_enc: np.ndarray
    w_dec: np.ndarray


def rows(num_latents, seed, width=5):
    return np.random.default_rng(seed).normal(size=(num_latents, width))


def test_a_reordered_copy_is_matched_perfectly():
    a = rows(40, 0)
    order = np.random.default_rng(1).permutation(40)
    scale = np.linspace(0.1, 10, 40)[:, None]
    for method in METHODS:
        matching = match(a, (scale * a)[order], method=method)
        np.testing.assert_array_equal(order[matching.target], np.arange(40))
        np.testing.assert_allclose(matching.cosine, 1, atol=1e-6)


def test_sides_compare_what_they_say():
    a = Weights(w_dec=rows(8, 0), w_enc=rows(8, 1).T)
    b = Weights(w_dec=rows(8, 2), w_enc=rows(8, 3).T)
    for side, x, y in (("decoder", a.w_dec, b.w_dec), ("encoder", a.w_enc.T, b.w_enc.T)):
        of_saes: Any = match(a, b, side=side)
        of_rows: Any = match(x, y, side=side)
        np.testing.assert_array_equal(of_saes.target, of_rows.target)
        assert of_saes.certificate.primal == of_rows.certificate.primal
        assert (of_saes.side, of_saes.method) == (side, "exact")


@pytest.mark.parametrize(("num_a", "num_b"), [(9, 9), (5, 12), (12, 5)])
def test_max_cosine_is_at_least_the_matched_cosine(num_a, num_b):
    a, b = rows(num_a, 0), rows(num_b, 1)
    best, matched = match(a, b, method="max_cosine"), match(a, b)
    assert (best.u, best.v, best.certificate) == (None, None, None)
    assert best.num_matched == num_a
    assert (best.cosine >= matched.cosine - 1e-6)[matched.matched].all()


def test_the_certificate_names_the_solver():
    exact: Any = match(rows(3, 0), rows(3, 1), method="exact")
    scipy: Any = match(rows(3, 0), rows(3, 1), method="scipy")
    assert (exact.method, exact.certificate.solver) == ("exact", "saejax")
    assert (scipy.method, scipy.certificate.solver) == ("scipy", "scipy")
    assert exact.certificate.seconds > 0


@pytest.mark.parametrize("method", ["exact", "scipy"])
def test_inner_products_instead_of_cosines(method):
    # By cosine the first row prefers the first column, by inner product the long second one.
    a, b = np.float32([[1, 0], [1, 0.1]]), np.float32([[1, 0], [9, 9]])
    by_cosine: Any = match(a, b, method=method)
    by_product: Any = match(a, b, method=method, normalize=False)
    np.testing.assert_array_equal(by_cosine.target, [0, 1])
    np.testing.assert_array_equal(by_product.target, [0, 1])
    assert by_product.certificate.primal == pytest.approx(1 + 9.9)
    assert by_product.cosine[1] == pytest.approx(9.9 / np.sqrt(1.01) / np.sqrt(162))
    assert not by_product.normalized
    assert verify(a, b, by_product) <= 1e-13


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16': choose one of auto, float32, bfloat16"),
        ({"method": "scipy", "dtype": "bfloat16"}, "only method='exact' has a choice"),
        ({"method": "max_cosine", "normalize": False}, "'max_cosine' compares cosines"),
    ],
)
def test_options_that_do_not_apply_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        match(rows(3, 0), rows(3, 1), **options)


def test_jax_arrays_and_a_mesh_change_nothing():
    a, b = rows(20, 0).astype(np.float32), rows(20, 1).astype(np.float32)
    for method in METHODS:
        expected = match(a, b, method=method)
        mesh = make_mesh(MeshConfig())
        with jax.set_mesh(mesh):
            sharded = jax.device_put(
                a[:16], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
            )
            np.testing.assert_array_equal(
                match(jnp.asarray(a), jnp.asarray(b), method=method).target, expected.target
            )
            np.testing.assert_array_equal(
                match(sharded, b, method=method).target, match(a[:16], b, method=method).target
            )


def test_a_zero_row_is_warned_of_and_matched():
    a, b = rows(5, 0), rows(5, 1)
    a[2] = 0
    with pytest.warns(UserWarning, match="a: 1 of 5 rows are zero, the first is row 2"):
        matching = match(a, b)
    assert matching.cosine[2] == 0
    assert matching.num_matched == 5
    assert verify(a, b, matching) <= 1e-14


def test_the_progress_names_the_work(capsys):
    match(rows(5, 0), rows(5, 1), side="encoder")
    assert "match encoders, exact: 5/5 latents" in capsys.readouterr().err


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_is_an_input_error(method):
    a = rows(4, 0)
    with pytest.raises(InputError, match="widths 5 and 4 differ"):
        match(a, a[:, :4], method=method)
    with pytest.raises(InputError, match="b: 20 of 20 values are NaN"):
        match(a, np.full_like(a, np.nan), method=method)
    with pytest.raises(InputError, match=r"a: has shape \(0, 5\)"):
        match(a[:0], a, method=method)
    with pytest.raises(InputError, match="side='middle'"):
        match(a, a, method=method, side="middle")


def test_an_unknown_method_lists_the_known():
    with pytest.raises(
        InputError, match="method='hungarian': choose one of exact, sinkhorn, scipy, max_cosine"
    ):
        match(rows(2, 0), rows(2, 1), method="hungarian")
