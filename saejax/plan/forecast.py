"""Memory, time and what limits them, of a run on devices that need not exist.

A program's time is between

    max(F / peak, T / bandwidth, S / link, K kernel)   and   the sum of the four,

with its FLOPs F, memory traffic T, bytes sent S and kernels K: all at once, or one after another.
"""

import contextlib
import dataclasses
import math

import jax
from jax.sharding import Mesh

from saejax.config import Config, tokens_per_batch, windows_per_batch
from saejax.lm import DecoderConfig, hook_width
from saejax.plan.compile import (
    Program,
    compile_capture,
    compile_matching,
    compile_step,
    described_mesh,
)
from saejax.plan.devices import DeviceType
from saejax.plan.flops import lm_flops, sae_flops
from saejax.sae.rows import as_on_accelerators

# What of the rates on data sheets programs reach: of the FLOP/s of H100s, training Llama 3 reached
# 38 to 43 % (Grattafiori et al. 2024, arXiv 2407.21783, table 4).
ATTAINED = 0.4
# Passes over a pair's sides until the exact matching is certified: 1.06 to 1.18 were measured, of
# trained autoencoders and of instances like them with 4,096 to 131,072 latents of width 768.
EXACT_PASSES = 1.18
_SIDES = 2
# Where memory ends before it is full: what runtimes keep for themselves (XLA's share of a GPU is
# 75 % unless told otherwise, docs.jax.dev, GPU memory allocation; of a TPU nearly all).
USABLE = {"gpu": 0.75, "tpu": 0.95, "cpu": 0.9}


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one run of a program, if each of its parts were all.

    Attributes:
      compute: Products at peak rate.
      memory: Traffic at full bandwidth.
      network: Exchanges at full rate.
      kernels: Starting kernels, however little they do.
    """

    compute: float
    memory: float
    network: float
    kernels: float

    @property
    def bound(self) -> str:
        """The longest part."""
        parts = dataclasses.asdict(self)
        return max(parts, key=lambda name: parts[name])

    @property
    def best(self) -> float:
        """Seconds if all parts happen at once."""
        return max(dataclasses.astuple(self))

    @property
    def expected(self) -> float:
        """Seconds if they happen one after another, as kernels do."""
        return sum(dataclasses.astuple(self))

    def __add__(self, other: "Times") -> "Times":
        """One program after another."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Times(*(a + b for a, b in pairs))

    def __mul__(self, times: float) -> "Times":
        """So many runs."""
        return Times(*(times * seconds for seconds in dataclasses.astuple(self)))


def times(program: Program, device: DeviceType, attained: float) -> Times:
    """The four times of a program.

    Args:
      program: It.
      device: What runs it.
      attained: Fraction of the device's rates that is reached; kernels start at its own rate.
    """
    cost = program.cost
    peaks = {"bfloat16": device.bfloat16, "float32": device.float32, "exact": device.exact}
    near = sum(c.total for c in cost.collectives if c.span < device.island)
    far = cost.sent - near
    # Groups within an island have neighbouring numbers.
    network = near / device.link + (far / device.slow_link if far else 0.0)
    return Times(
        compute=sum(flops / peaks[kind] for kind, flops in cost.flops.items()) / attained,
        memory=cost.traffic / device.bandwidth / attained,
        network=network / attained,
        kernels=cost.kernels * device.kernel,
    )


