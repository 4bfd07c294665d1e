"""Absorption and splitting: planted ones are found, and nothing else; definitions by loops."""

import numpy as np
import pytest

from saejax.analysis.absorption import (
    Data,
    absorption,
    dense_codes,
    measure,
    num_split,
    train_probes,
)
from saejax.errors import InputError
from saejax.sae.sae import Sae, decode, encode

D, TRAIN, TEST = 32, 60, 20
A, B, C, E = range(4)  # letters, and the axes of their directions
HALF, SPECIAL, MUTE = 10, 20, 30  # axes: two kinds of c words, single b words, what silences e


def words(rng, per_letter, planted):
    """Activations 5 e_letter + noise; half of the c words each have an axis of their own."""
    letters = np.repeat([A, B, C, E], per_letter)
    x = rng.normal(size=(len(letters), D)) * 0.05
    x[np.arange(len(letters)), letters] += 5
    c = np.flatnonzero(letters == C)
    x[c, HALF + np.arange(len(c)) % 2] += 5
    if planted:
        x[per_letter + np.arange(4), SPECIAL + np.arange(4)] += 6
        x[3 * per_letter + np.arange(2), MUTE] += 6
    return x.astype(np.float32), letters


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    train, train_letters = words(rng, TRAIN, planted=False)
    test, test_letters = words(rng, TEST, planted=True)
    return Data(train, test, train_letters, test_letters)


@pytest.fixture(scope="module")
def sae():
    """Latents: 0 says a, 1 b but for four words, 2 and 3 each half of c, 4 e; 5 to 8 one b word."""
    enc, dec, bias = np.zeros((D, 12)), np.zeros((12, D)), np.full(12, -1.0)
    for latent, letter in ((0, A), (1, B), (4, E)):
        enc[letter, latent] = dec[latent, letter] = 1
    enc[SPECIAL : SPECIAL + 4, 1] = -3
    enc[MUTE, 4] = -3
    for half in range(2):
        enc[[C, HALF + half], 2 + half] = 1
        bias[2 + half] = -7
        dec[2 + half, [C, HALF + half]] = 0.7
    for word in range(4):
        enc[SPECIAL + word, 5 + word] = 1.4
        dec[5 + word, [B, SPECIAL + word]] = 0.6, 0.8
    dec[9:, 15:18] = np.eye(3)
    return Sae(
        np.float32(enc), np.float32(bias), np.float32(dec), np.zeros(D, np.float32), 12, arch="relu"
    )


def test_planted_absorption_and_splitting_are_found_exactly(data, sae):
    probes = train_probes(data)
    assert probes.f1.min() > 0.95
    results = {result.letter: result for result in measure(sae, data, probes)}
    assert list(results) == ["a", "b", "c", "d"]
    main = {letter: set(result.latents) for letter, result in results.items()}
    assert main == {"a": {0}, "b": {1}, "c": {2, 3}, "d": {4}}
    b = results["b"]
    assert len(b.true_positives) == TEST
    assert b.absorbed.tolist() == b.silent.tolist() == [True] * 4 + [False] * 16
    assert b.absorbers[:4].tolist() == [5, 6, 7, 8]
    np.testing.assert_allclose(b.fraction, b.absorbed)
    assert b.absorption_rate == pytest.approx(0.2)
    assert b.absorption_fraction == pytest.approx(0.2)
    # 16 of 20 words and no false ones.
    assert b.f1_by_k[0] == pytest.approx(32 / 36)
    # The halves of c are no absorption, and silence alone is none either.
    assert results["d"].silent.sum() == 2
    for letter in "acd":
        assert not results[letter].absorbed.any()
        assert not results[letter].fraction.any()
    assert results["c"].f1_by_k[0] < 0.7 < 0.95 < results["c"].f1_by_k[1]


def test_probes_point_at_the_letters(data):
    probes = train_probes(data)
    np.testing.assert_allclose(np.linalg.norm(probes.directions, axis=1), 1, rtol=1e-5)
    # One letter against the others: its own axis counts for it, the others against it.
    assert probes.directions.argmax(axis=1).tolist() == [A, B, C, E]


