"""Every definition of shared, against naive counts and the paper's own matchings."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from saejax.analysis.compare import Comparison, compare
from saejax.errors import InputError
from saejax.matching import Matching, verify


class Weights(NamedTuple):
    w_enc: np.ndarray
    w_dec: np.ndarray


PAPER = Path(__file__).parents[2].parent / "shared" / "paper" / "matchings_32k.npz"


def sae(num_latents=30, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return Weights(
        w_enc=rng.normal(size=(width, num_latents)), w_dec=rng.normal(size=(num_latents, width))
    )


def near(source, seed=9, noise=2.0):
    """A copy in which the latents are more or less alike."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(0, noise, len(source.w_dec))
    return Weights(
        w_enc=source.w_enc + scale[None] * rng.normal(size=source.w_enc.shape),
        w_dec=source.w_dec + scale[:, None] * rng.normal(size=source.w_dec.shape),
    )


def matching(target, cosine=None, side="decoder", method="exact"):
    target = np.asarray(target, np.int32)
    cosine = np.ones(len(target)) if cosine is None else cosine
    return Matching(target, np.asarray(cosine, np.float32), None, None, side, method, None)


def handmade(dec, enc, dec_cosine=None, enc_cosine=None, maxima=((0.0,), (0.0,))):
    targets = np.zeros(len(dec), np.int32)
    return Comparison(
        decoder=matching(dec, dec_cosine),
        encoder=matching(enc, enc_cosine, "encoder"),
        decoder_max=matching(targets, np.resize(maxima[0], len(dec)), "decoder", "max_cosine"),
        encoder_max=matching(targets, np.resize(maxima[1], len(dec)), "encoder", "max_cosine"),
    )


