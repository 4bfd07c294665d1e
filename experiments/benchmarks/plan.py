"""A training step on this machine's CPUs: predicted as experiments/plan.py does, and measured.

    python experiments/benchmarks/plan.py
    python experiments/benchmarks/plan.py --d_model=768 --num_latents=8192

First the rates of the machine are measured: products, memory, starting kernels. Then the step is
compiled from shapes alone, and its time and memory predicted: the time between that of the longest
part and the sum of the parts, the memory of arguments and temporaries. Then the same step is run
for real and timed; its memory is what the process held at most above what it held before the state
was made.

The machine should have nothing else to do: what it does besides falls on the rates or on the
steps, and the two are not measured at the same time. The spread of the steps is printed.

The last line is one JSON object with all figures. The default takes half a minute and 1 GB.
"""

import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding

from saejax import cli, rundir
from saejax import mesh as mesh_lib
from saejax.config import Config, DataConfig, MeshConfig, SaeConfig, TrainConfig
from saejax.memory import PeakMemory, keep_pages
from saejax.plan.compile import Program, abstract_step, compile_step
from saejax.plan.forecast import times
from saejax.plan.measure import measured_cpu
from saejax.plan.report import table
from saejax.train.optim import make_optimizer
from saejax.train.state import init_state
from saejax.train.step import make_step

_D_MODEL = flags.DEFINE_integer("d_model", 576, "Width D of the activations.", lower_bound=1)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 4096, "Latents N.", lower_bound=1)
_K = flags.DEFINE_integer("k", 32, "Active latents per token.", lower_bound=1)
_BATCH_TOKENS = flags.DEFINE_integer("batch_tokens", 1024, "Tokens in a batch.", lower_bound=2)
_SEEDS = flags.DEFINE_integer("seeds", 1, "Autoencoders.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 15, "Timed steps.", lower_bound=1)
# Steps before the first timed one: the first compiles, the second may still allocate.
_WARM = 2


def main(argv: Sequence[str]) -> None:
    """Predicts, measures, prints."""
    del argv
    keep_pages()
    mesh = mesh_lib.make_mesh(MeshConfig(), devices=jax.devices("cpu")[:1])
    cfg = _config()
    device = measured_cpu(1)
    program = compile_step(cfg, mesh, _D_MODEL.value)
    parts = times(program, device, 1.0)
    # First, since memory that was freed may be taken again unseen.
    held = _memory(cfg, mesh)
    milliseconds = _milliseconds(cfg, mesh)
    record: dict[str, Any] = {
        "benchmark": "plan",
        **{f.name: f.value for f in (_D_MODEL, _NUM_LATENTS, _K, _BATCH_TOKENS, _SEEDS, _STEPS)},
        "gflops": device.float32 / 1e9,
        "gbytes_per_s": device.bandwidth / 1e9,
        "us_per_kernel": 1e6 * device.kernel,
        "parts_ms": {
            k: 1e3 * s for k, s in zip(parts.__annotations__, _seconds(parts), strict=True)
        },
        "ms_best": 1e3 * parts.best,
        "ms_expected": 1e3 * parts.expected,
        "ms_measured": statistics.median(milliseconds),
        "ms_fastest": min(milliseconds),
        "ms_slowest": max(milliseconds),
        "bytes_predicted": program.arguments + program.outputs + program.temporaries,
        "bytes_measured": held,
        "flops_compiled": program.cost.all_flops,
        "kernels": program.cost.kernels,
    }
    record["ratio"] = record["ms_measured"] / record["ms_expected"]
    print(_table(record, program), json.dumps(record | {"versions": rundir.versions()}), sep="\n\n")


def _config() -> Config:
    length = _BATCH_TOKENS.value
    return Config(
        init_seeds=tuple(range(_SEEDS.value)),
        data=DataConfig(context_length=length, skip_tokens=0),
        sae=SaeConfig(num_latents=_NUM_LATENTS.value, k=_K.value),
        train=TrainConfig(batch_tokens=length, decoder_bias_init="mean"),
    )


def _memory(cfg: Config, mesh: Mesh) -> int:
    """The most bytes that state, batch and step took, all compiled before."""
    step, state, batches = abstract_step(cfg, mesh, _D_MODEL.value)
    shapes = (state, *batches)

    def make() -> Any:
        return jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape, leaf.dtype), shapes)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    made = jax.jit(make, out_shardings=shardings).lower().compile()
    compiled = step.lower(*shapes).compile()
    memory = PeakMemory()
    state, *given = made()
    for _ in range(_WARM):
        state, _ = compiled(state, *given)
        # Two steps at once would hold two sets of temporaries.
        jax.block_until_ready(state)
    return memory.host_bytes()


def _milliseconds(cfg: Config, mesh: Mesh) -> list[float]:
    """Of each step."""
    rng = np.random.default_rng(0)
    shape = (_BATCH_TOKENS.value, _D_MODEL.value)
    x_BD = jax.device_put(
        rng.standard_normal(shape, dtype=np.float32), NamedSharding(mesh, mesh_lib.BATCH)
    )
    optimizer = make_optimizer(cfg, 1000, latent_axis=mesh_lib.LATENT)
    state = init_state(cfg, x_BD, optimizer, mesh)
    step = make_step(cfg, optimizer, state, mesh)
    milliseconds = []
    for _ in range(_WARM + _STEPS.value):
        began = time.perf_counter()
        state, _ = step(state, x_BD)
        jax.block_until_ready(state)
        milliseconds.append(1e3 * (time.perf_counter() - began))
    return milliseconds[_WARM:]


def _seconds(parts: Any) -> tuple[float, ...]:
    return parts.compute, parts.memory, parts.network, parts.kernels


def _table(record: dict[str, Any], program: Program) -> str:
    spread = f"{record['ms_fastest']:.1f} to {record['ms_slowest']:.1f}"
    split = ", ".join(f"{k} {ms:.1f}" for k, ms in record["parts_ms"].items() if ms)
    rows = [
        ("", "predicted", "measured"),
        (
            "ms a step",
            f"{record['ms_best']:.1f} to {record['ms_expected']:.1f}",
            f"{record['ms_measured']:.1f} ({spread})",
        ),
        (
            "MB",
            f"{record['bytes_predicted'] / 1e6:.1f}",
            f"{record['bytes_measured'] / 1e6:.1f}",
        ),
    ]
    return (
        f"rates: {record['gflops']:.0f} GFLOP/s, {record['gbytes_per_s']:.1f} GB/s, "
        f"{record['us_per_kernel']:.2f} us a kernel; the step has "
        f"{program.cost.all_flops / 1e9:.2f} GFLOP, {program.cost.traffic / 1e9:.2f} GB of traffic "
        f"and {program.cost.kernels:,.0f} kernels: {split} ms\n\n{table(rows)}"
    )


if __name__ == "__main__":
    cli.run(main)
