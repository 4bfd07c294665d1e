"""Excluded positions get the activations of kept ones of their window, and of no other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saejax.config import DataConfig
from saejax.data.exclude import keep_tokens, taken_from

FIELDS = ("skip_tokens", "exclude_special_tokens", "max_norm_multiple")
SPECIAL = np.array([0, 3])


def naive(tokens_BL, captured, data):
    """Window by window, position by position."""
    kept_windows, replaced = {name: [] for name in captured}, []
    for b, tokens_L in enumerate(tokens_BL):
        first = captured["first"][b][data.skip_tokens :]
        norms = [float(np.sqrt((x.astype(float) ** 2).sum())) for x in first]
        keep = []
        for i, token in enumerate(tokens_L[data.skip_tokens :]):
            special = data.exclude_special_tokens and token in SPECIAL
            massive = data.max_norm_multiple and (
                norms[i] > data.max_norm_multiple * np.median(norms) and np.isfinite(norms[i])
            )
            keep.append(not (special or massive))
        good = [i for i, kept in enumerate(keep) if kept]
        source, number = [], 0
        for i, kept in enumerate(keep):
            if kept or not good:
                source.append(i)
            else:
                source.append(good[number % len(good)])
                number += 1
        for name, x in captured.items():
            kept_windows[name].append(x[b][data.skip_tokens :][source])
        replaced.append([i != s for i, s in enumerate(source)])
    return {name: np.stack(rows) for name, rows in kept_windows.items()}, np.array(replaced)


@functools.cache
def compiled(config):
    data = DataConfig(**dict(zip(FIELDS, config, strict=True)))
    return jax.jit(functools.partial(keep_tokens, data=data, special_ids=SPECIAL, norms_of="first"))


@given(
    tokens_BL=arrays(np.int32, (3, 6), elements=st.integers(0, 5)),
    # Small whole numbers, whose norms and medians are exact enough not to tie by accident.
    scale_BL=arrays(np.int32, (3, 6), elements=st.integers(0, 9)),
    config=st.sampled_from([(0, True, 0.0), (1, False, 1.1), (2, True, 2.3)]),
)
def test_as_one_by_one(tokens_BL, scale_BL, config):
    data = DataConfig(**dict(zip(FIELDS, config, strict=True)))
    first = np.stack([scale_BL, 0 * scale_BL, 0 * scale_BL], -1).astype(np.float32)
    captured = {"first": first, "second": np.random.default_rng(0).normal(size=(3, 6, 2))}
    captured["second"] = captured["second"].astype(np.float32)
    kept = compiled(config)(tokens_BL, captured)
    expected, replaced = naive(tokens_BL, captured, data)
    for name, x in expected.items():
        np.testing.assert_array_equal(kept.activations[name], x)
    np.testing.assert_array_equal(kept.replaced_BL, replaced)


def test_nothing_is_excluded_unless_asked_for():
    captured = {"first": jnp.arange(24.0).reshape(2, 4, 3)}
    tokens = np.zeros((2, 4), np.int32)
    kept = keep_tokens(tokens, captured, DataConfig(), special_ids=SPECIAL, norms_of="first")
    np.testing.assert_array_equal(kept.activations["first"], captured["first"][:, 1:])
    assert not kept.replaced_BL.any()


def test_windows_with_nothing_kept_stay_as_they_are():
    keep_BL = jnp.array([[False] * 4, [False, True, True, False]])
    np.testing.assert_array_equal(taken_from(keep_BL), [[0, 1, 2, 3], [1, 1, 2, 2]])


def test_what_is_not_finite_stays_to_be_found():
    x_BLD = np.ones((1, 5, 2), np.float32)
    x_BLD[0, 1], x_BLD[0, 2], x_BLD[0, 3] = np.inf, 100, np.nan
    data = DataConfig(skip_tokens=0, max_norm_multiple=10.0)
    kept = keep_tokens(
        np.ones((1, 5), np.int32),
        {"a": jnp.asarray(x_BLD)},
        data,
        special_ids=SPECIAL,
        norms_of="a",
    )
    assert np.isinf(kept.activations["a"][0, 1]).all()
    assert np.isnan(kept.activations["a"][0, 3]).all()