def test_definitions_by_hand():
    c = handmade(
        dec=[0, 1, 2, 3, 4, -1],
        enc=[0, 1, 3, 2, 4, -1],
        dec_cosine=[0.9, 0.5, 0.9, 0.9, 0.5, 0.0],
        enc_cosine=[0.8, 0.9, 0.8, 0.4, 0.5, 0.0],
        maxima=([0.9, 0.6, 0.9, 0.9, 0.5, 0.4], [0.8, 0.9, 0.8, 0.45, 0.6, 0.4]),
    )
    np.testing.assert_array_equal(c.agree, [1, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(c.shared(0.7), [1, 0, 0, 0, 0, 0])
    assert c.shared_frac(0.7) == 1 / 6
    assert c.aligned_frac(0.7) == 2 / 6
    assert c.decoder_frac(0.7) == 3 / 6
    assert c.max_cosine_frac(0.7) == 2 / 6
    assert c.max_cosine_frac(0.55) == 3 / 6
    assert c.agreement_frac == 3 / 6
    # Shared includes the threshold, the counts of the paper's code do not.
    assert c.shared_frac(0.5) == 3 / 6
    assert c.aligned_frac(0.5) == 2 / 6
    assert c.mean_cosine == pytest.approx(
        {
            "decoder_matched": 0.74,
            "encoder_matched": 0.68,
            "decoder_max": 0.7,
            "encoder_max": 0.6583333,
        }
    )


def test_an_unmatched_latent_is_never_shared():
    c = handmade([0, -1], [0, -1], [0.5, 0.0], [0.5, 0.0])
    for threshold in (-1.0, 0.0, 0.5):
        assert c.shared_frac(threshold) == 0.5
    for frac in (c.aligned_frac, c.decoder_frac):
        assert frac(-1.0) == 0.5
    assert c.agreement_frac == 0.5


def test_a_threshold_of_numpy_counts_like_one_of_python():
    c = handmade([0], [0], [0.7], [0.7])
    for threshold in (0.7, np.float64(0.7), np.float32(0.7)):
        assert (c.shared_frac(float(threshold)), c.aligned_frac(float(threshold))) == (1.0, 0.0)
    assert c.shared_frac(np.float64(0.7)) == 1.0


@pytest.mark.parametrize("method", ["exact", "scipy"])
def test_a_reordered_copy_is_all_shared(method):
    a = sae()
    order = np.random.default_rng(3).permutation(30)
    b = Weights(w_enc=a.w_enc[:, order], w_dec=a.w_dec[order])
    c = compare(a, b, method=method)
    np.testing.assert_array_equal(order[c.decoder.target], np.arange(30))
    assert c.agreement_frac == c.shared_frac(0.999) == c.aligned_frac(0.999) == 1
    assert c.decoder_frac(0.999) == c.max_cosine_frac(0.999) == 1
    assert c.mean_cosine == pytest.approx(dict.fromkeys(c.mean_cosine, 1.0), abs=1e-6)


@pytest.mark.parametrize(("num_a", "num_b"), [(30, 30), (20, 30), (30, 20)])
def test_laws(num_a, num_b):
    whole = sae()
    a, b = whole, near(whole)
    a = Weights(w_enc=a.w_enc[:, :num_a], w_dec=a.w_dec[:num_a])
    b = Weights(w_enc=b.w_enc[:, :num_b], w_dec=b.w_dec[:num_b])
    c = compare(a, b)
    assert c.num_latents == num_a
    assert verify(a, b, c.decoder) <= 1e-14
    assert verify(a, b, c.encoder) <= 1e-14
    for t in (0.31, 0.5, 0.7, 0.9):
        assert c.shared_frac(t) <= c.aligned_frac(t) <= c.decoder_frac(t)
        assert c.aligned_frac(t) <= c.max_cosine_frac(t)
        assert c.shared_frac(t) <= c.agreement_frac
        assert c.shared(t).mean() == c.shared_frac(t)
    assert 0 < c.shared_frac(0.7) < 1
    if num_a == num_b:
        # One to one and over the same number: nothing depends on which is called a.
        swapped = compare(b, a)
        for t in (0.5, 0.7):
            assert swapped.shared_frac(t) == c.shared_frac(t)
            assert swapped.decoder_frac(t) == c.decoder_frac(t)
        assert swapped.mean_cosine["decoder_matched"] == pytest.approx(
            c.mean_cosine["decoder_matched"]
        )


def test_save_and_load(tmp_path):
    c = compare(sae(), near(sae()))
    paths = tmp_path / "seed1-seed2.exact.npz", tmp_path / "seed1-seed2.max_cosine.npz"
    c.save(*paths)
    loaded = Comparison.load(*paths)
    for name in ("decoder", "encoder", "decoder_max", "encoder_max"):
        np.testing.assert_array_equal(getattr(loaded, name).target, getattr(c, name).target)
        np.testing.assert_array_equal(getattr(loaded, name).cosine, getattr(c, name).cosine)
    assert loaded.mean_cosine == c.mean_cosine
    assert loaded.decoder.certificate == c.decoder.certificate
    with pytest.raises(InputError, match="swapped or missing"):
        Comparison.load(*paths[::-1])
    other = compare(sae(20), near(sae(20)))
    other.save(tmp_path / "other.npz", tmp_path / "other.max_cosine.npz")
    with pytest.raises(InputError, match="different pairs"):
        Comparison.load(paths[0], tmp_path / "other.max_cosine.npz")
    with pytest.raises(InputError, match="no such file"):
        Comparison.load(paths[0], tmp_path / "missing.npz")


def test_zero_latents_are_warned_of_once_for_each_matrix():
    a = sae()
    a.w_dec[4] = 0
    with pytest.warns(UserWarning, match="a, decoder: 1 of 30 rows are zero") as caught:
        compare(a, sae(seed=1))
    assert len(caught) == 1


def test_bad_input_is_an_input_error():
    a = sae()
    with pytest.raises(InputError, match="method='best'"):
        compare(a, a, method="best")
    with pytest.raises(InputError, match="row maxima are always computed"):
        compare(a, a, method="max_cosine")
    with pytest.raises(InputError, match="widths 6 and 5 differ"):
        compare(a, sae(width=5))
    ragged = Weights(w_enc=a.w_enc[:, :20], w_dec=a.w_dec)
    with pytest.raises(InputError, match=r"b: decoder .* of different sizes"):
        compare(a, ragged)
    c = handmade([0], [0])
    for threshold in (float("nan"), 1.5, -2.0, 70.0):
        with pytest.raises(InputError, match="threshold="):
            c.shared_frac(threshold)
    with pytest.raises(InputError, match="encoder is a matching of the decoder side"):
        Comparison(c.decoder, c.decoder, c.decoder_max, c.encoder_max)


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's matchings are not here")
def test_agreement_of_the_papers_own_matchings():
    # Released by the authors for nine autoencoders of 32,768 latents; 0.7929 is in their text.
    with np.load(PAPER) as released:
        agreement = {}
        for i, j in itertools.combinations(range(1, 10), 2):
            pair = f"pythia-160m-mlp6-32k/seed{i}-seed{j}"
            c = handmade(released[f"{pair}/decoder"], released[f"{pair}/encoder"])
            assert len(set(c.decoder.target)) == 32768
            agreement[i, j] = c.agreement_frac
            # At cosine 1 everywhere, shared is agreement.
            assert c.shared_frac(0.7) == c.agreement_frac
    assert agreement[1, 2] == pytest.approx(0.7929382, abs=5e-8)
    assert round(min(agreement.values()), 3) == 0.789
    assert round(max(agreement.values()), 3) == 0.810
