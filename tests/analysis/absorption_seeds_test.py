"""What seeds have in common, counted by hand on autoencoders that are each other permuted."""

from types import SimpleNamespace

import numpy as np
import pytest

from saejax.analysis.absorption import LetterProbes, LetterResult
from saejax.analysis.absorption_seeds import absorption_result, absorption_table
from saejax.analysis.compare import compare
from saejax.analysis.first_letter import LETTERS, Words

PERMUTATION = np.array([3, 0, 5, 1, 4, 2])


@pytest.fixture(scope="module")
def comparison():
    """Latent i of the first is latent PERMUTATION[i] of the second, but latent 4 is not shared."""
    rows = np.eye(6, 7)
    other = np.zeros_like(rows)
    other[PERMUTATION] = rows
    other[4] = np.eye(7)[6]
    a, b = (SimpleNamespace(w_enc=each.T, w_dec=each) for each in (rows, other))
    return compare(a, b, method="scipy")


def letter(name, latents, absorbed, f1=0.5):
    absorbed = np.array(absorbed)
    return LetterResult(
        letter=name,
        f1_by_k=np.array([f1, f1]),
        latents=latents,
        true_positives=np.arange(len(absorbed)),
        silent=absorbed,
        absorbed=absorbed,
        fraction=absorbed.astype(float),
        absorbers=np.full(len(absorbed), 5),
    )


def words(per_letter):
    letters = np.repeat(np.arange(3), per_letter)
    texts = tuple(f" {LETTERS[i]}{place}" for place, i in enumerate(letters))
    return Words(texts, np.arange(len(texts)), letters)


@pytest.fixture(scope="module")
def result(comparison):
    of_a = [
        letter("a", (0,), [True, True, False, False]),
        letter("b", (4, 1), [True, False, False, False], f1=0.7),
        letter("c", (2,), [True, True, True, True]),
    ]
    of_b = [
        letter("a", (3,), [True, False, False, False]),
        letter("b", (0, 4), [False, False, False, False]),
        letter("c", (1,), [False, False, False, False]),
    ]
    probes = LetterProbes(np.zeros((3, 7)), np.zeros((3, 12), bool), np.array([0.9, 0.61, 0.6]))
    given = {1: of_a, 2: of_b}
    return absorption_result(
        given, {(1, 2): comparison}, probes, words(16), words(4), threshold=0.7
    )


def test_only_letters_with_good_probes_count(result):
    assert [probe["counts"] for probe in result["probes"]] == [True, True, False]
    assert [probe["test_words"] for probe in result["probes"]] == [4, 4, 4]
    one, two = result["seeds"]
    assert one["absorption_rate"] == pytest.approx((0.5 + 0.25) / 2)
    assert two["absorption_rate"] == pytest.approx(0.125)
    assert one["num_latents"] == 1.5
    assert one["f1_first"] == pytest.approx(0.6)
    assert one["letters"][0]["absorbed"] == [
        {"word": " a0", "latent": 5},
        {"word": " a1", "latent": 5},
    ]


def test_the_spread_is_over_seeds(result):
    spread = result["spread"]["absorption_rate"]
    assert spread["mean"] == pytest.approx(0.25)
    assert spread["std"] == pytest.approx(np.std([0.375, 0.125], ddof=1))


def test_pairs_are_counted_by_hand(result):
    (pair,) = result["pairs"]
    assert pair["seeds"] == [1, 2]
    # a: 0 -> 3 are partners. b: 4 -> 4 is not 0.
    assert pair["first_matched_frac"] == 0.5
    # First latents 0 and 4 of the one, 3 and 0 of the other: all but 4 are shared.
    assert pair["first_shared_frac"] == 0.75
    assert pair["shared_frac"] == pytest.approx(5 / 6)
    # a: {3} and {3}; b: {4, 0} and {0, 4}.
    assert pair["latents_jaccard"] == 1.0
    assert pair["absorbed_jaccard"] == pytest.approx(1 / 3)
    assert pair["rate_difference"] == pytest.approx(0.25)


def test_the_table_shows_the_numbers(result):
    lines = absorption_table(result).splitlines()
    assert lines[0].split() == ["seed", "1", "seed", "2"]
    assert " ".join(lines[2].split()) == "a 4 0.90 0.50 1 50.0% 0.50 1 25.0%"
    assert lines[4].endswith("(probe too weak)")
    assert " ".join(lines[5].split()) == "mean of 2 0.76 0.60 1.5 37.5% 0.50 1.5 12.5%"
    assert lines[6] == "absorption rate 25.0% ± 17.7% over seeds"
    assert " ".join(lines[-1].split()) == "1, 2 50.0% 75.0% 83.3% 100.0% 33.3%"


def test_nothing_is_said_where_no_probe_is_good(comparison):
    found = [letter("a", (0,), [True])]
    probes = LetterProbes(np.zeros((3, 7)), np.zeros((3, 12), bool), np.full(3, 0.2))
    result = absorption_result(
        {1: found, 2: found}, {(1, 2): comparison}, probes, words(16), words(4), threshold=0.7
    )
    assert result["spread"]["absorption_rate"] == {"mean": None, "std": None}
    assert result["pairs"][0]["first_matched_frac"] is None
    assert "nothing to say" in absorption_table(result)
    alone = absorption_result({1: found}, {}, probes, words(16), words(4), threshold=0.7)
    assert alone["pairs"] == []
