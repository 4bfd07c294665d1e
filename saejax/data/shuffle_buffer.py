"""A shuffle buffer on the devices: activations of some batches, mixed as single tokens.

Letters: R batches of a block, B tokens of a batch, D activation width.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, Shaped

from saejax import mesh as mesh_lib
from saejax.data.loader import TokenBlock

# Token ids of a batch to arrays [B, ...] on the mesh, by name.
Capture = Callable[[np.ndarray], Mapping[str, Array]]


class ShuffleBuffer:
    """Gives each step its tokens of a block, captured when a step of another block came before.

    A function of the block and the step alone: going on in the middle of a block captures the
    whole of it again. Holds R x B x D activations by hook point, split over the axis "data".

    Args:
      capture: Token ids of a batch to arrays [B, ...].
      num_batches: R.
      mesh: Devices.
    """

    def __init__(self, capture: Capture, num_batches: int, mesh: Mesh):
        self._capture, self._num_batches = capture, num_batches
        self._sharding = NamedSharding(mesh, PartitionSpec(None, mesh_lib.DATA))
        self._put = jax.jit(_put, donate_argnums=0, out_shardings=self._sharding)
        self._take = jax.jit(_take, out_shardings=NamedSharding(mesh, mesh_lib.BATCH))
        self._held: dict[str, Array] = {}
        self._number: int | None = None

    def __call__(self, block: TokenBlock) -> dict[str, Array]:
        """The step's part, [B, ...] by name."""
        if block.number != self._number:
            self._number = None
            for r, tokens in enumerate(block.batches):
                for name, x in self._capture(tokens).items():
                    if name not in self._held:
                        shape = (self._num_batches, *x.shape)
                        self._held[name] = jnp.zeros(shape, x.dtype, device=self._sharding)
                    self._held[name] = self._put(self._held[name], x, r)
            self._number = block.number
        return {name: self._take(held, block.take_B) for name, held in self._held.items()}


def _put(
    held_RB: Shaped[Array, "R B ..."], x_B: Shaped[Array, "B ..."], r: Int[Array, ""] | int
) -> Shaped[Array, "R B ..."]:
    return held_RB.at[r].set(x_B)


def _take(
    held_RB: Shaped[Array, "R B ..."], take_B: Int[Array | np.ndarray, " B"]
) -> Shaped[Array, "B ..."]:
    return held_RB[take_B // held_RB.shape[1], take_B % held_RB.shape[1]]
