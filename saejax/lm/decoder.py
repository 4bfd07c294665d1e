"""A decoder-only language model of any family, as a flax.nnx module with hook points.

Letters: B windows, L context length, D width of the residual stream, V vocabulary, N layers held.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from saejax.lm.decoder_config import Block, DecoderConfig, tensor_shapes
from saejax.lm.hooks import Hook
from saejax.lm.layers import Weights
from saejax.lm.sharding import Placement


class Decoder(nnx.Module):
    """Embedding, blocks, final norm and unembedding.

    The weights of all blocks are stacked on a leading layer axis. A partial model holds the
    first layers only, and neither final norm nor unembedding.

    Args:
      config: Sizes; its family makes the blocks.
      weights: By the names of `tensor_shapes` without layer numbers; those of blocks [N, ...],
        kernels [in, out].
      num_layers: N.
      placement: Of the weights on a mesh.
    """

    def __init__(
        self,
        config: DecoderConfig,
        weights: Weights,
        num_layers: int,
        placement: Placement | None = None,
    ):
        self.config = config
        self.num_layers_held = num_layers
        self.placement = placement
        self.embedding = nnx.Param(weights[f"{config.embedding}.weight"])
        if config.positions:
            self.positions = nnx.Param(weights[f"{config.positions}.weight"])
        blocks = {name: weights[f"{config.hook_blocks}.{name}"] for name in config.block_shapes()}
        self.layers = config.make_block(blocks)
        if num_layers == config.num_layers:
            self.norm = config.make_norm(weights, config.final_norm)
            if not config.tie_embeddings:
                self.lm_head = nnx.Param(weights["lm_head.weight"])

    def embed(self, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The residual stream before the first block."""
        x_BLD = self.embedding[...][tokens_BL]
        if self.config.positions:
            x_BLD += self.positions[...][None, : tokens_BL.shape[1]]
        return x_BLD if self.placement is None else self.placement.spread(x_BLD)

    def block(self, layer: int | Int[Array, ""]) -> Block:
        """One block, cut out of the stack."""
        block = jax.tree.map(lambda weight_N: weight_N[layer], self.layers)
        return block if self.placement is None else self.placement.gathered(block)

    def run_blocks(
        self, x_BLD: Float[Array, "B L D"], first: int, end: int
    ) -> Float[Array, "B L D"]:
        """The residual stream after the blocks from `first` to before `end`."""
        if first == end:
            return x_BLD  # a scan over nothing would still be compiled
        # A scan over layer numbers reads each layer from the stack; a scan over a part of the
        # stack would copy that part in every call.
        return jax.lax.scan(
            lambda x_BLD, layer: (self.block(layer).outputs(x_BLD)[""], None),
            x_BLD,
            jnp.arange(first, end),
        )[0]

    def activations(
        self, tokens_BL: Int[Array, "B L"], hooks: Sequence[Hook]
    ) -> list[Float[Array, "B L D"]]:
        """What hook points see, in one pass; no layer is run that none of them needs.

        Args:
          tokens_BL: Token ids in [0, V).
          hooks: The hook points, in any order.
        """
        x_BLD = self.embed(tokens_BL)
        seen = {Hook(None, ""): x_BLD}
        done = 0
        for layer in sorted({hook.layer for hook in hooks if hook.layer is not None}):
            outputs = self.block(layer).outputs(self.run_blocks(x_BLD, done, layer))
            seen |= {Hook(layer, part): output_BLD for part, output_BLD in outputs.items()}
            x_BLD, done = outputs[""], layer + 1
        return [seen[hook] for hook in hooks]

    def hidden(self, tokens_BL: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """What the unembedding reads: the last residual stream, normalised."""
        return self.norm(self.run_blocks(self.embed(tokens_BL), 0, self.config.num_layers))

    def unembed(self, x_D: Float[Array, "*tokens D"]) -> Float[Array, "*tokens V"]:
        """Logits, in float32."""
        table_VD = self.embedding if self.config.tie_embeddings else self.lm_head
        return jnp.matmul(x_D, table_VD[...].T, preferred_element_type=jnp.float32)


def build(
    config: DecoderConfig,
    read: Callable[[str], np.ndarray],
    *,
    num_layers: int,
    dtype: str,
    placement: Placement | None = None,
) -> Decoder:
    """Builds the model from its tensors.

    Besides the weights where they are placed, the host holds one stack of them at a time: in
    Llama-3-8B at most 3.8 GB in bfloat16.

    Args:
      config: Sizes.
      read: Gives a tensor by its name in `tensor_shapes`, in that shape.
      num_layers: Layers to read; below `config.num_layers`, the model is partial.
      dtype: Type of the weights.
      placement: Of the weights on a mesh; the default device unless given.
    """
    weights = {}

    def put(name: str, weight: np.ndarray) -> None:
        weights[name] = jnp.asarray(weight) if placement is None else placement.put(name, weight)

    blocks = config.hook_blocks
    for name in tensor_shapes(config, num_layers):
        if not name.startswith(f"{blocks}."):
            put(name, np.asarray(read(name), dtype))
    # Kernels are [in, out] here, so that a product reads `x @ kernel`.
    axes = 1 if config.kernels_in_out else -1
    for part, shape in config.block_shapes().items():
        stack = np.empty((num_layers, *shape[::axes]), dtype)
        for layer in range(num_layers):
            values = read(f"{blocks}.{layer}.{part}")
            stack[layer] = values if config.kernels_in_out else values.T
        put(f"{blocks}.{part}", stack)
    return Decoder(config, weights, num_layers, placement)
