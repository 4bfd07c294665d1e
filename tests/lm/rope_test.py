"""Rotary embeddings against formulas for single numbers."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from saejax.errors import InputError
from saejax.lm.fields import Fields
from saejax.lm.rope import Rope, rates, read_rope, rotate, tables

# Llama 3.1's and 3.2's.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(rope, head_dim=64, **values):
    return read_rope(Fields({"rope_parameters": rope, **values}, "the file"), head_dim)


def llama3_rate(i, head_dim, rope):
    """As Meta's `apply_scaling`, one frequency after the other."""
    rate = rope["rope_theta"] ** (-2 * i / head_dim)
    wavelength = 2 * math.pi / rate
    old = rope["original_max_position_embeddings"]
    if wavelength < old / rope["high_freq_factor"]:
        return rate
    if wavelength > old / rope["low_freq_factor"]:
        return rate / rope["factor"]
    smooth = (old / wavelength - rope["low_freq_factor"]) / (
        rope["high_freq_factor"] - rope["low_freq_factor"]
    )
    return (1 - smooth) * rate / rope["factor"] + smooth * rate


def test_llama3_slows_down_long_wavelengths():
    found = rates(read(LLAMA3))
    expected = [llama3_rate(i, 64, LLAMA3) for i in range(32)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    plain = rates(Rope(theta=500_000.0, dims=64))
    ratio = plain / found
    # All three kinds are there.
    assert ratio[0] == 1
    assert ratio[-1] == 32
    assert ((ratio > 1) & (ratio < 32)).any()


def test_linear_is_a_context_that_is_stretched():
    stretched = read({"type": "linear", "factor": 4.0, "rope_theta": 300.0}, 8)
    plain = read({"rope_theta": 300.0}, 8)
    np.testing.assert_allclose(tables(stretched, 41)[:, ::4], tables(plain, 11), atol=1e-6)


def test_only_the_first_dimensions_turn():
    rng = np.random.default_rng(0)
    x_BLHE = rng.normal(size=(1, 5, 2, 8)).astype(np.float32)
    rope = Rope(theta=100.0, dims=4)
    found = np.asarray(rotate(jnp.asarray(x_BLHE), tables(rope, 5)))
    np.testing.assert_array_equal(found[..., 4:], x_BLHE[..., 4:])
    for position in range(5):
        for i in range(2):
            # A plane of dimensions i and i + 2 is turned as complex numbers are.
            turn = np.exp(1j * position * 100.0 ** (-2 * i / 4))
            plane = x_BLHE[0, position, :, i] + 1j * x_BLHE[0, position, :, i + 2]
            turned = found[0, position, :, i] + 1j * found[0, position, :, i + 2]
            np.testing.assert_allclose(turned, plane * turn, atol=1e-6)


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q_E, k_E = (jnp.asarray(rng.normal(size=32), jnp.float32) for _ in range(2))
    tables_2L2r = tables(read(LLAMA3, 32), 300)
    many = jnp.ones((1, 300, 1, 1))
    q_LE = rotate(q_E[None, None, None] * many, tables_2L2r)[0, :, 0]
    k_LE = rotate(k_E[None, None, None] * many, tables_2L2r)[0, :, 0]
    score_LL = np.asarray(q_LE @ k_LE.T)
    np.testing.assert_allclose(score_LL[7:, 7:], score_LL[:-7, :-7], atol=1e-4)


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        ({"rope_type": "yarn", "factor": 2.0}, "rope_type='yarn' is not supported, only 'default'"),
        ({"rope_type": "longrope"}, "rope_type='longrope' is not supported"),
        ({"type": "su"}, "type='su' is not supported"),
        ({"rope_type": "linear"}, "factor=None must be a finite number"),
        ({"rope_type": "linear", "factor": 0.0}, r"factor=0\.0 must be finite and above 0"),
        ({"rope_theta": float("inf")}, "rope_theta=inf must be a finite number"),
        (LLAMA3 | {"low_freq_factor": None}, "low_freq_factor=None must be a finite number"),
        (LLAMA3 | {"low_freq_factor": 4.0}, r"low_freq_factor=4\.0, high_freq_factor=4\.0"),
        (LLAMA3 | {"original_max_position_embeddings": 0}, "embeddings=0: must be above 0"),
        ({"full_attention": {"rope_theta": 1e6}}, r"single types of layers \(full_attention\)"),
        ("llama3", "rope_parameters='llama3' must be an object"),
    ],
)
def test_what_cannot_be_rotated(rope, words):
    with pytest.raises(InputError, match=f"the file: .*{words}"):
        read(rope)
