"""Where the weights of a language model lie on the mesh, and its activations while it runs.

Up to 4 GiB of weights are copied to every device, and each device reads windows of its own. More
are split over all devices. Then one block at a time is gathered while the model runs, but for what
devices along "latent" compute a part each of: heads of attention, and neurons of the MLP.

Letters: B windows, L context length, D width of the residual stream, V vocabulary, N layers held.
"""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from saejax.lm.decoder_config import Block, DecoderConfig, tensor_shapes
from saejax.lm.llama import LlamaConfig
from saejax.mesh import DATA, LATENT, SEED

# A quarter of the smallest accelerators in use (TPU v5e: 16 GiB). A constant and no part of the
# memory found, so that a run is computed alike on all machines.
_COPY_BYTES = 4 << 30

# The axis of a kernel [in, out] that is split over "latent", by the name of its module: columns
# need no exchange, and the product with rows after them ends in one sum.
_LATENT_AXIS = {
    "q_proj": 1,
    "k_proj": 1,
    "v_proj": 1,
    "gate_proj": 1,
    "up_proj": 1,
    "query_key_value": 1,
    "dense_h_to_4h": 1,
    "c_attn": 1,  # q, k and v one after the other: heads are exchanged after the product
    "c_fc": 1,
    "o_proj": 0,
    "down_proj": 0,
    "dense": 0,
    "dense_4h_to_h": 0,
    "c_proj": 0,
}
_ATTENTION = ("self_attn", "attention", "attn")


@dataclasses.dataclass(frozen=True)
class Placement:
    """A model's place on a mesh; the compiler finds the exchanges that follow from it.

    A dimension that the devices along an axis cannot share equally is not split over that axis.

    Attributes:
      config: Of the model.
      mesh: Devices, of `saejax.mesh.make_mesh`.
      split: Weights are split over the devices, not copied to each.

    References:
      Over "latent": Shoeybi et al. 2019, arXiv 1909.08053, section 3. Over "data" and "seed":
      Rajbhandari et al. 2019, arXiv 1910.02054, section 5.3. The compiler's part: Xu et al. 2021,
      arXiv 2105.04663.
    """

    config: DecoderConfig
    mesh: Mesh
    split: bool

    def put(self, name: str, weight: Float[np.ndarray, "..."]) -> Float[Array, "..."]:
        """Places a weight, which every process has in its memory.

        Args:
          name: As for `saejax.lm.decoder.Decoder`.
          weight: A kernel is [N, in, out] and a table [V, D].
        """
        sharding = self.sharding(name, weight.shape)
        return jax.make_array_from_callback(weight.shape, sharding, lambda part: weight[part])

    def sharding(self, name: str, shape: tuple[int, ...]) -> NamedSharding:
        """Where a weight of this name and shape lies, see `put`."""
        return NamedSharding(self.mesh, self._stored(name, shape))

    def gathered(self, block: Block) -> Block:
        """A block with the weights that this device computes with."""
        if not self.split:
            return block

        def gather(path: tuple[Any, ...], weight: Float[Array, "..."]) -> Float[Array, "..."]:
            if weight.ndim < 2:
                return weight
            names = [key.name for key in path]
            axis = _latent_axis(names)
            spec: list[str | None] = [None, None]
            if not self._units(names, weight.shape[axis]) % self.mesh.shape[LATENT]:
                spec[axis] = LATENT
            return self._constrained(weight, *spec)

        return jax.tree_util.tree_map_with_path(gather, block)

    def spread(self, embedded_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The embedding's output, with windows of its own on each device."""
        windows, _, width = embedded_BLD.shape
        if not self.split:
            return self._constrained(embedded_BLD, self._shared(windows, DATA, SEED, LATENT))
        # Devices look up their columns of all windows, and then exchange these for all columns of
        # their windows: the compiler might gather the whole table. In two steps, as it does not
        # find the exchange in one.
        owned = self._shared(windows, DATA, SEED)
        embedded_BLD = self._constrained(embedded_BLD, None, None, self._all(width))
        embedded_BLD = self._constrained(embedded_BLD, owned, None, self._shared(width, LATENT))
        return self._constrained(embedded_BLD, owned)

    def by_data(self, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Activations with their windows split over "data" alone, as autoencoders read them."""
        return self._constrained(x_BLD, self._shared(x_BLD.shape[0], DATA))

    def _stored(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        in_block = name.startswith(f"{self.config.hook_blocks}.")
        if not self.split or len(shape) < (3 if in_block else 2):
            return PartitionSpec()
        if not in_block:
            return PartitionSpec(None, self._all(shape[1]))
        axis = _latent_axis(name.split("."))
        of_axis = {
            axis: self._shared(shape[1 + axis], LATENT),
            1 - axis: self._shared(shape[2 - axis], DATA, SEED),
        }
        return PartitionSpec(None, of_axis[0], of_axis[1])

    def _units(self, names: Collection[str], size: int) -> int:
        """What devices share of the latent axis of a kernel: whole heads, or single neurons."""
        if not any(name in names for name in _ATTENTION):
            return size
        if isinstance(self.config, LlamaConfig) and ("k_proj" in names or "v_proj" in names):
            return self.config.num_kv_heads
        return self.config.num_heads

    def _all(self, size: int) -> tuple[str, ...]:
        return self._shared(size, LATENT, DATA, SEED)

    def _shared(self, size: int, *axes: str) -> tuple[str, ...]:
        """Those of the axes whose devices together can share a dimension equally."""
        taken, parts = [], 1
        for axis in axes:
            if not size % (parts * self.mesh.shape[axis]):
                taken.append(axis)
                parts *= self.mesh.shape[axis]
        return tuple(taken)

    def _constrained(
        self, x: Float[Array, "..."], *spec: str | tuple[str, ...] | None
    ) -> Float[Array, "..."]:
        if self.mesh.size == 1:
            return x
        sharding = NamedSharding(self.mesh, PartitionSpec(*spec))
        return jax.lax.with_sharding_constraint(x, sharding)


def make_placement(config: DecoderConfig, mesh: Mesh, *, num_layers: int, dtype: str) -> Placement:
    """Copies of the weights on all devices if they take up to 4 GiB each, else one split copy.

    Gathering a block costs time in every pass, which a model that fits need not spend.

    Args:
      config: Of the model.
      mesh: Devices, of `saejax.mesh.make_mesh`.
      num_layers: Layers held.
      dtype: Type of the weights.
    """
    shapes = tensor_shapes(config, num_layers).values()
    num_bytes = jnp.dtype(dtype).itemsize * sum(math.prod(shape) for shape in shapes)
    return Placement(config, mesh, split=mesh.size > 1 and num_bytes > _COPY_BYTES)


def _latent_axis(names: Collection[str]) -> int:
    [axis] = [_LATENT_AXIS[name] for name in names if name in _LATENT_AXIS]
    return axis
