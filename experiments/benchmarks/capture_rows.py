"""The rows of the capture benchmark: rounds put together, compared with transformers, printed.

Dimension letters: L tokens of a window, D activation width.
"""

import statistics
from typing import Any

import numpy as np

# Solver and type that the others are compared with.
REFERENCE = ("transformers", "float32")
# Differences from the reference, relative to its norm, that another order of sums in float32 does
# not explain, or rounding to bfloat16.
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}


def summary(
    found: dict[tuple[str, str], list[dict[str, Any]]], tokens: int
) -> list[dict[str, Any]]:
    """A row for each solver and type, in the order of `found`.

    Args:
      found: What `Task.run` gave in each round; transformers in float32 is the reference.
      tokens: In a step.

    Returns:
      Median ms of all steps and of each round, and of processors alone, the largest peaks, the
      difference of activations relative to the reference's norm, and how many times the
      reference's speed that is.
    """
    reference = found[REFERENCE]
    reference_ms = statistics.median(ms for figures in reference for ms in figures["milliseconds"])
    expected_LD = np.asarray(reference[0]["sample"])
    rows = []
    for (solver, dtype), rounds in found.items():
        ms = statistics.median(ms for figures in rounds for ms in figures["milliseconds"])
        error_LD = np.asarray(rounds[0]["sample"]) - expected_LD
        rows.append(
            {
                "solver": solver,
                "dtype": dtype,
                "ms": ms,
                "ms_rounds": [statistics.median(figures["milliseconds"]) for figures in rounds],
                "cpu_ms": statistics.median(
                    ms for figures in rounds for ms in figures["cpu_milliseconds"]
                ),
                "tokens_per_second": 1e3 * tokens / ms,
                "speed": reference_ms / ms,
                "peak_bytes": max(figures["peak_bytes"] for figures in rounds),
                "load_peak_bytes": max(figures["load_peak_bytes"] for figures in rounds),
                "difference": float(np.linalg.norm(error_LD) / np.linalg.norm(expected_LD)),
            }
        )
    return rows


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """Activations that are not the reference's, a line each."""
    return [
        f"{row['solver']} {row['dtype']}: the activations differ by {row['difference']:.1e}, more "
        f"than {TOLERANCES[row['dtype']]:.0e}, so the work is not the same"
        for row in rows
        # Not "above": a difference that is no number is one.
        if not row["difference"] <= TOLERANCES[row["dtype"]]
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """What `summary` gave, to read."""
    titles = (
        "ms/step",
        "spread",
        "CPU ms",
        "tokens/s",
        "speed",
        "peak MiB",
        "loading",
        "difference",
    )
    lines = [f"{'':<24}" + "".join(title.rjust(11) for title in titles)]
    for row in rows:
        cells = (
            f"{row['ms']:,.1f}",
            f"{(max(row['ms_rounds']) - min(row['ms_rounds'])) / row['ms']:.1%}",
            f"{row['cpu_ms']:,.1f}",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['speed']:.2f}",
            f"{row['peak_bytes'] / 2**20:,.0f}",
            f"{row['load_peak_bytes'] / 2**20:,.0f}",
            f"{row['difference']:.1e}",
        )
        name = f"{row['solver']} {row['dtype']}"
        lines.append(f"{name:<24}" + "".join(cell.rjust(11) for cell in cells))
    return "\n".join(lines)
