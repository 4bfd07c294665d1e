"""What devices do with rows that codes pick: the ways of CPUs and of accelerators agree."""

import jax
import numpy as np
import pytest

from saejax.sae import rows

B, D, N, K = 12, 5, 9, 4


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    index_BK = np.stack([rng.permutation(N)[:K] for _ in range(B)]).astype(np.int32)
    value_BK = rng.normal(size=(B, K)).astype(np.float32)
    value_BK[0, 1] = 0
    g_BD, w_ND = (rng.normal(size=(n, D)).astype(np.float32) for n in (B, N))
    return value_BK, index_BK, g_BD, w_ND


@pytest.mark.parametrize("dots", [rows._row_dots_by_token, rows._row_dots_by_slot, rows.row_dots])
def test_row_dots(arrays, dots):
    _, index_BK, g_BD, w_ND = arrays
    expected_BK = [[g_BD[b] @ w_ND[n] for n in index_BK[b]] for b in range(B)]
    np.testing.assert_allclose(jax.jit(dots)(g_BD, index_BK, w_ND), expected_BK, rtol=1e-5)


@pytest.mark.parametrize(
    "scattered",
    [rows._scattered_by_token, rows._scattered_by_product, rows.scattered_rows],
)
def test_scattered_rows(arrays, scattered):
    value_BK, index_BK, g_BD, _ = arrays
    expected_ND = np.zeros((N, D), np.float32)
    for b in range(B):
        for value, n in zip(value_BK[b], index_BK[b], strict=True):
            expected_ND[n] += value * g_BD[b]
    found_ND = jax.jit(scattered, static_argnums=3)(value_BK, index_BK, g_BD, N)
    np.testing.assert_allclose(found_ND, expected_ND, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dots", [rows._paired_by_row, rows._paired_by_reduction, rows.paired_dots])
def test_paired_dots(arrays, dots):
    *_, w_ND = arrays
    found_N = jax.jit(dots)(w_ND, w_ND[::-1])
    np.testing.assert_allclose(found_N, np.sum(w_ND * w_ND[::-1], axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("platform", "turns"), [("cpu", B), ("cuda", K), ("tpu", K)])
def test_loops_of_row_dots(arrays, platform, turns):
    _, index_BK, g_BD, w_ND = arrays
    text = lowered(rows.row_dots, platform, g_BD, index_BK, w_ND)
    assert text.count("stablehlo.while") == 1
    assert {n for n in (B, K) if f"dense<{n}> : tensor<i32>" in text} == {turns}


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 1), ("cuda", 0), ("tpu", 0)])
def test_loops_of_other_sums(arrays, platform, loops):
    value_BK, index_BK, g_BD, w_ND = arrays
    text = lowered(lambda *args: rows.scattered_rows(*args, N), platform, value_BK, index_BK, g_BD)
    assert text.count("stablehlo.while") == loops
    assert lowered(rows.paired_dots, platform, w_ND, w_ND).count("stablehlo.while") == loops


def test_pretending_to_be_an_accelerator(arrays):
    *_, w_ND = arrays
    with rows.as_on_accelerators():
        assert "stablehlo.while" not in lowered(lambda w: rows.paired_dots(w, w), "cpu", w_ND)
    assert "stablehlo.while" in lowered(lambda w: rows.paired_dots(w, w), "cpu", w_ND)


def lowered(function, platform, *arrays):
    return jax.jit(function).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
