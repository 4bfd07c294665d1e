"""Names of hook points: TransformerLens' (`blocks.6.hook_mlp_out`) and Hugging Face's modules."""

import re
from collections.abc import Mapping
from typing import Any

# Parts of a block: Hugging Face's suffix -> TransformerLens' hook.
_HOOKS = {
    "": "hook_resid_post",
    ".mlp": "hook_mlp_out",
    ".self_attn": "hook_attn_out",
    ".attention": "hook_attn_out",
    ".attn": "hook_attn_out",
}
# Models that saejax reads, by a part of their name: Hugging Face's blocks and their attention.
_MODULES = {
    "gpt2": ("h", ".attn"),
    "pythia": ("layers", ".attention"),
    "neox": ("layers", ".attention"),
    "llama": ("layers", ".self_attn"),
    "mistral": ("layers", ".self_attn"),
    "qwen2": ("layers", ".self_attn"),
    "smollm": ("layers", ".self_attn"),
}


def hook_name(hookpoint: str) -> str:
    """TransformerLens' name of a hook point, where there is one; else the name unchanged."""
    found = re.fullmatch(r"(?:layers|h)\.(\d+)(\.\w+|)", hookpoint)
    hook = _HOOKS.get(found[2]) if found else None
    return f"blocks.{found[1]}.{hook}" if found and hook else hookpoint


def hookpoint(hook_name: object, metadata: Mapping[str, Any]) -> str | None:
    """Our name of a hook of TransformerLens, or None where it cannot be told.

    Only the model says whether blocks are `layers` or `h`. The residual stream before a block is
    the output of the block before. A model loaded with options (`model_from_pretrained_kwargs`)
    may have other activations than Hugging Face's, as with `center_writing_weights`.
    """
    model = str(metadata.get("model_name")).lower()
    modules = next((found for part, found in _MODULES.items() if part in model), None)
    hook = re.fullmatch(
        r"blocks\.(\d{1,9})\.hook_(resid_pre|resid_post|mlp_out|attn_out)", str(hook_name)
    )
    if modules is None or hook is None or metadata.get("model_from_pretrained_kwargs"):
        return None
    blocks, attention = modules
    layer = int(hook[1])
    if hook[2] == "resid_pre":
        return f"{blocks}.{layer - 1}" if layer else None
    part = {"resid_post": "", "mlp_out": ".mlp", "attn_out": attention}[hook[2]]
    return f"{blocks}.{layer}{part}"
