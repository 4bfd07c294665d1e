"""What the CPUs of this machine can do, measured: products, memory, starting kernels."""

import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from saejax.plan.cost import cost
from saejax.plan.devices import DeviceType

# A product of 2,048 x 2,048 x 2,048 takes a tenth of a second on a core; arrays of 256 MB are in no
# cache.
_SIDE = 2048
_ARRAY = 1 << 26
# Turns of a loop that does next to nothing.
_TURNS = 20_000
_REPEATS = 5


def measured_cpu(count: int) -> DeviceType:
    """This machine's CPUs as `count` devices, which share them equally.

    The fastest of five for each rate: what the machine does besides slows it, nothing speeds it up.

    Args:
      count: Devices; exchanges between them are copies in memory.
    """
    float32 = 2 * _SIDE**3 / _seconds(lambda x: x @ x, jnp.ones((_SIDE, _SIDE)))
    bfloat16 = 2 * _SIDE**3 / _seconds(lambda x: x @ x, jnp.ones((_SIDE, _SIDE), jnp.bfloat16))
    bandwidth = 8 * _ARRAY / _seconds(lambda x: x + 1, jnp.ones(_ARRAY))
    return DeviceType(
        name="cpu",
        kind="cpu",
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / count,
        bfloat16=bfloat16 / count,
        float32=float32 / count,
        exact=float32 / count,
        bandwidth=bandwidth / count,
        link=bandwidth / count / 2,
        island=count,
        slow_link=0.0,
        kernel=_kernel(),
        source="measured now on this machine, the fastest of five",
    )


def _seconds(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    compiled = jax.jit(function)
    compiled(x).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        compiled(x).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _kernel() -> float:
    """Seconds from one kernel to the next in a loop of the kind that the training step has."""

    def add(turn: jax.Array, rows: jax.Array) -> jax.Array:
        return rows.at[turn % 64 + jnp.arange(4)].add(rows[:4], unique_indices=True)

    def loop(rows: jax.Array) -> jax.Array:
        return lax.fori_loop(0, _TURNS, add, rows)

    rows = jnp.ones((128, 16))
    text = jax.jit(loop).lower(rows).compile().as_text()
    assert text is not None
    kernels = cost(text).kernels
    return _seconds(loop, rows) / max(kernels, _TURNS)
