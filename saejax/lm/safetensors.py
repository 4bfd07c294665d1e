"""Hugging Face model directories: config.json and safetensors, in one file or in shards."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from saejax.errors import InputError
from saejax.lm.checkpoint import Checkpoint, Tensor, check_tensors
from saejax.lm.decoder_config import DecoderConfig
from saejax.lm.families import from_json

_CONFIG = "config.json"
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
      InputError: If the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}; download it again") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a JSON object")
    return values


def read_config(path: Path) -> DecoderConfig:
    """The configuration of a model in a Hugging Face directory.

    Raises:
      InputError: If it is missing or damaged, or of anything but a plain model of one of the
        supported families.
    """
    return from_json(read_json(path / _CONFIG), path / _CONFIG)


def open_directory(path: Path) -> Checkpoint:
    """Opens a Hugging Face directory of a language model.

    Raises:
      InputError: If files are missing or damaged, or hold anything but a plain model of one of
        the supported families.
    """
    config = read_config(path)
    tensors, shards = open_weights(
        path, prefix=config.prefix, renamed=config.renamed, buffers=config.buffers
    )
    if config.tie_embeddings:
        # Some files repeat the embedding as the unembedding; transformers reads the embedding.
        tensors.pop("lm_head.weight", None)
    return check_tensors(Checkpoint(config, tensors, (path / _CONFIG, *shards)), path)


def open_weights(
    path: Path, *, prefix: str, renamed: Mapping[str, str], buffers: tuple[str, ...]
) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors of a directory, in one file or in shards, and these files.

    Args:
      path: The directory.
      prefix: What names begin with in files of the model with its head.
      renamed: Other names that files have for tensors, without the prefix.
      buffers: Ends of names that are left out.

    Raises:
      InputError: If files are missing or damaged, or have a tensor twice or of another type.
    """
    shards = _shards(path)
    tensors = {}
    for shard in shards:
        for name, tensor in _tensors(shard, prefix, renamed, buffers).items():
            if name in tensors:
                raise InputError(f"{shard}: tensor {name} is in another file of {path} too")
            tensors[name] = tensor
    return tensors, shards


def _shards(path: Path) -> list[Path]:
    """The weights files: what the index names, or else the only file."""
    index = path / "model.safetensors.index.json"
    single = path / "model.safetensors"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise InputError(f"{index}: weight_map must map tensors to files")
        shards = [path / name for name in sorted(set(names.values()))]
    elif single.exists():
        shards = [single]
    else:
        raise InputError(
            f"{path} has neither model.safetensors nor {index.name}: convert other formats with "
            "transformers' save_pretrained"
        )
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise InputError(f"{path} lacks {', '.join(missing)}: download again")
    return shards


def _tensors(
    path: Path, prefix: str, renamed: Mapping[str, str], buffers: tuple[str, ...]
) -> dict[str, Tensor]:
    """Tensors of one file but for buffers, by their names without the model's prefix."""
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} ({path.stat().st_size:,} bytes) is not a usable safetensors file: {error}; "
            "download it again"
        ) from None
    tensors = {}
    for full_name in file.keys():  # noqa: SIM118, not a dict
        name = full_name.removeprefix(prefix)
        if name.endswith(buffers):
            continue
        name = renamed.get(name, name)
        header = file.get_slice(full_name)
        shape, kind = tuple(header.get_shape()), header.get_dtype()
        if kind not in _ITEM_BYTES:
            raise InputError(
                f"{path}: tensor {full_name} has type {kind}; supported: {', '.join(_ITEM_BYTES)}"
            )

        def read(full_name: str = full_name) -> np.ndarray:
            return file.get_tensor(full_name)

        num_bytes = int(np.prod(shape, dtype=np.int64)) * _ITEM_BYTES[kind]
        tensors[name] = Tensor(shape, num_bytes, read)
    return tensors
