"""A forecast in words and tables, with what it assumes and what to change."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata

from saejax.config import tokens_per_batch
from saejax.plan.compile import Program, mesh_flags, other_meshes
from saejax.plan.devices import DEVICE_TYPES, topology
from saejax.plan.forecast import EXACT_PASSES, USABLE, Forecast, Times, times

# Of a batch that is estimated and not compiled.
_ABOUT = "about "


def report(plan: Forecast) -> str:
    """The whole report."""
    parts = [_head(plan), _memory(plan), _exchanges(plan), _operations(plan), _time(plan)]
    if said := advice(plan):
        parts.append("\n".join(("what to do", *(f"  - {line}" for line in said))))
    return "\n\n".join((*parts, _assumptions(plan)))


def advice(plan: Forecast) -> list[str]:
    """What to change, a sentence each; nothing if all is well."""
    said = []
    if plan.training_bytes > plan.usable_bytes:
        said.append(_instead(plan))
    if plan.matching_bytes > plan.usable_bytes:
        said.append(
            f"matching does not fit: every device holds one side of a pair, whatever the mesh. "
            f"Match on devices of {_gb(plan.matching_bytes / USABLE[plan.device.kind])} GB or more"
        )
    if (bound := plan.step_times.bound) == "kernels":
        said.append(
            f"starting kernels bounds the step: {plan.step.cost.kernels:,.0f} of them, "
            f"{plan.step.cost.turns:,.0f} turns of loops, one after another. More tokens a step, "
            "or a larger train.chunk_tokens, makes fewer and larger ones"
        )
    elif bound == "network":
        said.append(
            "exchanges bound the step: split fewer latents, take fewer devices, "
            "or raise train.chunk_tokens: gradients are summed over devices for each chunk"
        )
    return said


def _instead(plan: Forecast) -> str:
    """A mesh that would fit, else other devices."""
    need, have = plan.training_bytes, plan.usable_bytes
    start = f"training does not fit: {_gb(need)} GB of {_gb(have)} GB"
    for sizes in other_meshes(plan.cfg, plan.count):
        if (bytes_there := scaled_bytes(plan, *sizes)) <= have:
            return f"{start}; try {mesh_flags(*sizes)}, {_ABOUT}{_gb(bytes_there)} GB a device"
    larger = [d.name for d in DEVICE_TYPES.values() if USABLE[d.kind] * d.memory >= need]
    others = f"devices of type {', '.join(larger)} hold it, or " if larger else ""
    return f"{start}, and no mesh of {plan.count} helps: {others}take more devices or fewer seeds"


def scaled_bytes(plan: Forecast, seed: int, data: int, latent: int) -> float:
    """Estimate of `training_bytes` on another mesh of as many devices, from the compiled one.

    The state is split over seeds and latents, temporaries are those of one seed's latents or of a
    device's tokens, whichever grow more, and the language model's part stays.
    """
    old = plan.mesh
    state = plan.step.arguments * old["seed"] * old["latent"] / (seed * latent)
    temporaries = max(plan.capture.temporaries, plan.step.temporaries)
    temporaries *= max(old["latent"] / latent, old["data"] / data)
    return state + temporaries + plan.capture.arguments + plan.capture.outputs


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.2f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows with the first column to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    )


def _programs(plan: Forecast) -> list[Program]:
    return [plan.capture, plan.step, *(program for program, _ in plan.passes.values())]


def _head(plan: Forecast) -> str:
    cfg, mesh = plan.cfg, " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    if plan.compiler == "tpu":
        by = f"libtpu {metadata.version('libtpu')} for {topology(plan.device, plan.count)}"
    else:
        by = "XLA for CPUs, as many pretended devices"
    lines = [
        f"{plan.count} devices of type {plan.device.name}, mesh {mesh}; compiled by {by} in "
        f"{sum(program.seconds for program in _programs(plan)):.0f} s",
        f"{cfg.lm.source} up to {cfg.hookpoint}, {cfg.lm.dtype}; {len(cfg.init_seeds)} seeds of "
        f"{cfg.sae.arch}, {cfg.sae.num_latents:,} latents of width {plan.width:,}, k={cfg.sae.k}; "
        f"{tokens_per_batch(cfg):,} tokens a step",
    ]
    if plan.refused:
        lines.append(f"libtpu refused: {plan.refused}")
    return "\n".join(lines)


def _memory(plan: Forecast) -> str:
    rows = [("memory of a device, GB", "arguments", "temporaries", "outputs")]
    rows += [
        (p.name, _gb(p.arguments), _gb(p.temporaries), _gb(p.outputs)) for p in _programs(plan)
    ]
    usable = plan.usable_bytes
    lines = [
        f"  {name}: {_gb(need)} GB at most, of {_gb(usable)} usable of {_gb(plan.device.memory)}: "
        f"{'fits' if need <= usable else 'DOES NOT FIT'}"
        for name, need in (("training", plan.training_bytes), ("matching", plan.matching_bytes))
    ]
    return "\n".join((table(rows), *lines))


def _exchanges(plan: Forecast) -> str:
    rows = [("exchanges, a device a run", "devices", "times", "MB sent")]
    for program in _programs(plan):
        found: dict[tuple[str, int], list[float]] = defaultdict(lambda: [0, 0.0])
        for each in program.cost.collectives:
            found[each.kind, each.group][0] += each.count
            found[each.kind, each.group][1] += each.total
        rows += [
            (f"{program.name}: {kind}", f"{group}", f"{count:,.0f}", f"{sent / 1e6:,.2f}")
            for (kind, group), (count, sent) in sorted(found.items())
        ]
    return table(rows) if len(rows) > 1 else "exchanges: none"


def _operations(plan: Forecast) -> str:
    by_hand = [plan.lm_flops, plan.sae_flops, *([plan.pass_flops] * len(plan.passes))]
    rows = [("TFLOP", "by hand", "compiled", "XLA, loops once", "traffic GB", "kernels")]
    calls = [1, 1, *(calls for _, calls in plan.passes.values())]
    for program, hand, times_ in zip(_programs(plan), by_hand, calls, strict=True):
        flops = program.cost.all_flops * plan.count * times_
        rows.append(
            (
                program.name,
                f"{hand / 1e12:.4g}",
                f"{flops / 1e12:.4g}",
                f"{program.xla['flops'] * plan.count * times_ / 1e12:.4g}",
                f"{program.cost.traffic * times_ / 1e9:.4g}",
                f"{program.cost.kernels * times_:,.0f}",
            )
        )
    return (
        f"{table(rows)}\n  TFLOP over all devices, traffic and kernels of one; of a step, or of a "
        "pass over one side"
    )


def _row(name: str, found: Times, unit: float) -> tuple[str, ...]:
    parts = (*dataclasses.astuple(found), found.best, found.expected)
    return (name, *(f"{unit * seconds:.3g}" for seconds in parts), found.bound)


def _time(plan: Forecast) -> str:
    names = ("compute", "memory", "network", "kernels", "at best", "expected", "bound by")
    step, match = plan.step_times, plan.matching_times
    rows: list[tuple[str, ...]] = [("milliseconds", *names)]
    if plan.cfg.data.activations == "stream":
        rows.append(_row("language model", times(plan.capture, plan.device, plan.attained), 1e3))
    rows.append(_row("training step", times(plan.step, plan.device, plan.attained), 1e3))
    rows.append(_row("both", step, 1e3))
    rows.append(_row(f"matching {plan.pairs} pairs", match, 1e3))
    tokens = tokens_per_batch(plan.cfg)
    lines = [
        f"  {tokens / step.expected:,.0f} tokens/s expected ({tokens / step.best:,.0f} at best), "
        f"each seen by {len(plan.cfg.init_seeds)} seeds",
    ]
    if plan.num_steps:
        hours = plan.num_steps / 3600
        lines.append(
            f"  training {plan.num_steps:,} steps: {hours * step.expected:,.2f} hours expected "
            f"({hours * step.best:,.2f} at best)"
        )
    else:
        billion = 1e9 / tokens / 3600
        lines.append(
            f"  a billion tokens: {billion * step.expected:,.2f} hours expected "
            f"({billion * step.best:,.2f} at best); data.num_tokens=0 takes the whole corpus"
        )
    lines.append(
        f"  matching, streamed passes: {match.expected / 3600:,.3f} hours expected "
        f"({match.best / 3600:,.3f} at best)"
    )
    return "\n".join((table(rows), *lines))


def _assumptions(plan: Forecast) -> str:
    device, percent = plan.device, f"{plan.attained:.0%}"
    lines = [
        f"{device.name}: {device.bfloat16 / 1e12:.4g} TFLOP/s of bfloat16, "
        f"{device.float32 / 1e12:.4g} of float32 as JAX multiplies by default, "
        f"{device.exact / 1e12:.4g} with all bits; {device.bandwidth / 1e9:,.0f} GB/s of memory; "
        f"{device.link / 1e9:,.1f} GB/s sent within {device.island} devices"
        + (f", {device.slow_link / 1e9:,.0f} beyond" if device.slow_link else "")
        + f"; {device.kernel * 1e6:.2g} us a kernel ({device.source})",
        f"{percent} of these rates are reached, kernels start at theirs. At best: all parts at "
        "once; expected: one after another",
        "exchanges are sent around a ring along one axis; counts are those of the compiled "
        "program, a loop's as often as it turns, by its known count or its condition",
        f"matching makes {EXACT_PASSES} passes for candidates and one for row maxima on each side "
        "of a pair; the sparse solver, on one device or the host, and reading are not counted",
        "reading text, checkpoints, metrics, compilation and start-up are not counted, nor are "
        "sorting and element by element work but for their memory traffic",
    ]
    if plan.compiler == "cpu" and device.kind != "cpu":
        lines.append(
            "XLA for CPUs fuses less than for accelerators, has no padding, and computes some "
            "bfloat16 products in float32: temporaries, traffic and exchanges of the language "
            "model are up to twice as large"
        )
    unknown = sum(program.cost.unknown_loops for program in _programs(plan))
    if unknown:
        lines.append(f"{unknown} loops do not tell their turns and count once: Adam's takes one")
    return "\n".join(("assumed", *(f"  - {line}" for line in lines)))
