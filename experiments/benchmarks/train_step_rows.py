"""The rows of the training-step benchmark: rounds put together, compared with saejax, printed."""

import math
import statistics
from typing import Any

# Solvers that take the very steps of saejax, up to rounding, so that the FVU must stay the same.
SAME_STEPS = ("sparsify adam", "sparsify fused adam")
# What the others do differently.
_NOTES = {
    "sparsify signum": "another optimizer, the default of its trainer",
    "saelens": "clips; keeps the gradient along the rows, which are divided by their norms here",
    "dictionary_learning": "clips",
}
# Relative difference of two FVUs that float32 sums in another order do not explain: of the same
# weights, and after steps of Adam, which makes much of the rounding of small gradients.
_FIRST_TOLERANCE = 1e-5
_LAST_TOLERANCE = 1e-4
_COLUMNS = ("ms/step", "spread", "peak MiB", "time", "memory", "FVU", "difference")


def summary(found: dict[str, list[dict[str, Any]]], seeds: dict[str, int]) -> list[dict[str, Any]]:
    """A row for each solver, saejax first.

    Args:
      found: What `Task.run` gave in each round, by solver.
      seeds: Autoencoders that a solver trains at once, where it is not one.

    Returns:
      Median ms of all steps and of each round, the largest peak, and relative to saejax: time
      for each autoencoder, memory, FVU before the first step and after the last.
    """
    rows: list[dict[str, Any]] = []
    for solver, rounds in found.items():
        row: dict[str, Any] = {"solver": solver, "seeds": seeds.get(solver, 1)}
        rows.append(row)
        if failed := [figures["failed"] for figures in rounds if "failed" in figures]:
            row["failed"] = failed[0]
            continue
        row["ms"] = statistics.median(ms for figures in rounds for ms in figures["milliseconds"])
        row["ms_rounds"] = [statistics.median(figures["milliseconds"]) for figures in rounds]
        row["peak_bytes"] = max(figures["peak_bytes"] for figures in rounds)
        row["busy_cores"] = statistics.median(figures["busy_cores"] for figures in rounds)
        row |= {key: rounds[0][key] for key in ("first_fvu", "last_fvu", "versions")}
        if "ms" in (ours := rows[0]):
            row["time"] = row["ms"] / (row["seeds"] * ours["ms"])
            row["memory"] = row["peak_bytes"] / ours["peak_bytes"]
            row["first_difference"] = row["first_fvu"] / ours["first_fvu"] - 1
            row["last_difference"] = row["last_fvu"] / ours["last_fvu"] - 1
        if solver in _NOTES:
            row["note"] = _NOTES[solver]
    return rows


def fastest_peer(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest row of another library with Adam; empty if there is none."""
    others = [row for row in rows[1:] if "ms" in row and row["seeds"] == 1]
    adam = [row for row in others if row["solver"] != "sparsify signum"]
    return min(adam, key=lambda row: row["ms"], default={})


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """Why the measurement is worth less than it seems, a line each."""
    lines = [f"{row['solver']}: {row['failed']}" for row in rows if "failed" in row]
    ours = rows[0]
    if "ms" in ours and not ours["last_fvu"] < ours["first_fvu"] < math.inf:
        lines.append(f"saejax: the FVU went from {ours['first_fvu']} to {ours['last_fvu']}")
    for row in rows:
        limits = {"first": _FIRST_TOLERANCE}
        if row["solver"] in SAME_STEPS or row["seeds"] > 1:
            limits["last"] = _LAST_TOLERANCE
        for when, limit in limits.items():
            off = row.get(f"{when}_difference", 0.0)
            # Not "above": a difference that is no number is one.
            if not abs(off) <= limit:
                lines.append(
                    f"{row['solver']}: the work differs: the FVU of the {when} step is off by "
                    f"{off:.1e}, more than {limit:.0e}"
                )
                break
    return lines


def table(rows: list[dict[str, Any]]) -> str:
    """What `summary` gave, to read; notes below."""
    lines = [f"{'solver':<22}" + "".join(title.rjust(11) for title in _COLUMNS)]
    for row in rows:
        name = f"{row['solver']:<22}"
        if "ms" not in row:
            lines.append(f"{name}   {row['failed']}")
            continue
        spread = (max(row["ms_rounds"]) - min(row["ms_rounds"])) / row["ms"]
        cells = [f"{row['ms']:,.1f}", f"{spread:.1%}", f"{row['peak_bytes'] / 2**20:,.0f}"]
        if "time" in row:
            cells += [f"{row['time']:.2f}", f"{row['memory']:.2f}", f"{row['last_fvu']:.5f}"]
            cells.append(f"{row['last_difference']:.1e}")
        lines.append(name + "".join(cell.rjust(11) for cell in cells))
    notes = [f"{row['solver']}: {row['note']}" for row in rows if "note" in row]
    return "\n".join([*lines, "", *notes] if notes else lines)
