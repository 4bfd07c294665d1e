"""The two sides of a product on the devices, and what rounding can change. N, M: rows, D: width."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Float64

from saejax.config import MeshConfig
from saejax.errors import InputError
from saejax.mesh import make_mesh

# Where Linux lists what the CPU can do; absent elsewhere.
_CPU_INFO = Path("/proc/cpuinfo")
# Range of the largest |a_i||b_j| of rows that are not normalised: sums of products neither
# overflow in float32, nor does their underflow (below 1e-38) reach the rounding bounds.
_SMALLEST_PRODUCT, _LARGEST_PRODUCT = 1e-20, 1e30
# Amplitude of the tie-breaking term relative to the largest |S|: above the spacing of float32
# next to 1 (2^-23), so that it orders equal values, and far below the rounding bounds.
TIE = 2.0**-20


class Side:
    """The rows of one side, and what rounding them to the type of the passes can change.

    Attributes:
      rows: [N, D] float32 on the host.
      norms: [N] Euclidean norms.
      residuals: [N] norms of the rows' rounding errors.
    """

    def __init__(self, rows_ND: Float32[np.ndarray, "N D"], *, dtype: jnp.dtype, mesh: Mesh):
        self.rows, self.dtype, self.mesh = rows_ND, jnp.dtype(dtype), mesh
        self.norms, self.residuals = row_norms(rows_ND), np.zeros(len(rows_ND))
        if self.dtype != jnp.float32:
            # The difference of a float32 and its rounding is a float32.
            for start in range(0, len(rows_ND), 1024):
                x_TD = rows_ND[start : start + 1024]
                rounded_TD = x_TD.astype(self.dtype).astype(np.float32)
                self.residuals[start : start + 1024] = row_norms(x_TD - rounded_TD)
        self._on_devices: jax.Array | None = None
        self._exact: jax.Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def on_devices(self) -> jax.Array:
        """[M', D] in the type of the passes, on every device; padded with zeros to a bucket."""
        on_devices = self._on_devices
        if on_devices is None:
            rows = self._padded.astype(self.dtype, copy=False)
            on_devices = jax.device_put(rows, NamedSharding(self.mesh, PartitionSpec()))
            self._on_devices = on_devices
        return on_devices

    @property
    def exact(self) -> jax.Array:
        """[M', D] float32 on `host_or_gpu`, for products in float64."""
        exact, device = self._exact, host_or_gpu()
        if exact is None:
            one = self.mesh.size == 1 and device in self.mesh.devices
            if one and self.dtype == jnp.float32:
                exact = self.on_devices
            else:
                exact = jax.device_put(self._padded, device)
            self._exact = exact
        return exact

    @property
    def _padded(self) -> np.ndarray:
        padding = bucket(len(self), 32) - len(self)
        if not padding:
            return self.rows
        return np.concatenate([self.rows, np.zeros((padding, self.rows.shape[1]), np.float32)])

    @property
    def num_bytes(self) -> int:
        """What the copies on one device hold, as far as they were made."""
        made = {id(x): x.nbytes for x in (self._on_devices, self._exact) if x is not None}
        return sum(made.values())


def row_norms(x_ND: Float32[np.ndarray, "N D"]) -> Float64[np.ndarray, " N"]:
    """Euclidean norms of rows, in float64."""
    norm_N = np.empty(len(x_ND))
    for start in range(0, len(x_ND), 1024):
        x_TD = x_ND[start : start + 1024].astype(np.float64)
        norm_N[start : start + 1024] = np.sqrt(np.einsum("nd,nd->n", x_TD, x_TD))
    return norm_N


def host_or_gpu() -> Any:
    """The device for 64-bit arithmetic: this process's first, or the host's where that is a TPU."""
    if jax.default_backend() == "tpu":
        return jax.local_devices(backend="cpu")[0]
    return jax.local_devices()[0]


@contextlib.contextmanager
def on_one_device() -> Iterator[None]:
    """Computations here run on `host_or_gpu` alone, whatever mesh the caller has set."""
    device = host_or_gpu()
    mesh = make_mesh(MeshConfig(), devices=[device])
    with jax.default_device(device), jax.set_mesh(mesh):
        yield


def bucket(size: int, parts: int) -> int:
    """Rounds up to one of `parts` sizes between powers of two, so that few shapes compile."""
    step = max(256, 2 ** (max(size, 1) - 1).bit_length() // 2 // parts)
    return -(-size // step) * step


def pass_dtype(name: str) -> jnp.dtype:
    """The type of the streamed products: "float32", "bfloat16" or, by the hardware, "auto".

    bfloat16 is the faster one where there are matrix units for it: on GPUs, on TPUs, and on
    CPUs with AMX (8 s against 16 s for 32,768 x 32,768 x 768), but not on others (16 s
    against 11 s). Either gives the same, exact, result.
    """
    if name != "auto":
        return jnp.dtype(name)
    if jax.default_backend() != "cpu":
        return jnp.dtype(jnp.bfloat16)
    has_amx = _CPU_INFO.exists() and "amx_bf16" in _CPU_INFO.read_text()
    return jnp.dtype(jnp.bfloat16 if has_amx else jnp.float32)


def check_products(a_ND: np.ndarray, b_MD: np.ndarray) -> None:
    """Raises `InputError` if products of rows leave the range in which float32 is precise."""
    largest = float(row_norms(a_ND).max() * row_norms(b_MD).max())
    if largest and not _SMALLEST_PRODUCT <= largest <= _LARGEST_PRODUCT:
        raise InputError(
            f"normalize=False: the longest rows have an inner product of up to {largest:.3g}, "
            f"outside [{_SMALLEST_PRODUCT:g}, {_LARGEST_PRODUCT:g}]; scale a or b"
        )


def error_bounds(x: Side, y: Side, prices_M: Float64[np.ndarray, " M"]) -> np.ndarray:
    """[N] bounds on |S~_ij - p~_j - (S_ij - p_j)|, for any column j, S~ being what a pass computes.

    With x~, y~ the rounded rows, x_i.y_j - x~_i.y~_j = (x_i - x~_i).y_j + x~_i.(y_j - y~_j), each
    term at most the product of its norms (Cauchy & Schwarz). Accumulating D products in float32,
    in any order, errs by at most gamma_D |x~_i|.|y~_j| (Higham, "Accuracy and Stability of
    Numerical Algorithms", 2002, section 3.1). Rounding the prices and the difference adds
    2^-23 (|S| + 2 |p|), the tie-breaking term its amplitude.
    """
    # Matrix units may truncate sums instead of rounding them, which doubles the error; TPUs
    # make float32 products from bfloat16 parts.
    exact = x.dtype == jnp.float32 and jax.default_backend() != "tpu"
    unit = 2.0**-24 if exact else 2.0**-22
    terms = x.rows.shape[1] + 4
    gamma = terms * unit / (1 - terms * unit)
    largest_y, residual_y = y.norms.max(), y.residuals.max()
    rounded_N, rounded_y = x.norms + x.residuals, largest_y + residual_y
    product = x.norms.max() * largest_y
    price = np.abs(prices_M).max()
    return (
        x.residuals * largest_y
        + rounded_N * residual_y
        + gamma * rounded_N * rounded_y
        + 2.0**-23 * (product + 2 * price)
        + TIE * product
        # Of the norms themselves, and of this sum.
        + 1e-12 * (product + price)
    )
