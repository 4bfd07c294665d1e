"""SAELens directories: `cfg.json` and `sae_weights.safetensors`, loadable by SAELens as is.

Dimension letters: D activation width, E width of the output, N latents.

References:
  SAELens 6.54.12, sae_lens/saes (`encode`, `decode`, `process_state_dict_for_saving_inference`)
  and sae_lens/loading/pretrained_sae_loaders.py.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saejax.errors import InputError
from saejax.formats import saelens_hooks, saelens_legacy, saelens_training, sparsify, weights
from saejax.sae.sae import Sae

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"

# Files without a version of 6 or later go through SAELens' reader for its older layout.
_SAE_LENS_VERSION = "6.54.12"

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
# Only checkpoints in training have these; SAELens ends training by turning them into jumprelu.
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_KINDS = {theirs: ours for ours, theirs in _ARCHITECTURES.items()} | dict.fromkeys(
    _BATCH_TOPK, ("jump_relu", False, False)
)
# As it is estimated and used while training; afterwards SAELens treats it as "none".
_EXPECTED_AVERAGE = "expected_average_only_in"
_NORMALIZATIONS = ("none", "constant_norm_rescale", "layer_norm")


def is_here(path: Path) -> bool:
    """Whether a folder is of this format: has its weights, or a configuration and no weights."""
    return os.path.isfile(path / WEIGHTS) or (
        os.path.isfile(path / CONFIG) and not sparsify.is_here(path)
    )


def _tensor_names(arch: str, *, skip: bool) -> dict[str, str]:
    """Field of `Sae` -> name of the tensor."""
    names = {"w_enc": "W_enc", "b_enc": "b_enc", "w_dec": "W_dec", "b_dec": "b_dec"}
    if arch == "gated":
        names |= {"b_enc": "b_gate", "r_mag": "r_mag", "b_mag": "b_mag"}
    if skip:
        names |= {"w_skip": "W_skip"}
    return names | ({"threshold": "threshold"} if arch == "jump_relu" else {})


def refuses(sae: Sae) -> str | None:
    """Why SAELens' format has no such autoencoder, or None."""
    skip = sae.w_skip is not None
    if skip and not sae.transcoder:
        return "a skip connection needs transcoder=True, see saejax.Sae"
    if (sae.arch, sae.transcoder, skip) not in _ARCHITECTURES:
        return f"SAELens has no arch={sae.arch!r}"
    names = _tensor_names(sae.arch, skip=skip)
    if missing := [name for name in names if getattr(sae, name) is None]:
        return f"arch={sae.arch!r} needs {', '.join(missing)}, which is None"
    if sae.arch != "topk" and sae.k < sae.num_latents:
        return f"SAELens limits only topk to its k={sae.k} largest codes, not {sae.arch}"
    if sae.normalize_activations not in _NORMALIZATIONS:
        return f"SAELens has no normalize_activations={sae.normalize_activations!r}"
    if sae.transcoder and sae.normalize_activations != "none":
        return f"SAELens' transcoders do not undo {sae.normalize_activations}"
    if sae.transcoder and sae.centers_input:
        return "SAELens' transcoders do not subtract b_dec, and this one does"
    if not sae.transcoder and sae.d_out != sae.d_model:
        return f"autoencoders have one width, and this one has {sae.d_model} and {sae.d_out}"
    return None


def drops(sae: Sae) -> list[str]:
    """What of an autoencoder is lost: nothing, `cfg.json` holds all metadata."""
    return []


def save(sae: Sae, path: Path) -> None:
    """Writes an autoencoder as a SAELens v6 directory.

    Tensors: W_enc [D, N], W_dec [N, E], b_dec [E], and by architecture b_enc [N], threshold [N],
    or b_gate, r_mag and b_mag [N], or W_skip [E, D]; float32. The configuration is written last:
    a directory with one is complete. SAELens refuses TopK and gated transcoders, which it does not
    have.

    Raises:
      InputError: For what the format cannot hold, see `refuses`.
    """
    if reason := refuses(sae):
        raise InputError(f"{path}: {reason}")
    metadata = dict(sae.metadata)
    skip = sae.w_skip is not None
    target = str(metadata.get("target_hookpoint", ""))
    in_heads = metadata.get("reshape_activations") == "hook_z"
    topk = {"k": min(sae.k, sae.num_latents), "rescale_acts_by_decoder_norm": False}
    config = {
        "architecture": _ARCHITECTURES[sae.arch, sae.transcoder, skip],
        "d_in": sae.d_model,
        "d_sae": sae.num_latents,
        **({"d_out": sae.d_out} if sae.transcoder else {}),
        **(topk if sae.arch == "topk" else {}),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.centers_input,
        "normalize_activations": sae.normalize_activations,
        "reshape_activations": "hook_z" if in_heads else "none",
        "metadata": {
            "sae_lens_training_version": None,
            "hook_name": saelens_hooks.hook_name(str(metadata.get("hookpoint", ""))),
            **({"hook_name_out": saelens_hooks.hook_name(target)} if sae.transcoder else {}),
            "hook_head_index": None,
            "prepend_bos": False,
            **metadata,
            "sae_lens_version": _SAE_LENS_VERSION,
        },
    }
    names = _tensor_names(sae.arch, skip=skip)
    weights.write_safetensors(
        path / WEIGHTS, {theirs: getattr(sae, ours) for ours, theirs in names.items()}
    )
    weights.write_config(path / CONFIG, config)


