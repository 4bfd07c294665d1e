"""What explaining latents would take, and what it found, as tables to print."""

from collections.abc import Mapping
from typing import Any

from saejax.interp.client import Estimate
from saejax.interp.summary import SOURCES

_NAMES = {"llm": "LLM", "token_set": "token set"}


def plan_table(stages: Mapping[str, Estimate]) -> str:
    """Calls, tokens and money by stage, and in all."""
    lines = [
        f"{'stage':<10}{'requests':>10}{'answered':>10}{'to ask':>8}{'prompt tokens':>15}"
        f"{'answers, at most':>18}{'USD, at most':>14}"
    ]
    costs = [stage.max_cost for stage in stages.values() if stage.max_cost is not None]
    total = Estimate(
        sum(stage.num_requests for stage in stages.values()),
        sum(stage.num_cached for stage in stages.values()),
        sum(stage.prompt_tokens for stage in stages.values()),
        sum(stage.max_completion_tokens for stage in stages.values()),
        sum(costs) if costs else None,
    )
    for name, stage in [*stages.items(), ("in all", total)]:
        cost = "no prices" if stage.max_cost is None else f"{stage.max_cost:,.4f}"
        lines.append(
            f"{name:<10}{stage.num_requests:>10,}{stage.num_cached:>10,}"
            f"{stage.num_requests - stage.num_cached:>8,}{stage.prompt_tokens:>15,}"
            f"{stage.max_completion_tokens:>18,}{cost:>14}"
        )
    return "\n".join(lines)


def results_table(record: Mapping[str, Any]) -> str:
    """Scores by level, the difference, who wins, and how scores of partners go together.

    Args:
      record: As in `results/interp.json`.
    """
    found, counts = record["summaries"], record["summaries"]["counts"]
    lines = ["mean of detection and fuzzing, balanced accuracy; 0.5 is chance"]
    lines += _of_score(found["mean"])
    # Not in results without an encoder.
    if "embedding" in found:
        lines.append(
            f"embedding, AUROC of the cosine by {record['embedder']}; 0.5 is chance; no part of "
            "the mean above"
        )
        lines += _of_score(found["embedding"])
    if (problems := counts["problems"]) or counts["unparsable_windows"]:
        said = [f"{number} {name}" for name, number in problems.items()]
        said += [f"{counts['unparsable_windows']} windows without a readable verdict"]
        lines.append(f"not counted: {', '.join(said)}")
    lines += [f"missing: {stage}: {reason}" for stage, reason in record["missing"].items()]
    return "\n".join(lines)


def _of_score(found: Mapping[str, Any]) -> list[str]:
    """What `summaries` says of one score."""
    lines = [
        f"{'shared by':<14}{'explained by':<14}{'latents':>8}{'mean':>8}{'95 %':>16}{'median':>9}"
    ]
    for source in SOURCES:
        for row in found["by_level"][source]:
            name = f"{row['level'] or 'no'} other{'s' * (row['level'] != 1)}"
            lines.append(
                f"{name:<14}{_NAMES[source]:<14}{row['num']:>8}{row['mean']:>8.3f}"
                f"{_interval(row['mean_interval'], '.3f'):>16}{row['median']:>9.3f}"
            )
    for source in SOURCES:
        if (each := found["difference"][source]) is not None:
            lines.append(
                f"shared minus unshared, {_NAMES[source]}: {each['difference']:+.3f} "
                f"({_interval(each['interval'], '+.3f')})"
            )
    for source in SOURCES:
        if (each := found["pairs"][source])["correlation"] is not None:
            lines.append(
                f"{each['num']} pairs, {_NAMES[source]}: rank correlation of the two scores "
                f"{each['correlation']:.2f}"
            )
    if (wins := found["llm_beats_token_set"]) is not None:
        lines.append(
            f"the LLM scores above the token set for {wins['won']} latents, the same for "
            f"{wins['tied']}, below for {wins['lost']}"
        )
    return lines


def _interval(interval: tuple[float, float] | None, digits: str) -> str:
    return "unknown" if interval is None else " to ".join(f"{end:{digits}}" for end in interval)
