"""config.json of a latent cache: what delphi writes there, and what decides the cache.

Dimension letters: U sequences.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int64

from saejax.analysis.text import Text
from saejax.config import Config
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.interp.cache import CONFIG, cache_files
from saejax.sae.sae import Sae

# Of the files; changes with what is computed.
_FORMAT = "saejax latent cache 1"


def text_digest(cfg: Config, text: Text, numbers: Int64[np.ndarray, " U"]) -> str:
    """A checksum of what decides the activations."""
    data = cfg.data
    left_out = (data.skip_tokens, data.exclude_special_tokens, data.max_norm_multiple)
    named = [_FORMAT, cfg.hookpoint, cfg.lm.source, cfg.lm.dtype, left_out]
    sha256 = hashlib.sha256(json.dumps(named).encode())
    for number in numbers:
        sha256.update(text.windows[int(number)].data)
    return sha256.hexdigest()


def config(
    cfg: Config, seed: int, sae: Sae, text: Text, digest: str, num_sequences: int, splits: int
) -> dict[str, Any]:
    """config.json: the fields of delphi's `CacheConfig`, and what decides the cache."""
    kind = [digest, sae.arch, sae.k, sae.normalize_activations, sae.centers_input]
    sha256 = hashlib.sha256(json.dumps(kind).encode())
    for array in jax.tree.leaves(sae):
        sha256.update(np.ascontiguousarray(array).data)
    length = text.windows.shape[1]
    return {
        "dataset_repo": cfg.data.source,
        "dataset_split": cfg.data.split,
        "dataset_name": cfg.data.subset,
        "dataset_column": cfg.data.text_field,
        "batch_size": cfg.lm.batch_windows,
        "cache_ctx_len": length,
        "n_tokens": num_sequences * length,
        "n_splits": splits,
        "model_name": cfg.lm.source,
        "saejax": {
            "hookpoint": cfg.hookpoint,
            "seed": seed,
            "num_latents": sae.num_latents,
            "inputs": sha256.hexdigest(),
        },
    }


def begin(folder: Path, record: dict[str, Any]) -> None:
    """Writes config.json, before any other file of a cache.

    Raises:
      InputError: If the folder holds another cache, or cannot be written.
    """
    path = folder / CONFIG
    if not path.exists():
        if cache_files(folder):
            raise InputError(f"{folder} holds files of unknown origin; name another folder")
        with atomic_write(path) as file:
            file.write(json.dumps(record, indent=4).encode() + b"\n")
        return
    try:
        found: Any = json.loads(path.read_text())
        same = all(found[name] == record[name] for name in ("n_splits", "saejax"))
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise InputError(
            f"{folder} holds a cache of another autoencoder, text or number of files: delete it, "
            "or name another folder"
        )
