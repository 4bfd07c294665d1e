"""What the processes of a run know of each other in each step: metrics, signals, clocks.

Each process has its own signal and its own clock, but all have to stop, and to save, at the same
step. So a program behind each step takes the greatest of what they want, and copies the metrics,
which lie where the seeds do, to all; what it gives is read a step later, when it is long there.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from saejax import mesh as mesh_lib
from saejax.train.step import Metrics


class Wish(NamedTuple):
    """What is asked of the loop: a signal to stop at, 0 for none, and whether to save."""

    signum: int = 0
    save: bool = False


class Together:
    """Carries wishes and metrics between the processes; with one, it gives back what it gets.

    Args:
      mesh: Devices of the training, some of every process.
    """

    def __init__(self, mesh: Mesh):
        self.agreed = Wish()
        self._is_alone = jax.process_count() == 1
        self._shape = (mesh.size, 2)
        self._split = NamedSharding(mesh, PartitionSpec(mesh_lib.AXES))
        self._share = jax.jit(_share, out_shardings=NamedSharding(mesh, mesh_lib.REPLICATED))
        # What was shared behind this step and behind the one before.
        self._new: jax.Array | None = None
        self._old: jax.Array | None = None

    def ask(self, wish: Wish) -> None:
        """What this process wants; if it is alone, that is agreed."""
        if self._is_alone:
            self.agreed = wish

    def share(self, metrics: list[Metrics], wish: Wish) -> list[Metrics]:
        """Metrics that every process can read, and to the others what this one wants."""
        if self._is_alone:
            return metrics
        own = np.asarray([wish], np.int32)
        wishes = jax.make_array_from_callback(self._shape, self._split, lambda _: own)
        shared, self._new = self._share(metrics, wishes)
        return shared

    def read(self) -> None:
        """Reads what was shared before the last time, which nothing has to wait for."""
        if self._old is not None:
            signum, save = np.asarray(self._old).tolist()
            self.agreed = Wish(max(signum, self.agreed.signum), self.agreed.save or bool(save))
        self._old, self._new = self._new, None

    def saved(self) -> None:
        """Drops the wishes to save that were read, since all processes have saved."""
        self.agreed = self.agreed._replace(save=False)


def _share(metrics: list[Metrics], wishes: jax.Array) -> tuple[list[Metrics], jax.Array]:
    return metrics, jnp.max(wishes, axis=0)
