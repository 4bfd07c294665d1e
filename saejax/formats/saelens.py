"""SAELens v6 directories: `cfg.json` and `sae_weights.safetensors`, loadable by SAELens as is."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.sae.sae import Sae

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

# Files without a version of 6 or later go through SAELens' reader for its older layout.
_SAE_LENS_VERSION = "6.54.12"
# Hugging Face module names to TransformerLens hook names.
_HOOK_NAMES = {
    "": "hook_resid_post",
    ".mlp": "hook_mlp_out",
    ".self_attn": "hook_attn_out",
}


def hook_name(hookpoint: str) -> str:
    """TransformerLens' name of a hook point, where there is one; else the name unchanged."""
    if found := re.fullmatch(r"(?:layers|h)\.(\d+)(\.mlp|\.self_attn|)", hookpoint):
        return f"blocks.{found[1]}.{_HOOK_NAMES[found[2]]}"
    return hookpoint


def save(sae: Sae, path: Path) -> None:
    """Writes a TopK autoencoder as a SAELens v6 directory.

    Tensors: W_enc [D, N], b_enc [N], W_dec [N, D], b_dec [D], float32. The configuration is
    written last: a directory with one is complete.
    """
    metadata = dict(sae.metadata)
    config = {
        "architecture": "topk",
        "d_in": sae.d_model,
        "d_sae": sae.num_latents,
        "k": sae.k,
        "rescale_acts_by_decoder_norm": False,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _SAE_LENS_VERSION,
            "sae_lens_training_version": None,
            "hook_name": hook_name(str(metadata.get("hookpoint", ""))),
            "hook_head_index": None,
            "prepend_bos": False,
            **metadata,
        },
    }
    tensors = {
        "W_enc": sae.w_enc,
        "b_enc": sae.b_enc,
        "W_dec": sae.w_dec,
        "b_dec": sae.b_dec,
    }
    with atomic_write(path / WEIGHTS) as file:
        file.write(
            safetensors.numpy.save(
                {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}
            )
        )
    with atomic_write(path / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")


def load(path: Path) -> Sae:
    """Reads a TopK autoencoder from a SAELens v6 directory.

    Raises:
      InputError: For a missing, truncated or unsupported file, naming it.
    """
    for name in (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise InputError(f"{path / name}: no such file; is the export complete?")
    try:
        config = json.loads((path / CONFIG).read_text())
        tensors = safetensors.numpy.load_file(path / WEIGHTS)
    except json.JSONDecodeError as error:
        raise InputError(f"{path / CONFIG}: not JSON: {error}") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{path / WEIGHTS}: truncated or not safetensors: {error}") from None
    for field, wanted in (
        ("architecture", "topk"),
        ("apply_b_dec_to_input", True),
        ("normalize_activations", "none"),
        ("rescale_acts_by_decoder_norm", False),
    ):
        if config.get(field) != wanted:
            raise InputError(
                f"{path / CONFIG}: {field}={config.get(field)!r} cannot be read, only {wanted!r}"
            )
    return Sae(
        w_enc=_tensor(tensors, "W_enc", (config["d_in"], config["d_sae"]), path),
        b_enc=_tensor(tensors, "b_enc", (config["d_sae"],), path),
        w_dec=_tensor(tensors, "W_dec", (config["d_sae"], config["d_in"]), path),
        b_dec=_tensor(tensors, "b_dec", (config["d_in"],), path),
        k=config["k"],
        metadata=tuple(
            sorted(
                (name, value)
                for name, value in config["metadata"].items()
                if isinstance(value, str | int) and name not in ("prepend_bos",)
            )
        ),
    )


def _tensor(tensors: dict[str, Any], name: str, shape: tuple[int, ...], path: Path) -> np.ndarray:
    if name not in tensors:
        raise InputError(f"{path / WEIGHTS}: no tensor {name}; found {', '.join(sorted(tensors))}")
    if tensors[name].shape != shape:
        raise InputError(
            f"{path / WEIGHTS}: {name} has shape {tensors[name].shape}, {CONFIG} says {shape}"
        )
    return tensors[name].astype(np.float32)
