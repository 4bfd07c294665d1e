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

# Our kinds of autoencoders (architecture, transcoder, skip connection) to SAELens' names. It has
# no TopK or gated transcoders: those names are ours, made as its own are, and it refuses them.
_ARCHITECTURES = {
    ("topk", False, False): "topk",
    ("relu", False, False): "standard",
    ("jump_relu", False, False): "jumprelu",
    ("gated", False, False): "gated",
    ("relu", True, False): "transcoder",
    ("relu", True, True): "skip_transcoder",
    ("jump_relu", True, False): "jumprelu_transcoder",
    ("jump_relu", True, True): "jumprelu_skip_transcoder",
    ("topk", True, False): "topk_transcoder",
    ("topk", True, True): "topk_skip_transcoder",
    ("gated", True, False): "gated_transcoder",
    ("gated", True, True): "gated_skip_transcoder",
}


def hook_name(hookpoint: str) -> str:
    """TransformerLens' name of a hook point, where there is one; else the name unchanged."""
    if found := re.fullmatch(r"(?:layers|h)\.(\d+)(\.mlp|\.self_attn|)", hookpoint):
        return f"blocks.{found[1]}.{_HOOK_NAMES[found[2]]}"
    return hookpoint


def _tensor_names(arch: str, *, skip: bool) -> dict[str, str]:
    """Field of `Sae` -> name of the tensor."""
    names = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec"}
    if arch == "gated":
        names |= {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
    if skip:
        names |= {"w_skip": "W_skip"}
    return names | ({"threshold": "threshold"} if arch == "jump_relu" else {})


def save(sae: Sae, path: Path) -> None:
    """Writes an autoencoder as a SAELens v6 directory.

    Tensors: W_enc [D, N], W_dec [N, E], b_dec [E], and by architecture b_enc [N], threshold [N],
    or b_gate, r_mag and b_mag [N], or W_skip [E, D]; float32. The configuration is written last:
    a directory with one is complete. SAELens refuses TopK and gated transcoders, which it does not
    have.

    Raises:
      InputError: For an autoencoder with a skip connection.
    """
    metadata = dict(sae.metadata)
    skip = sae.w_skip is not None
    if skip and not sae.transcoder:
        raise InputError(f"{path}: a skip connection needs transcoder=True, see saejax.Sae")
    target = str(metadata.get("target_hookpoint", ""))
    config = {
        "architecture": _ARCHITECTURES[sae.arch, sae.transcoder, skip],
        "d_in": sae.d_model,
        "d_sae": sae.num_latents,
        **({"d_out": sae.d_out} if sae.transcoder else {}),
        **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.arch == "topk" else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not sae.transcoder,
        "normalize_activations": sae.normalize_activations,
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _SAE_LENS_VERSION,
            "sae_lens_training_version": None,
            "hook_name": hook_name(str(metadata.get("hookpoint", ""))),
            **({"hook_name_out": hook_name(target)} if sae.transcoder else {}),
            "hook_head_index": None,
            "prepend_bos": False,
            **metadata,
        },
    }
    names = _tensor_names(sae.arch, skip=skip)
    tensors = {tensor: getattr(sae, name) for name, tensor in names.items()}
    with atomic_write(path / WEIGHTS) as file:
        file.write(
            safetensors.numpy.save(
                {k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}
            )
        )
    with atomic_write(path / CONFIG) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")


def load(path: Path) -> Sae:
    """Reads an autoencoder from a SAELens v6 directory.

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
    kind = {theirs: ours for ours, theirs in _ARCHITECTURES.items()}.get(config.get("architecture"))
    if kind is None:
        raise InputError(
            f"{path / CONFIG}: architecture={config.get('architecture')!r} cannot be read, only "
            f"{', '.join(_ARCHITECTURES.values())}"
        )
    arch, transcoder, skip = kind
    wanted: dict[str, Any] = {"apply_b_dec_to_input": not transcoder}
    normalize = config.get("normalize_activations")
    if transcoder or normalize not in ("constant_norm_rescale", "layer_norm"):
        wanted["normalize_activations"] = "none"
    if arch == "topk":
        wanted["rescale_acts_by_decoder_norm"] = False
    for field, value in wanted.items():
        if config.get(field) != value:
            raise InputError(
                f"{path / CONFIG}: {field}={config.get(field)!r} cannot be read, only {value!r}"
            )
    sizes = ("d_in", "d_sae", "d_out") if transcoder else ("d_in", "d_sae")
    if missing := [name for name in sizes if name not in config]:
        raise InputError(f"{path / CONFIG}: no {', '.join(missing)}; is the export complete?")
    width, count, *d_out = (config[name] for name in sizes)
    [width_out] = d_out or [width]
    shapes = {
        "w_enc": (width, count),
        "w_dec": (count, width_out),
        "b_dec": (width_out,),
        "w_skip": (width_out, width),
    }
    return Sae(
        **{
            name: _tensor(tensors, tensor, shapes.get(name, (count,)), path)
            for name, tensor in _tensor_names(arch, skip=skip).items()
        },
        arch=arch,
        transcoder=transcoder,
        normalize_activations=normalize,
        k=config["k"] if arch == "topk" else count,
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
