"""Records of a one-to-one matching and its proof of optimality, and their file. N, M: latents."""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.matching.archive import FORMAT, open_archive

SIDES = ("decoder", "encoder")

_SOFT_ARRAYS = ("entropy", "expected_cosine", "likeliest", "weight")
_ARRAYS = {"target": np.int32, "cosine": np.float32, "u": np.float64, "v": np.float64}


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What proves a matching optimal: weak duality of the linear assignment problem.

    For duals with u_i + v_j >= S_ij (see `Matching`), `dual` bounds every matching from above,
    so the best one exceeds ours by at most `gap` = dual - primal.

    Example:
      >>> import numpy as np, saejax
      >>> certificate = saejax.match(np.eye(3), np.eye(3), method="scipy").certificate
      >>> certificate.primal, certificate.certified
      (3.0, True)

    Attributes:
      primal: Sum of the matched cosines, in float64.
      dual: Upper bound on the sum of the matched cosines of any matching.
      gap: dual - primal, at least 0.
      relative_gap: gap / max(1, |primal|); for rows that are not normalised, the largest
        |a_i| |b_j| stands in place of the 1.
      certified: Whether relative_gap is at most 1e-9.
      passes: How often each of the N x M similarities was computed.
      seconds: Wall time of the solver.
      peak_bytes: Most memory the solver held at once, by its own arithmetic over its large
        arrays; its two inputs are not counted.
      solver: What solved it, as in "scipy".
    """

    primal: float
    dual: float
    gap: float
    relative_gap: float
    certified: bool
    passes: float
    seconds: float
    peak_bytes: int
    solver: str


@dataclasses.dataclass(frozen=True, eq=False)
class Soft:
    """What an entropic plan says of each latent of a beyond its one partner.

    Attributes:
      entropy: [N] of the latent's row of the plan, divided by its sum, in nats: 0 for one sure
        partner, log m for m equally good ones.
      expected_cosine: [N] mean cosine with the partners, weighted by the plan.
      likeliest: [N] partner with the largest entry in the plan; not one to one.
      weight: [N] that entry's part of the row.
      num_sure: Latents whose partner the plan decided; others were matched exactly.
      epsilon: Regularisation of the plan.
      tolerance: Error below which the iteration counts as converged.
      error: Sum of absolute differences between the plan's marginals and the given ones.
      converged: Whether the error fell below the tolerance.
      iterations: Of the solver, on all pairs.
      candidate_iterations: Of the solver, on the candidates before.
      geometry: How it held the similarities: "stored float32", "stored bfloat16" or "streamed".
    """

    entropy: Float32[np.ndarray, " N"]
    expected_cosine: Float32[np.ndarray, " N"]
    likeliest: Int32[np.ndarray, " N"]
    weight: Float32[np.ndarray, " N"]
    num_sure: int
    epsilon: float
    tolerance: float
    error: float
    converged: bool
    iterations: int
    candidate_iterations: int
    geometry: str

    @property
    def num_partners(self) -> np.ndarray:
        """[N] effective number of partners, exp(entropy)."""
        return np.exp(self.entropy)


# Arrays have no truth value, so the generated comparison of two records would only raise.
@dataclasses.dataclass(frozen=True, eq=False)
class Matching:
    """Partners in `b` of the latents of `a`, on one side of the two autoencoders.

    A matching made by "exact" or "scipy" maximises the sum of cosines over all matchings that
    cover the smaller of the two; one made by "sinkhorn" comes close. Its duals fulfil
    u_i + v_j >= S_ij for every pair, where S is the matrix of cosines, in an optimum with equality
    on matched pairs. Where N < M, v is at least 0, and in an optimum 0 on unmatched latents of b;
    where N > M the same holds for u.

    Example:
      >>> import numpy as np, saejax
      >>> matching = saejax.match(np.eye(3), np.eye(3)[:2], method="scipy")
      >>> matching.target, matching.num_matched
      (array([ 0,  1, -1], dtype=int32), 2)

    Attributes:
      target: [N] partner in b; -1 is unmatched, which occurs only when N > M. One to one,
        except for the method "max_cosine".
      cosine: [N] cosine with the partner, in [-1, 1]; 0 where unmatched. Nothing that counts
        shared latents counts an unmatched one, whatever the threshold.
      u: [N] duals of a; None for the method "max_cosine".
      v: [M] duals of b; None for the method "max_cosine".
      side: "decoder" or "encoder".
      method: What was asked of `match`, as in "exact".
      certificate: Proof of optimality; None for the method "max_cosine".
      normalized: Whether S holds cosines. If not, it holds inner products of the rows as they
        are, and u, v and the certificate are about these; `cosine` is the cosine all the same.
      soft: What the entropic plan says of each latent; None but for the method "sinkhorn".
    """

    target: Int32[np.ndarray, " N"]
    cosine: Float32[np.ndarray, " N"]
    u: Float64[np.ndarray, " N"] | None
    v: Float64[np.ndarray, " M"] | None
    side: str
    method: str
    certificate: Certificate | None
    normalized: bool = True
    soft: Soft | None = None

    @property
    def num_latents(self) -> int:
        """N, latents of a."""
        return self.target.size

    @property
    def matched(self) -> np.ndarray:
        """[N] bool: has a partner."""
        return self.target >= 0

    @property
    def num_matched(self) -> int:
        """Latents of a that have a partner."""
        return int(self.matched.sum())

    def save(self, path: str | os.PathLike) -> None:
        """Writes this matching alone; see `save_matchings`."""
        save_matchings(path, {self.side: self})

    @classmethod
    def load(cls, path: str | os.PathLike, side: str | None = None) -> "Matching":
        """Reads one side of what `save_matchings` wrote, bit for bit.

        Args:
          path: The file.
          side: "decoder" or "encoder"; may be left out when the file holds one side.

        Raises:
          InputError: If the file cannot be read or is not ours, if it lacks the side, or if it
            holds both and none was named.
        """
        path = pathlib.Path(path)
        with open_archive(path) as parts:
            sides = _sides(parts)
            if side is None and len(sides) == 1:
                side = sides[0]
            if side not in sides:
                raise InputError(
                    f"{path}: side={side!r}, but the file holds {' and '.join(sides)}; "
                    "name one of them"
                )
            record = json.loads(str(parts[f"{side}/record"]))
            arrays = {name: parts.get(f"{side}/{name}") for name in _ARRAYS}
            stored = record["certificate"]
            certificate = None if stored is None else Certificate(**stored)
            method, normalized = record["method"], record["normalized"]
            soft = None
            if record["soft"] is not None:
                soft_arrays = {name: parts[f"{side}/{name}"] for name in _SOFT_ARRAYS}
                soft = Soft(**soft_arrays, **record["soft"])
        if (why := _inconsistency(arrays, certificate)) is not None:
            raise InputError(f"{path}: {why}; make the file again")
        return cls(
            **arrays,
            side=side,
            method=method,
            certificate=certificate,
            normalized=normalized,
            soft=soft,
        )


def _sides(parts: Any) -> list[str]:
    return [name for name in SIDES if f"{name}/record" in parts]


def saved_sides(path: str | os.PathLike) -> list[str]:
    """The sides of which a file holds matchings.

    Raises:
      InputError: If the file cannot be read or is not ours.
    """
    with open_archive(pathlib.Path(path)) as parts:
        return _sides(parts)


def save_matchings(path: str | os.PathLike, matchings: dict[str, Matching]) -> None:
    """Writes the matchings of a pair, one for each side, into one NumPy .npz archive.

    Parts: `format`; then for each side `<side>/target`, `<side>/cosine`, with duals `<side>/u`
    and `<side>/v`, with an entropic plan `<side>/entropy` and `<side>/expected_cosine`, and
    `<side>/record`, a JSON object of the method, the certificate and the rest. The file appears
    whole or not at all; missing directories are made.

    Args:
      path: The file, in a run `matchings/<hookpoint>/seed<i>-seed<j>.<method>.npz`.
      matchings: The matching of each side, under its name.

    Raises:
      InputError: If a matching stands under another side's name, or the file cannot be written.
    """
    path = pathlib.Path(path)
    parts: dict[str, np.ndarray] = {"format": np.array(FORMAT)}
    for side, matching in matchings.items():
        if side != matching.side or side not in SIDES:
            raise InputError(
                f"a matching of the {matching.side} side is given as {side!r}; "
                f"name it by its side, one of {', '.join(SIDES)}"
            )
        for name in _ARRAYS:
            if (array := getattr(matching, name)) is not None:
                parts[f"{side}/{name}"] = array
        certificate = matching.certificate
        record = {
            "method": matching.method,
            "normalized": matching.normalized,
            "certificate": None if certificate is None else dataclasses.asdict(certificate),
            "soft": None,
        }
        if matching.soft is not None:
            soft = dict(vars(matching.soft))
            parts |= {f"{side}/{name}": soft.pop(name) for name in _SOFT_ARRAYS}
            record["soft"] = soft
        parts[f"{side}/record"] = np.array(json.dumps(record))
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **parts)


def _inconsistency(arrays: dict[str, Any], certificate: Certificate | None) -> str | None:
    """Why the parts of a file do not fit each other, or None."""
    for name, dtype in _ARRAYS.items():
        array = arrays[name]
        if array is None and name in ("u", "v") and certificate is None:
            continue
        if array is None or array.dtype != dtype or array.ndim != 1 or array.size == 0:
            return f"{name} is not a vector of {np.dtype(dtype)}"
        if not np.isfinite(array).all():
            return f"{name} holds NaN or infinite values"
        if name != "v" and array.size != arrays["target"].size:
            return f"{name} has {array.size} values for {arrays['target'].size} latents"
    if np.abs(arrays["cosine"]).max() > 1:
        return "a cosine lies outside [-1, 1]"
    if arrays["target"].min() < -1:
        return "a target lies below -1"
    if certificate is not None and not math.isfinite(certificate.primal + certificate.dual):
        return "its certificate is not finite"
    return None