@dataclasses.dataclass(frozen=True)
class Forecast:
    """A run on described devices.

    Attributes:
      cfg: The run.
      device: Type of device.
      compiler: What compiled the programs.
      refused: What the compiler said if it refused them for want of memory, and another was
        taken; else "".
      attained: See `times`.
      mesh: Devices along each axis.
      lm_config: Of the language model.
      width: D.
      capture: The language model's program.
      step: The training step.
      passes: The streamed passes of matching, by name: a program, and its calls in a pass.
    """

    cfg: Config
    device: DeviceType
    compiler: str
    refused: str
    attained: float
    mesh: dict[str, int]
    lm_config: DecoderConfig
    width: int
    capture: Program
    step: Program
    passes: dict[str, tuple[Program, int]]

    @property
    def count(self) -> int:
        """Number of devices."""
        return math.prod(self.mesh.values())

    @property
    def training_bytes(self) -> int:
        """Most that a device holds in training.

        State and weights all the time, two batches of activations (the language model is started
        on the next while the step runs), and the temporaries of one program.
        """
        temporaries = max(self.capture.temporaries, self.step.temporaries)
        lasting = self.step.arguments + self.step.outputs + self.capture.arguments
        return lasting + self.capture.outputs + temporaries

    @property
    def matching_bytes(self) -> int:
        """Most that a device holds in matching, on a GPU also both sides for float64 products."""
        most = max(p.arguments + p.outputs + p.temporaries for p, _ in self.passes.values())
        # saejax.matching.operands.host_or_gpu: a TPU's host has them.
        exact = 0 if self.device.kind == "tpu" else 2 * 4 * self.cfg.sae.num_latents * self.width
        return most + exact

    @property
    def usable_bytes(self) -> float:
        """What a device has for them."""
        return USABLE[self.device.kind] * self.device.memory

    @property
    def fits(self) -> bool:
        """Whether training and matching fit."""
        return max(self.training_bytes, self.matching_bytes) <= self.usable_bytes

    @property
    def step_times(self) -> Times:
        """Of a step: the language model, then the autoencoders."""
        step = times(self.step, self.device, self.attained)
        if self.cfg.data.activations != "stream":
            return step
        return times(self.capture, self.device, self.attained) + step

    @property
    def num_steps(self) -> int:
        """Steps of the run; 0 if the configuration takes all of a corpus."""
        read = self.cfg.data.num_tokens * self.cfg.data.epochs
        return read // self.cfg.train.batch_tokens

    @property
    def pairs(self) -> int:
        """Pairs of seeds, S (S - 1) / 2."""
        return math.comb(len(self.cfg.init_seeds), 2)

    @property
    def matching_times(self) -> Times:
        """Of the streamed passes of all pairs, both sides."""
        (first, calls), (maxima, of_maxima) = self.passes.values()
        one = times(first, self.device, self.attained) * (EXACT_PASSES * calls)
        one += times(maxima, self.device, self.attained) * of_maxima
        return one * (_SIDES * self.pairs)

    @property
    def lm_flops(self) -> float:
        """Analytic FLOPs of the language model, of a step over all devices."""
        tokens = windows_per_batch(self.cfg) * self.cfg.data.context_length
        return tokens * lm_flops(self.cfg, self.lm_config)

    @property
    def sae_flops(self) -> float:
        """Analytic FLOPs of the autoencoders, of a step over all devices."""
        seeds = len(self.cfg.init_seeds)
        return seeds * tokens_per_batch(self.cfg) * sae_flops(self.cfg.sae, self.width)

    @property
    def pass_flops(self) -> float:
        """Analytic FLOPs of one pass over a side of a pair, 2 N^2 D, over all devices."""
        return 2.0 * self.cfg.sae.num_latents**2 * self.width


def forecast(
    cfg: Config,
    lm_config: DecoderConfig,
    device: DeviceType,
    count: int,
    *,
    compiler: str,
    attained: float,
) -> Forecast:
    """Compiles the programs of a run for devices that need not exist.

    Args:
      cfg: The run.
      lm_config: Sizes of its language model.
      device: Type of the devices.
      count: How many.
      compiler: See `saejax.plan.compile.COMPILERS`.
      attained: Fraction of the rates on data sheets that is reached.

    Raises:
      InputError: If the mesh, the model or the hook point does not fit.
    """
    try:
        return _forecast(cfg, lm_config, device, count, compiler, "", attained)
    except jax.errors.JaxRuntimeError as error:
        # The compiler of TPUs refuses what does not fit, and so says by how much.
        if compiler != "tpu" or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        said = str(error).splitlines()[0]
    return _forecast(cfg, lm_config, device, count, "cpu", said, attained)


def _forecast(
    cfg: Config,
    lm_config: DecoderConfig,
    device: DeviceType,
    count: int,
    compiler: str,
    refused: str,
    attained: float,
) -> Forecast:
    mesh: Mesh = described_mesh(cfg, device, count, compiler)
    width = hook_width(lm_config, cfg.hookpoint)
    is_cpu = device.kind == "cpu"
    with contextlib.nullcontext() if is_cpu else as_on_accelerators():
        step = compile_step(cfg, mesh, width)
    return Forecast(
        cfg=cfg,
        device=device,
        compiler=compiler,
        refused=refused,
        attained=attained,
        mesh={name: size for name, size in mesh.shape.items()},
        lm_config=lm_config,
        width=width,
        capture=compile_capture(cfg, mesh, lm_config),
        step=step,
        passes=compile_matching(cfg, mesh, width, device),
    )
