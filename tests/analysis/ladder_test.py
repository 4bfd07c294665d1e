"""Entropic against exact matchings: counts by hand, tables, and what is concluded."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from saejax.analysis.ladder import (
    against_exact,
    conclusion,
    definitions_table,
    ladder_table,
)
from saejax.errors import InputError
from saejax.matching import match


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 24))
    b = np.concatenate([a[:20] + rng.normal(size=(20, 24)) / 10, rng.normal(size=(30, 24))])
    return a, b


@pytest.fixture(scope="module")
def exact(pair) -> Any:
    return match(*pair)


def rung(pair, exact, epsilon, **options):
    found = match(*pair, method="sinkhorn", epsilon=epsilon, **options)
    return against_exact(found, exact, threshold=0.9) | {"start": "cold", "peak_bytes": 2**30}


def test_counts_are_those_of_a_loop(pair, exact):
    found: Any = match(*pair, method="sinkhorn", epsilon=0.05)
    # A wrong hit and a wrong miss, whose cosines are then no longer the certificate's.
    target, likeliest = found.target.copy(), found.soft.likeliest.copy()
    target[[0, 30]] = target[[30, 0]]
    likeliest[1] = (likeliest[1] + 1) % 50
    found = dataclasses.replace(
        found, target=target, soft=dataclasses.replace(found.soft, likeliest=likeliest)
    )
    record = against_exact(found, exact, threshold=0.9)
    hits = [i for i in range(50) if exact.cosine[i] >= 0.9]
    misses = [i for i in range(50) if i not in hits]
    assert len(hits) == 20
    for group, members in (("", range(50)), ("_hits", hits), ("_misses", misses)):
        for name, partner in (("same", target), ("likeliest", likeliest)):
            count = sum(int(partner[i]) == int(exact.target[i]) for i in members)
            assert record[f"{name}{group}_frac"] == pytest.approx(count / len(members))
    assert record["same_hits_frac"] == 0.95
    primal, dual = found.certificate.primal, found.certificate.dual
    assert record["below"] == pytest.approx((exact.certificate.primal - primal) / 50)
    assert record["above"] == pytest.approx((dual - exact.certificate.primal) / 50)
    assert record["above"] >= 0
    assert record["sure_frac"] == found.soft.num_sure / 50


def test_a_larger_first_side_counts_matched_latents_alone(pair):
    a, b = pair
    exact = match(a, b[:30])
    record = against_exact(match(a, b[:30], method="sinkhorn"), exact, threshold=0.9)
    assert record["same_hits_frac"] == record["likeliest_hits_frac"] == 1
    assert record["same_frac"] >= 0.9
    assert 0 < record["sure_frac"] <= 1


def test_no_hits_have_no_fraction(pair, exact):
    record = against_exact(match(*pair, method="sinkhorn", epsilon=0.1), exact, threshold=1.0)
    assert record["same_hits_frac"] is None
    record |= {"start": "cold", "peak_bytes": 0}
    costs = {"decoder": {"seconds": 1.0, "passes": 1.0, "peak_bytes": 0}}
    assert " - " in ladder_table(costs, [record], threshold=1.0)
    said = conclusion(costs, [record], [], threshold=1.0)
    assert "of those below it" in said
    assert "at or above" not in said


def test_what_is_said_are_the_numbers(pair, exact):
    rungs = [rung(pair, exact, epsilon) for epsilon in (0.1, 0.01)]
    costs = {"decoder": {"seconds": 2.0, "passes": 1.1, "peak_bytes": 3 * 2**30}}
    rungs[0]["seconds"], rungs[1]["seconds"] = 3.0, 10.0
    table = ladder_table(costs, rungs, threshold=0.9).splitlines()
    assert table[1].split()[:2] == ["decoder", "exact"]
    assert table[1].split()[-3:] == ["1.1", "2.0", "3.00"]
    assert [line.split()[1] for line in table[2:4]] == ["0.1", "0.01"]
    assert table[2].split()[-2:] == ["3.0", "1.00"]
    fractions = ("shared_frac", "aligned_frac", "agreement_frac", "decoder_frac")
    rows = [
        {"epsilon": "exact", "start": ""} | dict.fromkeys(fractions, 0.5),
        {"epsilon": 0.1, "start": "cold"} | dict.fromkeys(fractions, 0.49),
        {"epsilon": 0.01, "start": "cold"} | dict.fromkeys(fractions, 0.5),
    ]
    assert "49.00% (-1.00)" in definitions_table(rows).splitlines()[2]
    said = conclusion(costs, rungs, rows, threshold=0.9)
    assert "For epsilon from 0.01 to 0.1" in said
    assert "100.0% of those at or above cosine 0.9" in said
    assert "moves by at most 1.00 points" in said
    assert "the entropic ones 1.5 to 5.0 times that" in said
    assert "the exact one is the one to use" in said
    rungs[0]["converged"] = False
    said = conclusion(costs, rungs, rows, threshold=0.9)
    assert said.startswith("Not converged at epsilon 0.1")
    assert "Every definition of shared stays the same" in said
    assert "NOT CONVERGED" in ladder_table(costs, rungs, threshold=0.9)
    rungs[1]["converged"] = False
    assert conclusion(costs, rungs, rows, threshold=0.9) == (
        "Not converged at epsilon 0.1, 0.01: these count for nothing here."
    )


def test_what_cannot_be_compared_is_refused(pair, exact):
    with pytest.raises(InputError, match="needs a matching of 'sinkhorn'"):
        against_exact(exact, exact, threshold=0.7)
    found = match(*pair, method="sinkhorn")
    with pytest.raises(InputError, match="50 and 40 latents"):
        against_exact(found, match(pair[0][:40], pair[1][:40]), threshold=0.7)
    other = match(*pair, side="encoder")
    with pytest.raises(InputError, match="of the same side"):
        against_exact(found, other, threshold=0.7)
