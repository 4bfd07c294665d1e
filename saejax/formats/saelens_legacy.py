"""Configurations of SAELens before version 6, one flat object, in the layout of version 6.

References:
  `handle_pre_6_0_config` in sae_lens/loading/pretrained_sae_loaders.py, SAELens 6.54.12.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saejax.errors import InputError

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_FIELDS = (
    "d_in",
    "d_sae",
    "d_out",
    "k",
    "rescale_acts_by_decoder_norm",
    "finetuning_scaling_factor",
)
# What SAELens keeps of where the autoencoder comes from, and what we have names for.
_METADATA = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_name_out",
    "hook_head_index",
    "hook_head_index_out",
    "prepend_bos",
    "context_size",
    "dataset_path",
    "neuronpedia_id",
    "sae_lens_training_version",
    "seed",
    "training_tokens",
)


def modern(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A configuration of any version, in the layout of version 6.

    Raises:
      InputError: For another activation function than relu and topk, which SAELens 6 would take
        for relu, and for values that are of no use.
    """
    metadata = config.get("metadata", {})
    if not isinstance(metadata, dict):
        raise InputError(f"{path}: metadata={metadata!r} must be a JSON object")
    version = config.get("sae_lens_version") or metadata.get("sae_lens_version")
    if version and _major(version, path) >= 6:
        return {**config, "metadata": metadata}
    old = {_RENAMED.get(name, name): value for name, value in config.items()}
    normalize = old.get("normalize_activations")
    if isinstance(normalize, bool):
        normalize = "expected_average_only_in" if normalize else "none"
    in_heads = "hook_z" in str(old.get("hook_name"))
    return {
        **{name: old[name] for name in _FIELDS if name in old},
        **_activation(old, path),
        "apply_b_dec_to_input": old.get("apply_b_dec_to_input", True),
        "normalize_activations": "none" if normalize is None else normalize,
        "reshape_activations": old.get("reshape_activations", "hook_z" if in_heads else "none"),
        "metadata": {
            "prepend_bos": True,
            **metadata,
            **{name: old[name] for name in _METADATA if name in old},
        },
    }


def _activation(old: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Architecture, and k of TopK, which was a standard autoencoder with another activation."""
    activation, arch = old.get("activation_fn") or "relu", old.get("architecture", "standard")
    if activation not in ("relu", "topk"):
        raise InputError(f"{path}: activation_fn={activation!r} cannot be read, only relu and topk")
    if "topk" not in (activation, arch):
        return {"architecture": arch}
    arguments = old.get("activation_fn_kwargs") or {}
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: activation_fn_kwargs={arguments!r} must be a JSON object")
    return {"architecture": "topk", "k": arguments.get("k", old.get("k"))}


def _major(version: object, path: Path) -> int:
    found = re.match(r"\d{1,9}(?=\.)", version) if isinstance(version, str) else None
    if found is None:
        raise InputError(f"{path}: sae_lens_version={version!r} must be text such as '6.54.12'")
    return int(found[0])
