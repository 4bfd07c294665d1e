"""Directions and row maxima against naive numpy."""

import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.matching import similarity
from saejax.matching.similarity import check_widths, directions, row_max, row_products
from saejax.mesh import make_mesh
from saejax.progress import Progress


class Weights(NamedTuple):
    w_enc: np.ndarray
    w_dec: np.ndarray


def sae(num_latents=5, width=3, seed=0):
    rng = np.random.default_rng(seed)
    return Weights(
        w_enc=rng.normal(size=(width, num_latents)).astype(np.float32),
        w_dec=rng.normal(size=(num_latents, width)).astype(np.float32),
    )


def naive_unit(x):
    return np.stack([row / np.linalg.norm(row) for row in np.asarray(x, np.float64)])


def mesh():
    return make_mesh(MeshConfig())


def progress(total):
    return Progress("test", total=total, unit="latents")


def test_directions_take_decoder_rows_and_encoder_columns():
    source = sae()
    np.testing.assert_allclose(directions(source, "decoder"), naive_unit(source.w_dec), rtol=1e-6)
    np.testing.assert_allclose(directions(source, "encoder"), naive_unit(source.w_enc.T), rtol=1e-6)
    assert directions(source, "encoder").dtype == np.float32


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.float64, np.int8])
def test_directions_of_arrays_of_any_real_type(dtype):
    rows = np.array([[3, 4], [-5, 12]]).astype(dtype)
    np.testing.assert_allclose(
        directions(rows, "decoder"), [[0.6, 0.8], [-5 / 13, 12 / 13]], rtol=1e-6
    )
    np.testing.assert_array_equal(
        directions(jnp.asarray(rows), "encoder"), directions(rows, "decoder")
    )


def test_directions_of_huge_and_tiny_rows_are_unit():
    rows = np.array([[3e38, 3e38], [1e-42, -1e-42], [1e-30, 1e30]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(directions(rows, "decoder"), axis=1), 1, rtol=1e-6)


def test_directions_do_not_depend_on_the_chunk(monkeypatch):
    source = sae(num_latents=11)
    whole = directions(source, "encoder")
    monkeypatch.setattr(similarity, "_CHUNK_ROWS", 3)
    np.testing.assert_array_equal(directions(source, "encoder"), whole)


def test_zero_rows_stay_zero_with_one_warning(monkeypatch):
    monkeypatch.setattr(similarity, "_CHUNK_ROWS", 2)
    rows = np.random.default_rng(0).normal(size=(7, 3))
    rows[[2, 5, 6]] = 0
    with pytest.warns(UserWarning, match="a: 3 of 7 rows are zero, the first is row 2") as caught:
        units = directions(rows, "decoder", "a")
    assert len(caught) == 1
    assert np.isfinite(units).all()
    assert not units[[2, 5, 6]].any()


def test_directions_leave_the_source_alone():
    rows = np.float32([[3, 0], [0, 3]])
    directions(rows, "decoder")
    np.testing.assert_array_equal(rows, 3 * np.eye(2))


def test_rows_keep_their_lengths_if_asked():
    rows = np.float32([[3, 0], [0, -5]])
    np.testing.assert_array_equal(directions(rows, "decoder", normalize=False), rows)


def test_repeated_rows_are_counted_in_a_warning():
    rows = np.random.default_rng(0).normal(size=(9, 4))
    rows[[3, 7]] = 2 * rows[1]
    rows[5] = rows[0]
    with pytest.warns(
        UserWarning, match="b: 3 of 9 rows repeat an earlier one, the first is row 3"
    ):
        directions(rows, "decoder", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        directions(-rows[[0, 1]], "decoder")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1.0], [np.nan], [np.inf]]), "2 of 3 values are NaN or infinite.*row 1"),
        (np.array([[1.0, 2.0], [1e39, 2.0]]), "1 of 4 values.*row 1"),
        (np.ones((2, 3, 4)), r"shape \(2, 3, 4\)"),
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((0, 3)), r"shape \(0, 3\)"),
        (np.ones((3, 0)), r"shape \(3, 0\)"),
        (np.array([["x"]]), "not real numbers"),
        (np.array([[1j]]), "complex128, not real numbers"),
    ],
)
def test_bad_weights_are_input_errors(rows, message):
    with pytest.raises(InputError, match=message):
        directions(rows, "decoder")


def test_bad_rows_are_counted_over_chunks(monkeypatch):
    monkeypatch.setattr(similarity, "_CHUNK_ROWS", 2)
    rows = np.ones((7, 3))
    rows[3, 1] = rows[6] = np.nan
    with pytest.raises(InputError, match=r"4 of 21 values.*first in row 3"):
        directions(rows, "decoder")


def test_unknown_side_and_different_widths_are_input_errors():
    with pytest.raises(InputError, match=r"side='both'.*decoder, encoder"):
        directions(np.ones((2, 2)), "both")
    with pytest.raises(InputError, match="widths 2 and 3 differ"):
        check_widths(np.ones((4, 2)), np.ones((4, 3)))


@settings(max_examples=40)
@given(st.data())
def test_row_max_equals_the_dense_maximum(data):
    num_a, num_b, width = (data.draw(st.integers(1, n)) for n in (9, 7, 4))
    values = st.integers(-2, 2).map(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zero rows
        a, b = (
            directions(data.draw(hnp.arrays(np.float32, (n, width), elements=values)), "decoder")
            for n in (num_a, num_b)
        )
    cosine, target = row_max(a, b, progress(num_a), mesh=mesh())
    dense = a.astype(np.float64) @ b.astype(np.float64).T
    np.testing.assert_allclose(cosine, dense.max(axis=1), atol=1e-6)
    # Ties are legion here: the row named must be one of the best.
    np.testing.assert_allclose(dense[np.arange(num_a), target], dense.max(axis=1), atol=1e-6)
    assert np.abs(cosine).max() <= 1


def test_row_max_reports_each_row_once():
    rng = np.random.default_rng(0)
    a = directions(rng.normal(size=(10, 3)), "decoder")
    shown = progress(10)
    row_max(a, a, shown, mesh=mesh())
    assert shown._done == 10


def test_row_products_is_accurate_to_float64():
    rng = np.random.default_rng(1)
    a, b = (directions(rng.normal(size=(1030, 5)), "decoder") for _ in range(2))
    expected = [
        float(x.astype(np.float64) @ y.astype(np.float64)) for x, y in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(row_products(a, b), expected, atol=1e-15)
