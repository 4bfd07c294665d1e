"""What the configurations of all families have in common, and the tensors that follow from it."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Array, Float

from saejax.errors import InputError
from saejax.lm.layers import Weights

# From the name of a part and what it gives to what the rest of the block gets in its place.
Edit = Callable[[str, Float[Array, "B L D"]], Float[Array, "B L D"]]


def unchanged(part: str, x_BLD: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The edit that changes nothing."""
    del part
    return x_BLD


@runtime_checkable
class Block(Protocol):
    """One layer of a decoder."""

    def outputs(
        self, x_BLD: Float[Array, "B L D"], edit: Edit = unchanged
    ) -> dict[str, Float[Array, "B L D"]]:
        """What each part gives, after `edit`, by its name; "" is the residual stream after all.

        What is not used is not computed, under `jax.jit`.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(abc.ABC):
    """Sizes, constants and names of a decoder; `num_layers` is that of the full model.

    A family is a subclass, a file that also holds its blocks.
    """

    num_layers: int
    d_model: int  # D
    num_heads: int  # H
    d_mlp: int  # F
    vocab_size: int  # V
    norm_eps: float  # added to the variance or mean square in norms
    context_length: int  # longest window: beyond it the model was not trained, or differs
    tie_embeddings: bool  # the unembedding is the transposed embedding

    # Names of modules in Hugging Face's implementation, relative to the base model. Those of hook
    # points: the residual stream before the first block, the blocks, the parts of a block.
    hook_embedding: ClassVar[str]
    hook_blocks: ClassVar[str]
    hook_parts: ClassVar[tuple[str, ...]]
    # Those of tensors outside the blocks; learned positions are there or "".
    embedding: ClassVar[str]
    positions: ClassVar[str] = ""
    final_norm: ClassVar[str]
    norm_tensors: ClassVar[tuple[str, ...]]
    # Kernels are [in, out] in files, not [out, in].
    kernels_in_out: ClassVar[bool] = False
    # What comes before these names in files of the model with its head, other names that files
    # have for tensors, and the ends of names of buffers, which hold no weights.
    prefix: ClassVar[str]
    renamed: ClassVar[Mapping[str, str]] = {}
    buffers: ClassVar[tuple[str, ...]]

    @abc.abstractmethod
    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of a block's weights as in files, by their names there."""

    @abc.abstractmethod
    def make_block(self, weights: Weights) -> Block:
        """A stack of blocks, from weights with a leading layer axis and kernels [in, out]."""

    @abc.abstractmethod
    def make_norm(
        self, weights: Weights, name: str
    ) -> Callable[[Float[Array, "B L D"]], Float[Array, "B L D"]]:
        """The family's normalisation, with the weights of a module."""


def check_numbers(record: Any, where: object) -> None:
    """Raises `InputError` unless all numbers of a configuration are finite and above 0."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not (math.isfinite(value) and value > 0):
            raise InputError(f"{where}: {field.name}={value} must be finite and above 0")


def tensor_shapes(config: DecoderConfig, num_layers: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a model of the first `num_layers` layers needs.

    Names are those of Hugging Face checkpoints without their prefix; the full model also needs
    the final norm and, where it is not tied to the embedding, the unembedding.
    """
    width, table = config.d_model, (config.vocab_size, config.d_model)
    shapes: dict[str, tuple[int, ...]] = {f"{config.embedding}.weight": table}
    if config.positions:
        shapes[f"{config.positions}.weight"] = (config.context_length, width)
    block = config.block_shapes()
    for layer in range(num_layers):
        shapes |= {f"{config.hook_blocks}.{layer}.{name}": s for name, s in block.items()}
    if num_layers == config.num_layers:
        shapes |= {f"{config.final_norm}.{name}": (width,) for name in config.norm_tensors}
        if not config.tie_embeddings:
            shapes["lm_head.weight"] = table
    return shapes
