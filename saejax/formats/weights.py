"""Reading files that others wrote: every number is checked, nothing is executed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from saejax.errors import InputError
from saejax.files import atomic_write

# Types of the weights of an autoencoder; all are read as float32, which holds the short ones.
_KINDS = ("float64", "float32", "float16", "bfloat16")


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      InputError: If the file is missing, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold a JSON object, not {type(values).__name__}")
    return values


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file.

    Raises:
      InputError: If the file is missing, truncated, or not safetensors.
    """
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; is the export complete?") from None
    except (safetensors.SafetensorError, OSError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: truncated or not safetensors: {error}") from None


def write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Writes tensors as float32, row-major."""
    with atomic_write(path) as file:
        file.write(
            safetensors.numpy.save(
                {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
            )
        )


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Writes a JSON object. Comes after the weights: a folder that has one is complete."""
    with atomic_write(path) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")


def tensor(tensors: Mapping[str, Any], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    """One tensor as float32.

    Raises:
      InputError: If it is missing, of another shape or kind, or holds NaN or infinities.
    """
    if name not in tensors:
        raise InputError(f"{path}: no tensor {name}; found {', '.join(sorted(tensors)) or 'none'}")
    found = tensors[name]
    if not isinstance(found, np.ndarray):
        raise InputError(f"{path}: {name} is no tensor but of type {type(found).__name__}")
    if found.shape != shape:
        raise InputError(f"{path}: {name} has shape {found.shape}; its configuration says {shape}")
    if found.dtype.name not in _KINDS:
        raise InputError(
            f"{path}: {name} has type {found.dtype.name}; weights are of {', '.join(_KINDS)}"
        )
    with np.errstate(over="ignore"):  # Infinities are found below.
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        bad = int(np.count_nonzero(~np.isfinite(found)))
        raise InputError(
            f"{path}: {name} has {bad:,} entries that are NaN or infinite in float32; "
            "take another checkpoint"
        )
    return found


def positive(config: Mapping[str, Any], name: str, path: Path) -> int:
    """A size from a configuration.

    Raises:
      InputError: If it is missing, or no positive whole number.
    """
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{path}: {name}={value!r} must be a whole number of at least 1")
    return value


def flag(config: Mapping[str, Any], name: str, default: bool, path: Path) -> bool:
    """A yes or no from a configuration.

    Raises:
      InputError: If it is neither.
    """
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {name}={value!r} must be true or false")
    return value


def metadata(values: Mapping[str, Any]) -> tuple[tuple[str, str | int], ...]:
    """Strings and whole numbers of a mapping, as `saejax.Sae` holds them."""
    return tuple(sorted((k, v) for k, v in values.items() if isinstance(v, str | int)))
