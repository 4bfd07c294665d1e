"""What kinds of devices can do, by their makers' data sheets."""

import math
from typing import NamedTuple

from saejax.errors import InputError

# How much slower float32 products are on TPUs where all bits count (jax.lax.Precision.HIGHEST):
# six products of bfloat16 parts (docs.jax.dev, jax.lax.Precision; XLA's bf16_6x).
_TPU_EXACT = 6
# Seconds from one small kernel to the next. GPUs: 3.8 us (NVIDIA, Getting Started with CUDA Graphs,
# 2019, kernels that overlap their launches; V100). TPUs: what libtpu 0.0.42's compiler takes for
# its smallest fusions, 1,817 to 1,919 cycles, at the 1.5 GHz that the peak of v5e implies (197e12 /
# (4 x 128 x 128 x 2)); assumed of the others.
_GPU_KERNEL, _TPU_KERNEL = 3.8e-6, 1.2e-6


class DeviceType(NamedTuple):
    """One kind of device.

    Attributes:
      name: As flags spell it.
      kind: "tpu", "gpu" or "cpu".
      memory: Bytes of its own memory.
      bfloat16: Peak FLOP/s of bfloat16 products.
      float32: Those of float32 products as JAX computes them unless told otherwise: TF32 on GPUs,
        one pass of bfloat16 on TPUs.
      exact: Those of float32 products with all bits (`Precision.HIGHEST`).
      bandwidth: Bytes/s from and to its memory.
      link: Bytes/s that it can send in a ring of devices of its island.
      island: Devices that such links join: a pod of TPUs, a node of GPUs.
      slow_link: Bytes/s that it can send to other islands; 0 where there are none.
      kernel: Least seconds from one kernel to the next.
      source: Where these numbers are from.
    """

    name: str
    kind: str
    memory: float
    bfloat16: float
    float32: float
    exact: float
    bandwidth: float
    link: float
    island: int
    slow_link: float
    kernel: float
    source: str


def _tpu(
    name: str,
    *,
    memory: float,
    peak: float,
    bandwidth: float,
    port: float,
    pod: int,
    source: str,
) -> DeviceType:
    """`port`: bytes/s of one of its links in one direction. A ring uses two, one each way."""
    return DeviceType(
        name, "tpu", memory, peak, peak, peak / _TPU_EXACT, bandwidth, 2 * port, pod, 0.0,
        _TPU_KERNEL, source,
    )  # fmt: skip


_TYPES = (
    DeviceType(
        "a100", "gpu", 80e9, 312e12, 156e12, 19.5e12, 2039e9, 300e9, 8, 25e9, _GPU_KERNEL,
        "NVIDIA A100 80GB SXM data sheet (2021), dense rates; NVLink 600 GB/s both ways; DGX A100: "
        "8 in a node, 200 Gb/s InfiniBand each",
    ),
    DeviceType(
        "h100", "gpu", 80e9, 989.4e12, 494.7e12, 67e12, 3350e9, 450e9, 8, 50e9, _GPU_KERNEL,
        "NVIDIA H100 SXM data sheet (2023), dense rates; NVLink 900 GB/s both ways; DGX H100: 8 in "
        "a node, 400 Gb/s InfiniBand each",
    ),
    DeviceType(
        "h200", "gpu", 141e9, 989.4e12, 494.7e12, 67e12, 4800e9, 450e9, 8, 50e9, _GPU_KERNEL,
        "NVIDIA H200 SXM data sheet (2024), dense rates; NVLink 900 GB/s both ways; DGX H200: 8 in "
        "a node, 400 Gb/s InfiniBand each",
    ),
    _tpu(
        "v4", memory=32 * 2**30, peak=275e12, bandwidth=1200e9, port=50e9, pod=4096,
        source="Jouppi et al. 2023, TPU v4, arXiv 2304.01433, table 4",
    ),
    _tpu(
        "v5e", memory=16 * 2**30, peak=197e12, bandwidth=819e9, port=50e9, pod=256,
        source="cloud.google.com/tpu/docs/v5e: 400 GB/s over 4 ports, both ways",
    ),
    _tpu(
        "v5p", memory=95 * 2**30, peak=459e12, bandwidth=2765e9, port=100e9, pod=6144,
        source="cloud.google.com/tpu/docs/v5p: 1,200 GB/s over 6 ports, both ways; largest job",
    ),
    _tpu(
        "v6e", memory=32 * 2**30, peak=918e12, bandwidth=1638e9, port=100e9, pod=256,
        source="cloud.google.com/tpu/docs/v6e: 800 GB/s over 4 ports, both ways",
    ),
)  # fmt: skip
DEVICE_TYPES = {device.name: device for device in _TYPES}
# Dimensions of the torus that TPUs of a kind form (the pages above).
_TORUS = {"v4": 3, "v5e": 2, "v5p": 3, "v6e": 2}


def device_type(name: str) -> DeviceType:
    """The device type of a name; of "cpu" see `saejax.plan.measure`.

    Raises:
      InputError: If there is none; the message lists those there are.
    """
    if name not in DEVICE_TYPES:
        raise InputError(f"device_type={name!r}: choose one of {', '.join(DEVICE_TYPES)}, cpu")
    return DEVICE_TYPES[name]


def check_count(device: DeviceType, count: int) -> None:
    """Raises `InputError` for more TPUs than one slice has, whose slower network is not known."""
    if count > device.island and not device.slow_link:
        raise InputError(
            f"devices={count}: a slice of {device.name} has at most {device.island}; plan one slice"
        )


def topology(device: DeviceType, count: int) -> str:
    """The name of a slice of TPUs, "v5e:16x16" of 256, with sides as equal as they can be.

    Raises:
      InputError: Unless the number is a power of two from 4 on, of which slices are made.
    """
    if count < 4 or count & (count - 1):
        raise InputError(f"devices={count}: slices have 4, 8, 16, ... TPUs; take one of these")
    dimensions = _TORUS[device.name]
    sides, left = [], int(math.log2(count))
    for dimension in range(dimensions):
        exponent = left // (dimensions - dimension)
        sides.append(2**exponent)
        left -= exponent
    if dimensions == 3 and count == 4:
        sides = [2, 2, 1]
    return f"{device.name}:{'x'.join(map(str, sides))}"
