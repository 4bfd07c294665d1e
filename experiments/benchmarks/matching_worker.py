"""One measurement of the matching benchmark, in a process of its own. N <= M: rows, D: width.

matching.py starts it for every `Task`, so that one solver's memory is not counted for another,
and one that dies takes nothing with it. T: rows in a tile, C: columns in a chunk.
"""

import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from instances import planted_pair
from jaxtyping import Float32
from worker import run_worker

from saejax.memory import PeakMemory

# Calls that take longer are not repeated.
_ONCE_SECONDS = 20.0
# Rows and columns of the blocks that the dense matrix is made in; 18 MiB with their factors.
_TILE = 1024
# Bytes that a dense solver holds for each pair (lapx may copy), and how much of the free memory
# they may be.
_PAIR_BYTES = {"scipy": 8, "lapx": 16, "optax": 8}
_MEMORY_FRAC = 0.7
# Candidates of a row in the first pass of an exact match.
_FIRST_K = 24
# In place of a solver: measures the parts of a pass of saejax.
SHARES = "shares"

# Gives the partners [N] of the rows of a, and figures that only this solver has.
Solve = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Task:
    """What to measure.

    Attributes:
      kind: "plain", "wide" or "hub" with the size of the common mean, as in "hub0.5".
      size: M, rows of b; a has as many, or for "wide" three quarters.
      width: D.
      solver: One of `SOLVERS`, or `SHARES`.
      dtype: Of the streamed products of saejax, as for `saejax.match`.
      repeats: Warm solves to take the median of.
      target_path: Where to save the partners, as npy.
    """

    kind: str
    size: int
    width: int
    solver: str
    dtype: str
    repeats: int
    target_path: str

    def instance(self) -> tuple[Float32[np.ndarray, "N D"], Float32[np.ndarray, "M D"]]:
        """Both sides, the same for every solver."""
        mean = float(self.kind.removeprefix("hub")) if self.kind.startswith("hub") else 0.0
        a_MD, b_MD = planted_pair(self.size, self.width, common_mean=mean, seed=0)
        return (a_MD[: self.size * 3 // 4].copy() if self.kind == "wide" else a_MD), b_MD

    def run(self) -> dict[str, Any]:
        """What a new process measures; or why it could not, under "note" or "failed"."""
        return run_worker(__file__, json.dumps(dataclasses.asdict(self)))


def _costs(a_ND: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    """Negated similarities [N, M] in float64: SciPy copies a matrix that it is to maximise."""
    cost_NM = np.empty((len(a_ND), len(b_MD)))
    for row in range(0, len(a_ND), _TILE):
        a_TD = -a_ND[row : row + _TILE].astype(np.float64)
        for column in range(0, len(b_MD), _TILE):
            b_TD = b_MD[column : column + _TILE].astype(np.float64)
            out_TT = cost_NM[row : row + _TILE, column : column + _TILE]
            np.matmul(a_TD, b_TD.T, out=out_TT)
    return cost_NM


def _saejax(task: Task) -> Solve:
    import jax

    import saejax

    jax.devices()  # Starting them is no part of a solve.

    def solve(a_ND: np.ndarray, b_MD: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        matching = saejax.match(a_ND, b_MD, method="exact", dtype=task.dtype)
        certificate = matching.certificate
        assert certificate is not None  # "exact" always has one.
        figures = {"passes": certificate.passes, "certified": certificate.certified}
        return matching.target, figures

    return solve


def _scipy(task: Task) -> Solve:
    from scipy.optimize import linear_sum_assignment

    return lambda a_ND, b_MD: (linear_sum_assignment(_costs(a_ND, b_MD))[1], {})


def _lapx(task: Task) -> Solve:
    import lap  # pyright: ignore[reportMissingImports]

    def solve(a_ND: np.ndarray, b_MD: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        extend = len(a_ND) < len(b_MD)
        target_N, _ = lap.lapjv(_costs(a_ND, b_MD), extend_cost=extend, return_cost=False)
        return target_N, {"version": lap.__version__}

    return solve


def _optax(task: Task) -> Solve:
    import jax
    from optax.assignment import hungarian_algorithm

    jax.devices()

    @jax.jit
    def solve_on_device(a_ND: jax.Array, b_MD: jax.Array) -> tuple[jax.Array, jax.Array]:
        return hungarian_algorithm(-jax.numpy.matmul(a_ND, b_MD.T, precision="highest"))

    def solve(a_ND: np.ndarray, b_MD: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
        rows, columns = (np.asarray(x) for x in solve_on_device(a_ND, b_MD))
        return columns[np.argsort(rows)], {}

    return solve


SOLVERS = {"saejax": _saejax, "scipy": _scipy, "lapx": _lapx, "optax": _optax}
# The first call compiles, so that it says little about the next.
_COMPILED = ("saejax", "optax", SHARES)


def _lacking(task: Task) -> str:
    """Why a dense matrix does not fit; empty where it does, or nobody knows."""
    memory = Path("/proc/meminfo")
    if not memory.exists():
        return ""
    fields = dict(line.split(":") for line in memory.read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0])
    rows = task.size * 3 // 4 if task.kind == "wide" else task.size
    needed = _PAIR_BYTES.get(task.solver, 0) * rows * task.size
    if needed <= _MEMORY_FRAC * free:
        return ""
    return f"too large: needs {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"


def _cold_and_warm(call: Callable[[], None], task: Task) -> tuple[float, float]:
    """Seconds of the first call, and the median of later ones; of one or none if slow."""

    def seconds() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    cold = seconds()
    if cold > _ONCE_SECONDS:
        return cold, seconds() if task.solver in _COMPILED else cold
    return cold, statistics.median(seconds() for _ in range(task.repeats))


def _measure(task: Task) -> dict[str, Any]:
    """Seconds, peak bytes, and the sum of products of the partners, in float64."""
    try:
        solve = SOLVERS[task.solver](task)
    except ModuleNotFoundError as error:
        if error.name != "lap":  # The only one that saejax does not bring.
            raise
        return {"note": "lapx is not installed"}
    a_ND, b_MD = task.instance()
    if note := _lacking(task):
        return {"note": note}
    found: list[tuple[np.ndarray, dict[str, Any]]] = []

    def call() -> None:
        found[:] = [solve(a_ND, b_MD)]

    memory = PeakMemory()
    cold, warm = _cold_and_warm(call, task)
    host_bytes, device_bytes = memory.host_bytes(), memory.device_bytes()
    target_N, figures = found[0]
    np.save(task.target_path, target_N)
    product_N = np.einsum("nd,nd->n", a_ND, b_MD[target_N], dtype=np.float64)
    figures |= {"cold_seconds": cold, "warm_seconds": warm, "objective": math.fsum(product_N)}
    # A peak of 0 was not seen, being below an earlier one.
    if peak_bytes := host_bytes + device_bytes:
        figures |= {"peak_bytes": peak_bytes, "device_bytes": device_bytes}
    return figures


def _measure_shares(task: Task) -> dict[str, float]:
    """Seconds of a pass of saejax over all pairs, and of its matrix products alone."""
    import jax
    import jax.numpy as jnp

    from saejax.config import MeshConfig
    from saejax.matching import pricing
    from saejax.matching.operands import Side, bucket, pass_dtype
    from saejax.mesh import make_mesh

    mesh = make_mesh(MeshConfig())
    a, b = (Side(x_ND, dtype=pass_dtype(task.dtype), mesh=mesh) for x_ND in task.instance())
    all_rows, prices_M = np.arange(len(a)), np.zeros(len(b))

    # Tiles of the shapes that `pricing.top_k` makes.
    largest = pricing._TILE_ROWS.get(jax.default_backend(), pricing._TILE_ROWS_ACCELERATOR)
    tile = mesh.size * min(largest, bucket(-(-len(a) // mesh.size), 1))
    num_chunks = 1
    while b.on_devices.shape[0] // num_chunks > pricing._TILE_COLUMNS:
        num_chunks *= 2
    padded_ND = np.zeros((-(-len(a) // tile) * tile, task.width), a.dtype)
    padded_ND[: len(a)] = a.rows.astype(a.dtype)
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))
    tiles = [jax.device_put(x_TD, by_rows) for x_TD in padded_ND.reshape(-1, tile, task.width)]

    chunks = jnp.split(b.on_devices, num_chunks)

    @jax.jit
    def largest_products(x_TD: jax.Array, y_CD: jax.Array) -> jax.Array:
        product_TC = jnp.matmul(
            x_TD, y_CD.T, precision="highest", preferred_element_type=jnp.float32
        )
        return product_TC.max(axis=1)

    def all_products() -> None:
        jax.block_until_ready([largest_products(x, y) for x in tiles for y in chunks])

    def whole_pass() -> None:
        pricing.top_k(a, b, all_rows, prices_M, _FIRST_K, lambda count: None)

    return {
        "matmul_seconds": _cold_and_warm(all_products, task)[1],
        "pass_seconds": _cold_and_warm(whole_pass, task)[1],
    }


if __name__ == "__main__":
    given = Task(**json.loads(sys.stdin.read()))
    print(json.dumps((_measure_shares if given.solver == SHARES else _measure)(given)))
