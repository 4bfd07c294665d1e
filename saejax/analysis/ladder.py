"""Entropic matchings at several epsilons against the exact one. N: latents of a."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from saejax.analysis.compare import Comparison
from saejax.errors import InputError
from saejax.matching import Matching

_DEFINITIONS = {
    "shared_frac": "shared",
    "aligned_frac": "aligned",
    "agreement_frac": "agreement",
    "decoder_frac": "decoder",
}
# Title, key, format, factor.
_COLUMNS = (
    ("likeliest", "likeliest_frac", ".1%", 1),
    ("hits", "likeliest_hits_frac", ".1%", 1),
    ("misses", "likeliest_misses_frac", ".1%", 1),
    ("sure", "sure_frac", ".1%", 1),
    ("rounded", "same_frac", ".1%", 1),
    ("hits", "same_hits_frac", ".1%", 1),
    ("misses", "same_misses_frac", ".1%", 1),
    ("below", "below", ".1e", 1),
    ("above", "above", ".1e", 1),
    ("passes", "passes", ".1f", 1),
    ("seconds", "seconds", ".1f", 1),
    ("GiB", "peak_bytes", ".2f", 2**-30),
)


def against_exact(found: Matching, exact: Matching, *, threshold: float) -> dict[str, Any]:
    """How close an entropic matching is to the exact one of the same two autoencoders.

    Args:
      found: Made by method "sinkhorn".
      exact: Made by method "exact" or "scipy".
      threshold: Exact cosine from which a latent is a hit; the others are misses.

    Returns:
      Of the latents that the exact matching pairs: `same_frac` with the same partner,
      `likeliest_frac` whose likeliest partner in the plan is the exact one, both also of hits
      and of misses alone (None where there are none), and `sure_frac` whose partner the plan
      decided. `below`: the mean cosine lies this far below the best; `above`: the bound lies
      this far above it. Then epsilon, entropy, num_partners (means), iterations and the rest.
    """
    best, ours, soft = exact.certificate, found.certificate, found.soft
    if best is None or ours is None or soft is None or found.side != exact.side:
        raise InputError(
            f"needs a matching of 'sinkhorn' and an exact one of the same side, not "
            f"{found.method!r} ({found.side}) and {exact.method!r} ({exact.side})"
        )
    if found.num_latents != exact.num_latents:
        raise InputError(
            f"{found.num_latents} and {exact.num_latents} latents: of different autoencoders"
        )
    hit_N = exact.matched & (exact.cosine >= threshold)
    groups = {"": exact.matched, "_hits": hit_N, "_misses": exact.matched & ~hit_N}
    matched = exact.num_matched
    record: dict[str, Any] = {"side": found.side, "epsilon": soft.epsilon}
    for group, member_N in groups.items():
        for name, target_N in (("same", found.target), ("likeliest", soft.likeliest)):
            same_N = (target_N == exact.target)[member_N]
            record[f"{name}{group}_frac"] = float(same_N.mean()) if len(same_N) else None
    return record | {
        "sure_frac": soft.num_sure / matched,
        "below": (best.primal - ours.primal) / matched,
        "above": (ours.dual - best.primal) / matched,
        "mean_entropy": float(soft.entropy.mean(dtype=np.float64)),
        "median_partners": float(np.median(soft.num_partners)),
        "mean_expected_cosine": float(soft.expected_cosine.mean(dtype=np.float64)),
        "iterations": soft.iterations,
        "candidate_iterations": soft.candidate_iterations,
        "error": soft.error,
        "converged": soft.converged,
        "geometry": soft.geometry,
        "passes": ours.passes,
        "seconds": ours.seconds,
    }


def definitions(comparison: Comparison, *, threshold: float) -> dict[str, float]:
    """Every definition of "shared" that depends on the one-to-one matchings."""
    return {
        "shared_frac": comparison.shared_frac(threshold),
        "aligned_frac": comparison.aligned_frac(threshold),
        "agreement_frac": comparison.agreement_frac,
        "decoder_frac": comparison.decoder_frac(threshold),
    }


def ladder_table(
    exact: Mapping[str, dict[str, Any]], rungs: Sequence[dict[str, Any]], *, threshold: float
) -> str:
    """A row for each side and epsilon, as plain text.

    Args:
      exact: For each side seconds, passes and peak_bytes of the exact matching.
      rungs: Of `against_exact`, with `start` and `peak_bytes`.
      threshold: That separates hits from misses.
    """
    titles = "".join(title.rjust(10) for title, *_ in _COLUMNS)
    lines = [f"{'side':<9}{'epsilon':<9}{'start':<7}{'iterations':>12}{titles}"]
    for side, best in exact.items():
        own = [rung for rung in rungs if rung["side"] == side]
        own.insert(0, {"side": side, "epsilon": "exact"} | best)
        for row in own:
            done = f"{row['candidate_iterations']} + {row['iterations']}" if "start" in row else ""
            cells = "".join(_cell(row.get(key), spec, unit) for _, key, spec, unit in _COLUMNS)
            mark = "" if row.get("converged", True) else "  NOT CONVERGED"
            name = f"{side:<9}{row['epsilon']!s:<9}{row.get('start', ''):<7}"
            lines.append(f"{name}{done:>12}{cells}{mark}")
    lines += [
        "",
        "likeliest: partner with the most mass in the plan; rounded: the one-to-one matching; both",
        f"in agreement with the exact one, of all, of hits (exact cosine >= {threshold:g}), of",
        "misses. sure: decided by the plan, others by the exact solver. below, above: how far the",
        "mean cosine and the bound are from the best. iterations: on candidates + on all pairs.",
    ]
    return "\n".join(lines)


def definitions_table(rows: Sequence[dict[str, Any]]) -> str:
    """The definitions under the exact matching (first), and under each entropic one."""
    lines = [f"{'epsilon':<9}{'start':<7}" + "".join(t.rjust(18) for t in _DEFINITIONS.values())]
    for row in rows:
        name = f"{row['epsilon']!s:<9}{row['start']:<7}"
        cells = (f"{row[d]:.2%} ({100 * (row[d] - rows[0][d]):+.2f})" for d in _DEFINITIONS)
        lines.append(name + "".join(cell.rjust(18) for cell in cells))
    return "\n".join(lines)


def conclusion(
    exact: Mapping[str, dict[str, Any]],
    rungs: Sequence[dict[str, Any]],
    rows: Sequence[dict[str, Any]],
    *,
    threshold: float,
) -> str:
    """What the tables say, in a paragraph.

    Args:
      exact: As for `ladder_table`.
      rungs: As for `ladder_table`.
      rows: As for `definitions_table`; empty where one side alone was matched.
      threshold: That separates hits from misses.
    """
    said = []
    if late := [f"{rung['epsilon']:g}" for rung in rungs if not rung["converged"]]:
        said.append(f"Not converged at epsilon {', '.join(late)}: these count for nothing here.")
    rungs = [rung for rung in rungs if rung["converged"]]
    if not rungs:
        return " ".join(said)
    low, high = (pick(rung["epsilon"] for rung in rungs) for pick in (min, max))
    groups = (("hits", f"at or above cosine {threshold:g}"), ("misses", "below it"))
    parts = [
        f"{_range([r[f'likeliest_{name}_frac'] for r in rungs])} of those {where}"
        for name, where in groups
        if all(rung[f"likeliest_{name}_frac"] is not None for rung in rungs)
    ]
    said.append(
        f"For epsilon from {low:g} to {high:g}, the plan's likeliest partner is the exact one for "
        f"{' and for '.join(parts)}."
    )
    said.append(
        f"Rounded to one to one, with {_range([r['sure_frac'] for r in rungs])} decided by the "
        f"plan, the mean cosine is at most {max(r['below'] for r in rungs):.1e} below the best; "
        f"the bound is {min(r['above'] for r in rungs):.1e} to "
        f"{max(r['above'] for r in rungs):.1e} above it."
    )
    converged = {(rung["epsilon"], rung["start"]) for rung in rungs}
    later = [row for row in rows[1:] if (row["epsilon"], row["start"]) in converged]
    if later:
        moved = max(abs(row[d] - rows[0][d]) for row in later for d in _DEFINITIONS)
        where = f"moves by at most {100 * moved:.2f} points" if moved else "stays the same"
        said.append(f"Every definition of shared {where}.")
    ratios = [rung["seconds"] / exact[rung["side"]]["seconds"] for rung in rungs]
    seconds = [best["seconds"] for best in exact.values()]
    said.append(
        f"The exact matching, with its proof, took {min(seconds):.1f} to {max(seconds):.1f} s a "
        f"side, the entropic ones {min(ratios):.1f} to {max(ratios):.1f} times that."
    )
    if min(ratios) >= 1:
        said.append("So the exact one is the one to use; the plan adds how sure each partner is.")
    return " ".join(said)


def _cell(value: float | None, spec: str, unit: float) -> str:
    return ("-" if value is None else format(value * unit, spec)).rjust(10)


def _range(fractions: Sequence[float]) -> str:
    low, high = min(fractions), max(fractions)
    return f"{low:.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"
