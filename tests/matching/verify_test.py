"""The verifier accepts what is right and refuses every way of being wrong."""

import dataclasses
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

from saejax.errors import InputError
from saejax.matching import VerificationError, match, verify


class Weights(NamedTuple):
    w_enc: np.ndarray
    w_dec: np.ndarray


def rows(num_latents, seed):
    return np.random.default_rng(seed).normal(size=(num_latents, 6)).astype(np.float32)


def solved(a, b) -> Any:
    """A matching whose duals and certificate are there, which its type does not say."""
    return match(a, b)


def edit(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def recertified(matching, primal=None, dual=None, **changes):
    """The matching with a certificate that is consistent with the given sums."""
    certificate = matching.certificate
    primal = certificate.primal if primal is None else primal
    dual = certificate.dual if dual is None else dual
    gap = max(dual - primal, 0.0)
    certificate = dataclasses.replace(
        certificate, primal=primal, dual=dual, gap=gap, relative_gap=gap / max(1, abs(primal))
    )
    return dataclasses.replace(matching, certificate=certificate, **changes)


@pytest.fixture(params=[(30, 30), (20, 30), (30, 20)], ids=["square", "wide", "tall"])
def problem(request):
    a, b = rows(request.param[0], 0), rows(request.param[1], 1)
    return a, b, match(a, b)


def test_a_right_matching_passes(problem):
    assert 0 <= verify(*problem) <= 1e-14


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_sides_of_an_sae(side):
    def sae(seed):
        return Weights(w_enc=rows(12, seed).T, w_dec=rows(12, seed + 5))

    a, b = sae(0), sae(1)
    matching = match(a, b, side=side)
    assert verify(a, b, matching) <= 1e-14
    other = {"decoder": "encoder", "encoder": "decoder"}[side]
    with pytest.raises(VerificationError, match="has cosine"):
        verify(a, b, dataclasses.replace(matching, side=other))


def test_a_violation_in_any_tile_is_found(monkeypatch):
    # The package exports the function under the name of its module.
    monkeypatch.setattr(sys.modules["saejax.matching.verify"], "_TILE", 4)
    a, b = rows(10, 0), rows(10, 1)
    matching = solved(a, b)
    assert verify(a, b, matching) <= 1e-14
    for i in range(10):
        # Lower one dual and raise others, so that the sums stay as they were.
        u = matching.u + 1e-6 / 9
        u[i] -= 1e-6 + 1e-6 / 9
        with pytest.raises(VerificationError, match=rf"u\[{i}\] \+ v\["):
            verify(a, b, dataclasses.replace(matching, u=u))


def test_swapped_partners(problem):
    a, b, matching = problem
    i, j = np.flatnonzero(matching.target >= 0)[:2]
    target = edit(matching.target, [i, j], matching.target[[j, i]])
    with pytest.raises(VerificationError, match=f"latent {i} has cosine"):
        verify(a, b, dataclasses.replace(matching, target=target))


def test_swapped_partners_with_honest_sums_are_not_optimal(problem):
    a, b, matching = problem
    i, j = np.flatnonzero(matching.target >= 0)[:2]
    target = edit(matching.target, [i, j], matching.target[[j, i]])
    doubles = a.astype(np.float64), b.astype(np.float64)
    unit_a, unit_b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in doubles)
    cosine = np.where(target >= 0, (unit_a * unit_b[target]).sum(axis=1), 0)
    units = [x.astype(np.float32).astype(np.float64) for x in (unit_a, unit_b)]
    primal = float(np.where(target >= 0, (units[0] * units[1][target]).sum(axis=1), 0).sum())
    worse = recertified(matching, primal=primal, target=target, cosine=cosine.astype(np.float32))
    with pytest.raises(VerificationError, match="called certified"):
        verify(a, b, worse)
    # Saying so is honest, and passes.
    honest = dataclasses.replace(worse.certificate, certified=False)
    assert verify(a, b, dataclasses.replace(worse, certificate=honest)) <= 1e-14


@pytest.mark.parametrize("name", ["u", "v"])
@pytest.mark.parametrize("shift", [1e-4, -1e-4, 1e-7, -1e-7])
def test_a_shifted_dual(problem, name, shift):
    a, b, matching = problem
    partner = np.flatnonzero(matching.target >= 0)[3]
    index = partner if name == "u" else matching.target[partner]
    dual = getattr(matching, name)
    shifted = {name: edit(dual, index, dual[index] + shift)}
    with pytest.raises(VerificationError):
        verify(a, b, dataclasses.replace(matching, **shifted))
    with pytest.raises(VerificationError):
        verify(a, b, recertified(matching, dual=matching.certificate.dual + shift, **shifted))


