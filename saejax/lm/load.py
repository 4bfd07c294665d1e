"""A language model from a source: its configuration, weights and fingerprint."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32

from saejax.errors import InputError
from saejax.lm.checkpoint import Checkpoint, fingerprint
from saejax.lm.decoder import Decoder, build
from saejax.lm.decoder_config import DecoderConfig, tensor_shapes
from saejax.lm.llama_gguf import open_llama_gguf
from saejax.lm.safetensors import open_directory, read_config
from saejax.lm.sharding import make_placement
from saejax.progress import Progress
from saejax.sources import CONFIG_FILES, MODEL_FILES, resolve

_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Lm:
    """A language model."""

    config: DecoderConfig  # of the full model
    model: Decoder  # may hold the first layers only
    fingerprint: str  # 16 hex digits that identify the files


def load_config(source: str) -> DecoderConfig:
    """The model's configuration; of a directory, or a repository on the hub, config.json alone.

    Args:
      source: As for `load_lm`.

    Raises:
      InputError: If the source does not exist or is not a plain model of one of the families.
    """
    path = resolve(source, hub_files=CONFIG_FILES)
    return read_config(path) if path.is_dir() else _open(source).config


def lm_fingerprint(source: str) -> str:
    """`Lm.fingerprint`, from files that are checked but whose weights are not read.

    Args:
      source: As for `load_lm`.

    Raises:
      InputError: As for `load_lm`, but for values that are not finite.
    """
    return fingerprint(_open(source).files)


def load_lm(
    source: str,
    *,
    dtype: str = "float32",
    num_layers: int | None = None,
    mesh: Mesh | None = None,
) -> Lm:
    """Loads a language model of one of the families in `saejax.lm.families`.

    Args:
      source: A GGUF file of the Llama family, a Hugging Face directory (config.json,
        model.safetensors or its index and shards), either in an installed package, as
        `package:<module>/<path>`, or a repository on the hub, as `org/name[@revision]`.
      dtype: Type of the weights and products, "float32" or "bfloat16"; norms and softmax are
        float32. On accelerators, float32 products have `jax_default_matmul_precision`.
      num_layers: Read the first layers only, which is all that capture needs (see
        `saejax.lm.hooks.layers_needed`); the whole model unless given.
      mesh: Devices, of `saejax.mesh.make_mesh`. Weights of up to 4 GiB are copied to each, larger
        ones are split over them, see `saejax.lm.sharding`.

    Returns:
      The model, on the mesh or else on the default device.

    Raises:
      InputError: If the source does not exist, is damaged or truncated, has missing, extra or
        misshapen tensors or values that are not finite, or is not a plain model of
        these families.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype={dtype!r}: choose one of {', '.join(_DTYPES)}")
    checkpoint = _open(source)
    config = checkpoint.config
    num_layers = config.num_layers if num_layers is None else num_layers
    if not 0 <= num_layers <= config.num_layers:
        raise InputError(f"num_layers={num_layers}: {source} has {config.num_layers} layers")
    needed = tensor_shapes(config, num_layers)
    total = sum(checkpoint.tensors[name].num_bytes for name in needed)
    placement = None
    if mesh is not None:
        placement = make_placement(config, mesh, num_layers=num_layers, dtype=dtype)
    with Progress("read model", total=total, unit="bytes") as progress:

        def read(name: str) -> np.ndarray:
            values = _read(checkpoint, name, source)
            progress.advance(checkpoint.tensors[name].num_bytes)
            return values

        model = build(config, read, num_layers=num_layers, dtype=dtype, placement=placement)
    return Lm(config=config, model=model, fingerprint=fingerprint(checkpoint.files))


class Unembedding(NamedTuple):
    """What turns the last residual stream into logits, W_U norm(x), without the norm's bias.

    Attributes:
      table: W_U [V, D].
      norm_weight: [D] of the final norm.
      centred: Whether the norm takes off the mean over the width, as a layer norm does.
    """

    table: Float32[np.ndarray, "V D"]
    norm_weight: Float32[np.ndarray, " D"]
    centred: bool


def load_unembedding(source: str) -> Unembedding:
    """Reads the final norm and the unembedding of a model, and nothing else of it.

    Args:
      source: As for `load_lm`.

    Raises:
      InputError: As `load_lm`, where these tensors are concerned.
    """
    checkpoint = _open(source)
    config = checkpoint.config
    table = f"{config.embedding}.weight" if config.tie_embeddings else "lm_head.weight"
    table_VD, norm_D = (
        np.asarray(_read(checkpoint, name, source), np.float32)
        for name in (table, f"{config.final_norm}.weight")
    )
    return Unembedding(table_VD, norm_D, centred="bias" in config.norm_tensors)


def _read(checkpoint: Checkpoint, name: str, source: str) -> np.ndarray:
    values = checkpoint.tensors[name].read()
    if not np.isfinite(values).all():
        raise InputError(f"{source}: tensor {name} has values that are not finite")
    return values


def _open(source: str) -> Checkpoint:
    path = resolve(source, hub_files=MODEL_FILES)
    if path.is_dir():
        return open_directory(path)
    if path.suffix == ".gguf":
        return open_llama_gguf(path)
    raise InputError(f"{path} is neither a .gguf file nor a Hugging Face model directory")
