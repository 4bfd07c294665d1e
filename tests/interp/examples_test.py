"""Laws of the examples of a latent, on caches of random firings."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import saejax
from saejax.errors import InputError
from saejax.interp.cache import open_cache
from saejax.interp.examples import Examples, TooFew, nearest_latents, sample

U, L, N = 12, 70, 4


def make_cache(code_ULN):
    """A cache whose tokens are their own numbers, so that texts tell where they are from."""
    with tempfile.TemporaryDirectory() as folder:
        tensors = {
            "locations": np.ascontiguousarray(np.argwhere(code_ULN), np.uint16),
            "activations": code_ULN[code_ULN != 0].astype(np.float16),
            "tokens": np.arange(code_ULN[..., 0].size).reshape(code_ULN.shape[:2]),
        }
        save_file(tensors, Path(folder) / f"0_{code_ULN.shape[2] - 1}.safetensors")
        return open_cache(Path(folder))  # What is mapped stays when its name goes.


def random_codes(seed, frac):
    rng = np.random.default_rng(seed)
    # Few values, so that there are ties.
    return np.where(rng.random((U, L, N)) < frac, rng.integers(1, 9, (U, L, N)), 0.0)


def decode(ids):
    return [str(token) for token in ids]


def places(examples):
    """Number of the first token of each."""
    return [int(example.tokens[0]) for example in examples]


@settings(max_examples=60)
@given(
    data=st.integers(0, 99),
    frac=st.sampled_from([0.002, 0.02, 0.1]),
    context=st.integers(1, L),
    numbers=st.tuples(*[st.integers(0, 12)] * 3),
    quantiles=st.integers(1, 6),
    latent=st.integers(0, N - 1),
    near=st.sampled_from([None, [0], [1, 2], []]),
    seed=st.integers(0, 3),
)
def test_laws(data, frac, context, numbers, quantiles, latent, near, seed):
    code_ULN = random_codes(data, frac)
    cache = make_cache(code_ULN)
    num_explain, num_activating, num_non_activating = numbers
    options = {
        "num_explain": num_explain,
        "num_activating": num_activating,
        "num_non_activating": num_non_activating,
        "context": context,
        "quantiles": quantiles,
        "seed": seed,
        "near": near,
    }
    found = sample(cache, latent, decode, **options)
    # All windows as a matrix: what is left at the end of a sequence is in none.
    per_sequence = L // context
    code_WTN = code_ULN[:, : per_sequence * context].reshape(-1, context, N)
    fires_WN = (code_WTN > 0).any(1)
    silent_W = ~fires_WN[:, latent]
    if near is not None:
        silent_W &= fires_WN[:, near].any(1)
    peaks = np.sort(code_WTN[fires_WN[:, latent], :, latent].max(1))[::-1]
    needed = max(num_explain + num_activating, 1)
    if len(peaks) < needed:
        assert found == TooFew("activating", len(peaks), needed)
        return
    if silent_W.sum() < num_non_activating:
        assert found == TooFew("non_activating", silent_W.sum(), num_non_activating)
        return
    assert isinstance(found, Examples)
    assert found.num_windows == len(peaks)
    assert tuple(map(len, found[:3])) == numbers
    drawn = [*found.explain, *found.activating, *found.non_activating]
    assert len(set(places(drawn))) == len(drawn)
    for example in drawn:
        first = int(example.tokens[0])
        sequence, start = divmod(first, L)
        assert start % context == 0
        assert start + context <= L
        assert example.tokens == tuple(map(str, range(first, first + context)))
        own_T = code_ULN[sequence, start : start + context, latent]
        np.testing.assert_array_equal(example.values, own_T)
        assert example.activating == (own_T > 0).any()
    for example in found.non_activating:
        sequence, start = divmod(int(example.tokens[0]), L)
        assert silent_W[sequence * per_sequence + start // context]
    runs = np.array_split(peaks, quantiles)
    for examples in (found.explain, found.activating):
        counts = Counter(example.quantile for example in examples)
        sizes = [counts[quantile] for quantile in range(quantiles)]
        assert max(sizes) - min(sizes) <= 1
        values = [example.values.max() for example in examples]
        assert values == sorted(values, reverse=True)
        for example in examples:
            run = runs[example.quantile]
            assert run[-1] <= example.values.max() <= run[0]
    again = sample(cache, latent, decode, **options)
    assert repr(again) == repr(found)
    if num_activating:
        fewer = sample(cache, latent, decode, **options | {"num_activating": 0})
        assert places(fewer.explain) == places(found.explain)


def test_the_order_of_latents_does_not_matter_and_the_seed_does():
    cache = make_cache(random_codes(0, 0.05))
    options = {"num_explain": 4, "num_activating": 6, "num_non_activating": 3, "context": 7}
    forward = [repr(sample(cache, n, decode, **options)) for n in range(N)]
    backward = [repr(sample(cache, n, decode, **options)) for n in reversed(range(N))]
    assert forward == backward[::-1]
    assert forward[0] != repr(sample(cache, 0, decode, **options, seed=1))
    # Latents that fire in the same windows are drawn apart.
    code_ULN = random_codes(0, 0.05)[..., :1]
    same = make_cache(np.concatenate([code_ULN, code_ULN], axis=2))
    one, other = (sample(same, n, decode, **options) for n in range(2))
    assert places(one.explain) != places(other.explain)


def test_every_window_is_drawn_equally_often():
    code_ULN = np.zeros((4, 40, 1))
    code_ULN[:2, ::4, 0] = 1 + np.arange(20).reshape(2, 10)
    cache = make_cache(code_ULN)
    seen = Counter()
    for seed in range(400):
        found = sample(
            cache,
            0,
            decode,
            num_explain=2,
            num_activating=4,
            num_non_activating=5,
            context=4,
            quantiles=2,
            seed=seed,
        )
        seen.update(places(found.activating) + places(found.non_activating))
    # 4 of 20 activating and 5 of 20 others: binomials with deviations of 8 and 8.7.
    for window in range(20):
        assert seen[4 * window] == pytest.approx(80, abs=36)
        assert seen[80 + 4 * window] == pytest.approx(100, abs=39)


def test_defaults_are_those_of_the_paper():
    rng = np.random.default_rng(0)
    cache = make_cache(np.where(rng.random((40, 256, 1)) < 0.02, 1.0, 0.0))
    found = sample(cache, 0, decode)
    assert tuple(map(len, found[:3])) == (40, 100, 100)
    assert {len(example.tokens) for part in found[:3] for example in part} == {32}
    counts = Counter(example.quantile for example in found.explain)
    assert counts == dict.fromkeys(range(10), 4)


def test_bad_input_is_named():
    cache = make_cache(random_codes(0, 0.05))
    for options, says in (
        ({"context": 0}, r"context=0: choose 1 to 70"),
        ({"context": 71}, r"context=71: choose 1 to 70"),
        ({"num_explain": -1}, "num_explain=-1 must be at least 0"),
        ({"quantiles": 0}, "quantiles=0 must be at least 1"),
        ({"seed": -2}, "seed=-2 must be at least 0"),
        ({"near": [N]}, f"latent {N}: the cache has latents 0 to {N - 1}"),
    ):
        with pytest.raises(InputError, match=says):
            sample(cache, 0, decode, **{"num_explain": 1, "num_activating": 1} | options)
    with pytest.raises(InputError, match="decode gives 1 texts for 7 tokens"):
        sample(
            cache,
            0,
            lambda ids: ["all"],
            num_explain=1,
            num_activating=1,
            num_non_activating=0,
            context=7,
        )


def test_nearest_latents_are_those_of_all_cosines():
    rng = np.random.default_rng(2)
    w_dec = rng.normal(size=(9, 5)).astype(np.float32)
    w_dec[3] = 2 * w_dec[8] + 0.01  # Of nearly the same direction, and longer.
    sae = saejax.Sae(w_dec.T, np.zeros(9), w_dec, np.zeros(5), k=2)
    unit = w_dec / np.linalg.norm(w_dec, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    latents = [3, 0, 8]
    expected = np.argsort(-cosine[latents], axis=1)
    np.testing.assert_array_equal(nearest_latents(sae, latents, count=3), expected[:, :3])
    np.testing.assert_array_equal(nearest_latents(sae, latents, count=99), expected[:, :8])
    with pytest.raises(InputError, match="latents 0 to 9: there are 0 to 8"):
        nearest_latents(sae, [0, 9])