def test_signs_on_the_larger_side():
    a, b = rows(20, 0), rows(30, 1)
    matching = solved(a, b)
    # The same shift of all duals changes no sum u_i + v_j, but breaks weak duality.
    shifted = recertified(
        matching,
        dual=float(matching.u.sum() - 2.0 + matching.v.sum() + 3.0),
        u=matching.u - 0.1,
        v=matching.v + 0.1,
    )
    with pytest.raises(VerificationError, match="is not 0, though latent"):
        verify(a, b, shifted)
    with pytest.raises(VerificationError, match="is negative"):
        verify(a, b, dataclasses.replace(matching, u=matching.u + 0.1, v=matching.v - 0.1))
    tall = solved(b, a)
    with pytest.raises(VerificationError, match=r"u\[\d+\] = .* is negative"):
        verify(b, a, dataclasses.replace(tall, u=tall.u - 0.1, v=tall.v + 0.1))


def test_a_changed_cosine(problem):
    a, b, matching = problem
    for i in (0, int(np.flatnonzero(matching.target >= 0)[0])):
        cosine = edit(matching.cosine, i, matching.cosine[i] - 1e-4)
        with pytest.raises(VerificationError, match=f"latent {i} has cosine"):
            verify(a, b, dataclasses.replace(matching, cosine=cosine))
    with pytest.raises(VerificationError, match="has cosine"):
        verify(a, b, dataclasses.replace(matching, cosine=edit(matching.cosine, 1, np.nan)))


def test_a_target_that_is_no_matching(problem):
    a, b, matching = problem
    i, j = np.flatnonzero(matching.target >= 0)[:2]
    for value, message in [
        (matching.target[j], "is the partner of 2 latents"),
        (len(b), f"latent {i} has partner {len(b)}"),
        (-2, f"latent {i} has partner -2"),
        (-1, "latents are matched"),
    ]:
        changed = dataclasses.replace(matching, target=edit(matching.target, i, value))
        with pytest.raises(VerificationError, match=message):
            verify(a, b, changed)


def test_wrong_sizes_and_nan_duals(problem):
    a, b, matching = problem
    with pytest.raises(VerificationError, match="have shapes"):
        verify(a[:-1], b, matching)
    with pytest.raises(VerificationError, match="have shapes"):
        verify(a, b, dataclasses.replace(matching, v=matching.v[:-1]))
    with pytest.raises(VerificationError, match="dual is NaN"):
        verify(a, b, dataclasses.replace(matching, u=edit(matching.u, 0, np.nan)))


@pytest.mark.parametrize("field", ["primal", "dual", "gap", "relative_gap"])
@pytest.mark.parametrize("value", [1e-6, -1e-6, np.nan])
def test_an_altered_certificate(problem, field, value):
    a, b, matching = problem
    altered = getattr(matching.certificate, field) + value
    certificate = dataclasses.replace(matching.certificate, **{field: altered})
    with pytest.raises(VerificationError, match="certificate says"):
        verify(a, b, dataclasses.replace(matching, certificate=certificate))


@pytest.mark.parametrize("method", ["exact", "scipy"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_rows_that_were_not_normalised(method, scale):
    a, b = scale * rows(40, 0), scale * rows(50, 1)
    a[3] = 0
    with pytest.warns(UserWarning, match="rows are zero"):
        matching: Any = match(a, b, method=method, normalize=False)
    assert verify(a, b, matching) <= 1e-13 * scale**2
    shifted = dataclasses.replace(matching, u=edit(matching.u, 5, matching.u[5] - scale**2))
    with pytest.raises(VerificationError):
        verify(a, b, shifted)
    with pytest.raises(VerificationError):
        verify(a, b, dataclasses.replace(matching, normalized=True))
    with pytest.raises(VerificationError, match="has cosine"):
        verify(a, b, dataclasses.replace(matching, cosine=edit(matching.cosine, 5, 0.99)))


def test_other_weights(problem):
    a, b, matching = problem
    with pytest.raises(VerificationError, match="has cosine"):
        verify(a, b + 0.1, matching)


def test_what_cannot_be_verified_is_an_input_error():
    a, b = rows(4, 0), rows(4, 1)
    with pytest.raises(InputError, match="'max_cosine' has no duals"):
        verify(a, b, match(a, b, method="max_cosine"))
    with pytest.raises(InputError, match="width 6, b has width 5"):
        verify(a, b[:, :5], match(a, b))
    with pytest.raises(InputError, match="b: needs finite weights"):
        verify(a, np.full_like(b, np.nan), match(a, b))
