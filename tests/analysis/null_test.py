"""Chance: the quadrature against drawn directions, and what a rotation keeps and breaks."""

import numpy as np
import pytest
from scipy.stats import kstest

from saejax.analysis import null
from saejax.analysis.null import chance_cosine, null_record, rotate
from saejax.errors import InputError
from saejax.sae.sae import Sae


def unit_rows(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def planted(seed, N=60, D=24, transcoder=False):
    """Encoder and decoder rows that are alike, half of the latents those of every seed."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    rows = np.where(np.arange(N)[:, None] < N // 2, unit_rows(common, N, D), unit_rows(own, N, D))
    return Sae(
        w_enc=(rows + 0.05 * own.normal(size=(N, D))).T.astype(np.float32),
        b_enc=np.zeros(N, np.float32),
        w_dec=rows.astype(np.float32),
        b_dec=np.zeros(D, np.float32),
        k=4,
        transcoder=transcoder,
    )


@pytest.mark.parametrize(("N", "D"), [(1, 3), (2, 2), (5, 4), (200, 16), (1000, 64)])
def test_best_of_n_is_that_of_drawn_directions(N, D):
    # What the other direction is does not matter: here it is the first axis.
    rng = np.random.default_rng(1)
    best = np.array([unit_rows(rng, N, D)[:, 0].max() for _ in range(2000)])
    threshold = float(np.quantile(best, 0.8))
    chance = chance_cosine(N, D, threshold=threshold)
    # Four standard errors of the drawn ones.
    assert chance.mean == pytest.approx(best.mean(), abs=4 * best.std() / np.sqrt(len(best)))
    assert chance.above_frac == pytest.approx(0.2, abs=4 * np.sqrt(0.16 / len(best)))


def test_known_values():
    # On the circle a cosine has mean 0, in three dimensions it is uniform: the best of n is
    # at 1 - 2 / (n + 1) on average, and exceeds t with probability 1 - ((1 + t) / 2)^n.
    assert chance_cosine(1, 2, threshold=0.0).mean == pytest.approx(0, abs=1e-9)
    for n in (1, 7, 1000):
        chance = chance_cosine(n, 3, threshold=0.5)
        assert chance.mean == pytest.approx(1 - 2 / (n + 1), abs=1e-8)
        assert chance.above_frac == pytest.approx(1 - 0.75**n, rel=1e-12)


def test_small_probabilities_do_not_vanish():
    one, many = (chance_cosine(n, 576, threshold=0.7).above_frac for n in (1, 1000))
    assert 0 < one < 1e-80
    assert many == pytest.approx(1000 * one, rel=1e-9)
    assert chance_cosine(3, 8, threshold=-1.0).above_frac == 1
    assert chance_cosine(3, 8, threshold=1.0).above_frac == 0


@pytest.mark.parametrize(("N", "D", "threshold"), [(0, 4, 0.7), (4, 1, 0.7), (4, 4, 1.2)])
def test_what_has_no_chance_cosine(N, D, threshold):
    with pytest.raises(InputError, match=r"needs a direction, of width 2|a cosine is in"):
        chance_cosine(N, D, threshold=threshold)


@pytest.mark.parametrize("transcoder", [False, True])
def test_rotation_keeps_the_dictionary(transcoder):
    sae = planted(1, transcoder=transcoder)
    turned = rotate(sae, np.random.default_rng(0))
    for rows, now in ((sae.w_dec, turned.w_dec), (sae.w_enc.T, turned.w_enc.T)):
        np.testing.assert_allclose(now @ now.T, rows @ rows.T, atol=1e-5)
        assert np.abs(np.sum(rows * now, axis=1)).mean() < 0.4
    # What an autoencoder's encoder and decoder are to each other stays; a transcoder's two
    # spaces have nothing to do with each other.
    before, after = (np.sum(x.w_dec * x.w_enc.T, axis=1) for x in (sae, turned))
    assert np.allclose(before, after, atol=1e-5) != transcoder


def test_rotations_are_uniform():
    # An entry of a random direction in three dimensions is uniform; QR alone is not.
    rng = np.random.default_rng(3)
    entries = [null._rotation(3, rng)[0, 0] for _ in range(1000)]
    assert kstest(entries, "uniform", args=(-1, 2)).pvalue > 1e-3


def test_record_of_a_planted_pair():
    found = null_record(planted(1), planted(2), threshold=0.9, used_seeds=(0, 2))
    assert found["untrained"]["seeds"] == [1, 3]
    assert found["directions"]["matched_cosine"] < found["directions"]["best_cosine"]
    # Tied: both sides match the same directions.
    assert found["untrained"]["agreement_frac"] == 1
    for name in ("untrained", "rotated"):
        assert found[name]["matched_rows"] == 60
        assert found[name]["shared_frac"] == found[name]["max_cosine_frac"] == 0
        # The half that is shared is gone, and what is left is what directions give.
        assert found[name]["mean_cosine"]["decoder_max"] == pytest.approx(
            found["directions"]["best_cosine"], abs=0.05
        )
    assert found["missing"] == {}
    # The same once more.
    assert null_record(planted(1), planted(2), threshold=0.9, used_seeds=(0, 2)) == found


def test_large_dictionaries_are_drawn_from(monkeypatch):
    monkeypatch.setattr(null, "MATCHED_ROWS", 16)
    found = null_record(planted(1), planted(2), threshold=0.9, used_seeds=())
    rows = [found[name]["matched_rows"] for name in ("directions", "untrained", "rotated")]
    assert (rows, found["num_latents"]) == ([16, 16, 16], 60)


def test_a_transcoder_does_not_start_with_directions():
    found = null_record(
        planted(1, transcoder=True), planted(2, transcoder=True), threshold=0.9, used_seeds=()
    )
    assert found["untrained"] is None
    assert "starts at 0" in found["missing"]["untrained"]
    assert found["rotated"]["shared_frac"] == 0