def load(path: Path) -> Sae:
    """Reads an autoencoder of SAELens, of version 6 or before, or a checkpoint in training.

    The weights are those of SAELens' own conversions for inference:

    - With `rescale_acts_by_decoder_norm`, whose codes are z ||W_dec||, the norms are moved from the
      rows of W_dec to W_enc and b_enc.
    - BatchTopK in training has one `topk_threshold`, and becomes a JumpReLU with it.
    - `normalize_activations=expected_average_only_in` is a factor on all activations. A checkpoint
      in training has it beside it (`activation_scaler.json`), and it is folded into the weights.
      Where it is not there, the weights are left as they are, as SAELens leaves them: activations
      are to be scaled first, and the entry `normalize_activations` of the metadata says so.
    - A `scaling_factor` [N] from finetuning (before version 6), which multiplies the codes that are
      decoded, is folded into W_dec.

    Autoencoders of attention heads (`hook_z`) take activations [B, heads * width], as SAELens makes
    them. Metadata are strings and whole numbers, with `hookpoint` where `hook_name` and the model's
    name tell it.

    Raises:
      InputError: For a missing, truncated or unsupported file, naming it and the value.
    """
    file = path / CONFIG
    config = saelens_legacy.modern(weights.read_config(file), file)
    theirs = config.get("architecture")
    if not isinstance(theirs, str) or theirs not in _KINDS:
        raise InputError(
            f"{file}: architecture={theirs!r} cannot be read, only {', '.join(_KINDS)}"
        )
    arch, transcoder, skip = _KINDS[theirs]
    normalize = _choice(
        config,
        "normalize_activations",
        ("none",) if transcoder else (*_NORMALIZATIONS, _EXPECTED_AVERAGE),
        file,
    )
    reshape = _choice(config, "reshape_activations", ("none", "hook_z"), file)
    center = weights.flag(config, "apply_b_dec_to_input", True, file)
    if transcoder and center:
        raise InputError(f"{file}: apply_b_dec_to_input must be false, as of all transcoders")
    width, count = (weights.positive(config, name, file) for name in ("d_in", "d_sae"))
    width_out = weights.positive(config, "d_out", file) if transcoder else width
    k = weights.positive(config, "k", file) if arch == "topk" else count
    if k > count:
        raise InputError(f"{file}: k={k} is more than d_sae={count}")
    batch_topk = theirs in _BATCH_TOPK
    decoder_norms = (batch_topk or arch == "topk") and weights.flag(
        config, "rescale_acts_by_decoder_norm", batch_topk, file
    )
    scale = saelens_training.input_scale(path) if normalize == _EXPECTED_AVERAGE else None
    entries = _entries(config["metadata"])
    if normalize == _EXPECTED_AVERAGE:
        normalize = "none"
        if scale is None:
            entries["normalize_activations"] = _EXPECTED_AVERAGE
    if reshape == "hook_z":
        entries["reshape_activations"] = reshape
    shapes = {
        "w_enc": (width, count),
        "w_dec": (count, width_out),
        "b_dec": (width_out,),
        "w_skip": (width_out, width),
    }
    file = path / WEIGHTS
    tensors = saelens_training.with_thresholds(
        weights.read_safetensors(file), count, file, batch_topk=batch_topk
    )
    names = _tensor_names(arch, skip=skip)
    if extra := sorted(set(tensors) - {*names.values(), "scaling_factor"}):
        raise InputError(f"{file}: architecture={theirs} has no tensor {', '.join(extra)}")
    own: dict[str, Any] = {
        ours: weights.tensor(tensors, name, shapes.get(ours, (count,)), file)
        for ours, name in names.items()
    }
    saelens_training.fold(
        own,
        file,
        finetuned_scale=saelens_training.finetuned_scale(tensors, config, count, file),
        input_scale=scale,
        decoder_norms=decoder_norms,
        batch_topk=batch_topk,
    )
    return Sae(
        **own,
        arch=arch,
        transcoder=transcoder,
        normalize_activations=normalize,
        apply_b_dec_to_input=None if transcoder or center else False,
        k=k,
        metadata=weights.metadata(entries),
    )


def _choice(config: Mapping[str, Any], name: str, choices: tuple[str, ...], path: Path) -> str:
    value = "none" if config.get(name) is None else config[name]
    if value not in choices:
        raise InputError(f"{path}: {name}={value!r} cannot be read, only {', '.join(choices)}")
    return value


def _entries(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Where the autoencoder comes from, without what is about the file, with our names too."""
    entries = {name: value for name, value in metadata.items() if name != "sae_lens_version"}
    for ours, theirs in (("hookpoint", "hook_name"), ("target_hookpoint", "hook_name_out")):
        known = saelens_hooks.hookpoint(entries.get(theirs), entries)
        if known is not None:
            entries.setdefault(ours, known)
    return entries
