"""The device mesh ("seed", "data", "latent") and where each leaf of the state lives on it.

Dimension letters: S seeds, N latents, D activation width, E width of a transcoder's target, B
tokens in a batch.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from saejax.config import MeshConfig
from saejax.errors import InputError

SEED, DATA, LATENT = AXES = ("seed", "data", "latent")

# Batches of windows or of activations: the leading axis is split over "data".
BATCH = PartitionSpec(DATA)
REPLICATED = PartitionSpec()

# Leaves of the training state by field name; every one has a leading seed axis. Optimizer
# moments carry the names of the parameters they belong to.
_SPECS = {
    "enc_rows": PartitionSpec(SEED, LATENT, None),  # [S, N, D]
    "b_enc": PartitionSpec(SEED, LATENT),  # [S, N]
    "w_dec": PartitionSpec(SEED, LATENT, None),  # [S, N, D]
    "b_dec": PartitionSpec(SEED, None),  # [S, D]
    "r_mag": PartitionSpec(SEED, LATENT),  # [S, N]
    "b_mag": PartitionSpec(SEED, LATENT),  # [S, N]
    "threshold": PartitionSpec(SEED, LATENT),  # [S, N]
    "w_skip": PartitionSpec(SEED, None, None),  # [S, E, D]
    "batch_threshold": PartitionSpec(SEED),  # [S]
    "input_scale": REPLICATED,
    "target_scale": REPLICATED,
    "tokens_since_fired": PartitionSpec(SEED, LATENT),  # [S, N]
    "step": REPLICATED,
}
_PER_SEED = PartitionSpec(SEED)


def make_mesh(cfg: MeshConfig, *, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds the mesh from the sizes of its axes.

    Args:
      cfg: Devices along each axis; one of them may be -1 and takes what is left.
      devices: Defaults to `jax.devices()`.

    Raises:
      InputError: If the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = (cfg.seed, cfg.data, cfg.latent)
    fixed = math.prod(size for size in sizes if size > 0)
    left, remainder = divmod(len(devices), fixed)
    if not left or (remainder and -1 in sizes):
        raise InputError(
            f"mesh {dict(zip(AXES, sizes, strict=True))} does not fit {len(devices)} devices; "
            "change config.mesh"
        )
    shape = tuple(size if size > 0 else left for size in sizes)
    return jax.make_mesh(
        shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[: math.prod(shape)]
    )


def check_divides(mesh: Mesh, axis: str, **sizes: int) -> None:
    """Raises `InputError` unless every named size divides by the devices along an axis."""
    for name, size in sizes.items():
        if size % mesh.shape[axis]:
            raise InputError(
                f"{name}={size} must divide by the {mesh.shape[axis]} devices on axis "
                f"'{axis}': change it or config.mesh.{axis}"
            )


def batch_part(mesh: Mesh) -> tuple[int, int]:
    """Which part of a batch the devices of this process hold: (number, of how many equal parts).

    Raises:
      InputError: If it is not one of equal parts.
    """
    holds = [
        any(device.process_index == jax.process_index() for device in devices.flat)
        for devices in np.moveaxis(mesh.devices, AXES.index(DATA), 0)
    ]
    size = sum(holds)
    if size and not len(holds) % size:
        index, count = holds.index(True) // size, len(holds) // size
        if all(holds[index * size : (index + 1) * size]):
            return index, count
    raise InputError(
        f"axis '{DATA}' of mesh {dict(mesh.shape)} is not split equally between processes of "
        f"{jax.local_device_count()} devices: change config.mesh"
    )


def state_specs(state: Any) -> Any:
    """PartitionSpec of every leaf of a training state, found by the leaf's field name."""

    def spec(path: tuple[Any, ...], _: Any) -> PartitionSpec:
        for key in reversed(path):
            name = getattr(key, "name", getattr(key, "key", None))
            if name in _SPECS:
                return _SPECS[name]
        return _PER_SEED

    return jax.tree_util.tree_map_with_path(spec, state)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """NamedSharding of every leaf of a training state."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        state_specs(state),
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )
