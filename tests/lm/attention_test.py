"""Causal attention against a loop in numpy, and against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from saejax.lm.attention import causal_attention


def random(windows, length, heads, groups, width, seed=0):
    rng = np.random.default_rng(seed)
    sizes = (heads, groups, groups)
    return [rng.normal(size=(windows, length, n, width)).astype(np.float32) for n in sizes]


def naive(q_BLHE, k_BLGE, v_BLGE):
    """One query at a time, in float64; query head h reads key-value head h // (H / G)."""
    windows, length, heads, width = q_BLHE.shape
    group_heads = heads // k_BLGE.shape[2]
    out_BLHE = np.empty(q_BLHE.shape)
    for b in range(windows):
        for t in range(length):
            for h in range(heads):
                k_sE, v_sE = (x[b, : t + 1, h // group_heads] for x in (k_BLGE, v_BLGE))
                score_s = np.float64(k_sE) @ q_BLHE[b, t, h] / np.sqrt(width)
                p_s = np.exp(score_s - score_s.max())
                out_BLHE[b, t, h] = p_s @ v_sE / p_s.sum()
    return out_BLHE


@pytest.mark.parametrize(
    ("length", "heads", "groups"), [(1, 2, 2), (7, 4, 1), (64, 6, 3), (65, 2, 1), (150, 6, 2)]
)
def test_equals_a_loop(length, heads, groups):
    q, k, v = random(2, length, heads, groups, 8)
    out_BLHE = jax.jit(causal_attention)(q, k, v)
    np.testing.assert_allclose(out_BLHE, naive(q, k, v), atol=2e-6)


def test_large_scores_do_not_overflow():
    q, k, v = random(1, 70, 2, 1, 8)
    out_BLHE = jax.jit(causal_attention)(100 * q, 100 * k, v)
    np.testing.assert_allclose(out_BLHE, naive(100 * q, 100 * k, v), atol=1e-4)


def test_types_stay_and_softmax_is_float32():
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random(2, 100, 4, 2, 16))
    out_BLHE = causal_attention(q, k, v)
    assert out_BLHE.dtype == jnp.bfloat16
    expected = jax.nn.dot_product_attention(*(x.astype("float32") for x in (q, k, v)), is_causal=1)
    np.testing.assert_allclose(out_BLHE.astype("float32"), expected, atol=0.02)


def test_scores_of_all_pairs_are_never_held():
    shape = [jax.ShapeDtypeStruct((4, 1024, n, 16), jnp.float32) for n in (4, 2, 2)]
    memory = jax.jit(causal_attention).lower(*shape).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4 * 4 * 1024 * 1024 * 4 / 3