def test_the_unit_of_activations_does_not_matter(data, sae):
    def scaled(x):
        return Data(x * data.train, x * data.test, data.train_letters, data.test_letters)

    other = Sae(sae.w_enc, 100 * sae.b_enc, sae.w_dec, 100 * sae.b_dec, sae.k, arch="relu")
    results = (
        measure(each, words, train_probes(words))
        for each, words in ((sae, data), (other, scaled(np.float32(100))))
    )
    for one, two in zip(*results, strict=True):
        assert one.latents == two.latents
        np.testing.assert_array_equal(one.absorbed, two.absorbed)


def by_definition(x, codes, w_dec, p, main):
    """SAEBench's steps, a word at a time."""
    silent, absorbed, fraction = [], [], []
    cosines = [w @ p / np.linalg.norm(w) for w in w_dec]
    for word, code in zip(x, codes, strict=True):
        along = [f * (w @ p) for f, w in zip(code, w_dec, strict=True)]
        top = max(range(len(code)), key=along.__getitem__)
        mute = all(code[i] < 1e-8 for i in main)
        whole = word @ p
        silent.append(mute)
        absorbed.append(
            bool(mute and cosines[top] >= 0.025 and whole >= 0 and along[top] / whole >= 0.4)
        )
        own = sum(along[i] for i in main)
        others = sorted(along[i] for i in range(len(code)) if i not in main and cosines[i] >= 0.1)
        rest = sum(value for value in others[-3:] if value > 0)
        if own >= whole or rest / whole < 0.4:
            fraction.append(0.0)
        elif own <= 0:
            fraction.append(1.0)
        else:
            taken = min(rest, whole - own)
            fraction.append(taken / (taken + own))
    return silent, absorbed, fraction


@pytest.mark.parametrize("main", [[0], [3, 7], [1, 2, 3]])
def test_absorption_is_its_definition(main):
    rng = np.random.default_rng(len(main))
    w_dec = rng.normal(size=(20, 6))
    codes = np.maximum(rng.normal(size=(400, 20)) - 1, 0)
    x = codes @ w_dec + rng.normal(size=(400, 6))
    p = rng.normal(size=6)
    p /= np.linalg.norm(p)
    silent, absorbed, fraction, _ = absorption(x, codes, w_dec, p, main)
    expected = by_definition(x, codes, w_dec, p, main)
    assert silent.tolist() == expected[0]
    assert absorbed.tolist() == expected[1]
    np.testing.assert_allclose(fraction, expected[2], atol=1e-12)
    assert 0 < absorbed.sum() < silent.sum() < 400
    assert 0 < fraction.mean() < 1


@pytest.mark.parametrize(
    ("f1", "expected"),
    [
        ([0.5, 0.9], 2),
        ([0.5, 0.529, 0.9], 1),
        ([0.5, 0.54, 0.56, 0.9], 2),
        ([0.5, 0.4, 0.9], 1),
        ([0.5], 1),
        ([0.1, 0.2, 0.3], 3),
    ],
)
def test_a_letter_is_split_while_f1_gains(f1, expected):
    assert num_split(np.array(f1)) == expected


@pytest.mark.parametrize("norm", ["none", "constant_norm_rescale"])
def test_dense_codes_decode_as_sparse_ones(norm):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(10, 6)).astype(np.float32)
    sae = Sae(rows.T, np.zeros(10), rows, np.zeros(6), 3, normalize_activations=norm)
    x = rng.normal(size=(1500, 6)).astype(np.float32)
    codes = dense_codes(sae, x)
    np.testing.assert_allclose(codes @ rows, decode(sae, encode(sae, x), x), atol=1e-4)


def test_what_cannot_be_measured_is_refused(data, sae):
    probes = train_probes(data)
    with pytest.raises(InputError, match="transcoder"):
        measure(sae.replace(transcoder=True), data, probes)
    wide = Sae(np.eye(8), np.zeros(8), np.eye(8), np.zeros(8), 2)
    with pytest.raises(InputError, match="8 wide and the activations 32"):
        measure(wide, data, probes)
