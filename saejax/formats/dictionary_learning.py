"""Folders of dictionary_learning: `ae.pt`, read without PyTorch, and `config.json`.

Dimension letters: D activation width, N latents.

References:
  saprmarks/dictionary_learning 0.1.0, dictionary.py, trainers/ and utils.load_dictionary.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.formats import torch_file, weights
from saejax.sae.sae import Sae

WEIGHTS, CONFIG = "ae.pt", "config.json"


class _Class(NamedTuple):
    """One of their classes.

    Attributes:
      arch: Our name of its activation function.
      fields: Tensor -> field of `Sae`. Those that end in `.weight` are transposed there.
      others: Tensors without a field.
      optional: Those of `others` that early versions did not write.
      centers_input: Whether b_dec is subtracted from inputs.
    """

    arch: str
    fields: dict[str, str]
    others: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    centers_input: bool = True


_LINEAR = {"encoder.weight": "w_enc", "encoder.bias": "b_enc", "decoder.weight": "w_dec"}
_PLAIN = {"W_enc": "w_enc", "b_enc": "b_enc", "W_dec": "w_dec", "b_dec": "b_dec"}
_GATED = {
    "decoder_bias": "b_dec",
    "r_mag": "r_mag",
    "gate_bias": "b_enc",
    "mag_bias": "b_mag",
    "encoder.weight": "w_enc",
    "decoder.weight": "w_dec",
}
_CLASSES = {
    "AutoEncoder": _Class("relu", {"bias": "b_dec", **_LINEAR}),
    "AutoEncoderNew": _Class("relu", {**_LINEAR, "decoder.bias": "b_dec"}, centers_input=False),
    "GatedAutoEncoder": _Class("gated", _GATED),
    "AutoEncoderTopK": _Class(
        "topk", {"b_dec": "b_dec", **_LINEAR}, ("k", "threshold"), optional=("k", "threshold")
    ),
    "BatchTopKSAE": _Class("jump_relu", {"b_dec": "b_dec", **_LINEAR}, ("k", "threshold")),
    "JumpReluAutoEncoder": _Class(
        "jump_relu", {**_PLAIN, "threshold": "threshold"}, centers_input=False
    ),
    "MatryoshkaBatchTopKSAE": _Class("jump_relu", _PLAIN, ("k", "threshold", "group_sizes")),
}
# Entries of `trainer` that have names of our own.
_OUR_NAMES = {"lm_name": "model_name", "submodule_name": "hookpoint"}
_THEIR_NAMES = {ours: theirs for theirs, ours in _OUR_NAMES.items()}


def is_here(path: Path) -> bool:
    """Whether a folder holds `ae.pt`."""
    return os.path.isfile(path / WEIGHTS)


def load(path: Path) -> Sae:
    """Reads an autoencoder as `dictionary_learning.utils.load_dictionary` gives it.

    With BatchTopK, also Matryoshka's, a latent is active above the one threshold of the training,
    so these are "jump_relu"; their k stays in the metadata. Decoder rows of an `AutoEncoder` get a
    norm of 1, and its encoder theirs, where the norms are not close to 1. The threshold that
    `AutoEncoderTopK` keeps beside k, and the group sizes of Matryoshka, are not kept. Without
    `config.json` the class is that with the tensors of the file, if there is one.

    Raises:
      InputError: For a missing, broken or unsupported file, naming it.
    """
    file, config_file = path / WEIGHTS, path / CONFIG
    tensors = torch_file.read(file)
    trainer: dict[str, Any] = {}
    if os.path.exists(config_file):
        config = weights.read_config(config_file)
        trainer = config.get("trainer", {})
        if not isinstance(trainer, dict) or trainer.get("dict_class") not in list(_CLASSES):
            found = trainer.get("dict_class") if isinstance(trainer, dict) else trainer
            raise InputError(
                f"{config_file}: trainer.dict_class={found!r:.80} cannot be read, only "
                f"{', '.join(_CLASSES)}"
            )
    name = trainer.get("dict_class") or _guess(tensors, path)
    kind = _CLASSES[name]
    if more := sorted(tensors.keys() - kind.fields.keys() - set(kind.others)):
        raise InputError(f"{file}: {name} has no {', '.join(more)!s:.200}; is it of another class?")
    if less := sorted(set(kind.others) - set(kind.optional) - tensors.keys()):
        raise InputError(f"{file}: no {', '.join(less)}, which {name} needs; is it another class?")

    num_latents, d_model = _sizes(tensors, kind, file)
    for entry, size in (("dict_size", num_latents), ("activation_dim", d_model)):
        if entry in trainer and weights.positive(trainer, entry, config_file) != size:
            raise InputError(f"{config_file}: {entry}={trainer[entry]}, but {WEIGHTS} has {size}")
    shapes = {"w_enc": (d_model, num_latents), "w_dec": (num_latents, d_model), "b_dec": (d_model,)}
    leaves: dict[str, Any] = {}
    for tensor, field in kind.fields.items():
        shape = shapes.get(field, (num_latents,))
        if tensor.endswith(".weight"):
            leaves[field] = weights.tensor(tensors, tensor, shape[::-1], file).T
        else:
            leaves[field] = weights.tensor(tensors, tensor, shape, file)
    if name == "AutoEncoder":
        leaves = _with_unit_rows(leaves, file)
    if kind.arch == "jump_relu" and "threshold" in kind.others:
        threshold = weights.tensor(tensors, "threshold", (), file)
        leaves["threshold"] = np.full(num_latents, threshold)

    k = num_latents
    metadata = {_OUR_NAMES.get(entry, entry): value for entry, value in trainer.items()}
    for entry in ("dict_class", "activation_dim", "dict_size"):
        metadata.pop(entry, None)
    if "k" in kind.others:
        chosen = _chosen_k(tensors, trainer, num_latents, path)
        if kind.arch == "topk":
            k = chosen
            metadata.pop("k", None)
        else:
            metadata["k"] = chosen
    return Sae(
        **leaves,
        k=k,
        arch=kind.arch,
        apply_b_dec_to_input=None if kind.centers_input else False,
        metadata=weights.metadata(metadata),
    )


def _guess(tensors: Mapping[str, Any], path: Path) -> str:
    """The one class with these tensors, where the configuration is missing."""
    fits = [
        name for name, kind in _CLASSES.items() if tensors.keys() == {*kind.fields, *kind.others}
    ]
    if len(fits) == 1:
        return fits[0]
    raise InputError(
        f"{path / CONFIG}: no such file, and the tensors in {WEIGHTS} are those of "
        f"{' and '.join(fits) or 'no class'}; copy {CONFIG} too"
    )


def _sizes(tensors: Mapping[str, Any], kind: _Class, file: Path) -> tuple[int, int]:
    """N and D, from the encoder."""
    [name] = [tensor for tensor, field in kind.fields.items() if field == "w_enc"]
    found = tensors.get(name)
    if not isinstance(found, np.ndarray) or found.ndim != 2 or 0 in found.shape:
        raise InputError(f"{file}: {name} must be a matrix; found {', '.join(tensors)!s:.200}")
    rows, columns = found.shape
    return (rows, columns) if name.endswith(".weight") else (columns, rows)


def _chosen_k(
    tensors: Mapping[str, Any], trainer: dict[str, Any], num_latents: int, path: Path
) -> int:
    """k, which both files may have."""
    found = {}
    if "k" in tensors:
        value = tensors["k"]
        if not isinstance(value, np.ndarray) or value.shape != () or value.dtype.kind != "i":
            raise InputError(f"{path / WEIGHTS}: k must be a tensor of one whole number")
        found[WEIGHTS] = weights.positive({"k": int(value)}, "k", path / WEIGHTS)
    if "k" in trainer or not found:
        found[CONFIG] = weights.positive(trainer, "k", path / CONFIG)
    if len(set(found.values())) > 1:
        raise InputError(
            f"{path}: k={found[CONFIG]} in {CONFIG}, but {found[WEIGHTS]} in {WEIGHTS}"
        )
    [k] = set(found.values())
    if k > num_latents:
        raise InputError(f"{path}: k={k} is more than its {num_latents} latents")
    return k


def _row_norms(w_dec_ND: np.ndarray) -> np.ndarray | None:
    """Norms [N] of decoder rows where `AutoEncoder.normalize_decoder` divides by them."""
    with np.errstate(over="ignore"):
        norm_N = np.linalg.norm(w_dec_ND, axis=1)
    # The tolerance of `torch.allclose`.
    return None if np.allclose(norm_N, 1, rtol=1e-5, atol=1e-8) else norm_N


def _with_unit_rows(leaves: dict[str, Any], file: Path) -> dict[str, Any]:
    """The same reconstructions from decoder rows of norm 1; a row of zeros stays."""
    norm_N = _row_norms(leaves["w_dec"])
    if norm_N is None:
        return leaves
    norm_N = np.where(norm_N > 0, norm_N, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = {"w_enc": leaves["w_enc"] * norm_N[None], "b_enc": leaves["b_enc"] * norm_N}
    if not all(np.isfinite(leaf).all() for leaf in (norm_N, *scaled.values())):
        raise InputError(f"{file}: weights too large for decoder rows of norm 1 in float32")
    return leaves | scaled | {"w_dec": leaves["w_dec"] / norm_N[:, None]}


def _has_one_threshold(sae: Sae) -> bool:
    threshold_N = np.asarray(sae.threshold)
    return bool((threshold_N == threshold_N[0]).all())


def _class_name(sae: Sae) -> str:
    """The class that an autoencoder is saved as."""
    if sae.arch == "relu":
        return "AutoEncoder" if sae.centers_input else "AutoEncoderNew"
    if sae.arch == "jump_relu":
        one = sae.centers_input and _has_one_threshold(sae)
        return "BatchTopKSAE" if one else "JumpReluAutoEncoder"
    return {"topk": "AutoEncoderTopK", "gated": "GatedAutoEncoder"}[sae.arch]


def _trainer(sae: Sae) -> dict[str, Any]:
    """The configuration's `trainer`."""
    name = _class_name(sae)
    trainer: dict[str, Any] = {
        _THEIR_NAMES.get(entry, entry): value for entry, value in sae.metadata
    }
    trainer |= {
        "dict_class": name,
        "activation_dim": sae.d_model,
        "dict_size": sae.num_latents,
    }
    if name == "AutoEncoderTopK":
        trainer["k"] = min(sae.k, sae.num_latents)
    elif name == "BatchTopKSAE":
        # Training on batches used it. Where it is not known, all latents may be active.
        k = trainer.get("k")
        known = type(k) is int and 0 < k <= sae.num_latents
        trainer["k"] = k if known else sae.num_latents
    return trainer


def refuses(sae: Sae) -> str | None:
    """Why dictionary_learning has no such autoencoder, or None."""
    if sae.transcoder or sae.w_skip is not None:
        return "dictionary_learning has no transcoders and skip connections"
    if sae.normalize_activations != "none":
        return f"dictionary_learning has no normalize_activations={sae.normalize_activations!r}"
    if sae.arch != "topk" and sae.k < sae.num_latents:
        return f"dictionary_learning has no limit of k={sae.k} for {sae.arch}"
    if sae.arch in ("topk", "gated") and not sae.centers_input:
        return f"dictionary_learning subtracts b_dec from the inputs of {sae.arch}, this one not"
    return None


def drops(sae: Sae) -> list[str]:
    """What `save` does not keep of an autoencoder that it saves."""
    trainer = _trainer(sae)
    lost = [name for name, value in sae.metadata if trainer[_THEIR_NAMES.get(name, name)] != value]
    name = _class_name(sae)
    if name == "AutoEncoder" and _row_norms(np.asarray(sae.w_dec)) is not None:
        lost.append("the norms of decoder rows (1 when loaded, with the codes scaled to match)")
    if name == "JumpReluAutoEncoder" and sae.centers_input:
        lost.append("apply_b_dec_to_input (b_dec becomes part of the encoder's bias)")
    return lost


def save(sae: Sae, path: Path) -> None:
    """Writes a folder that `dictionary_learning.utils.load_dictionary` reads.

    "relu" becomes `AutoEncoder`, or `AutoEncoderNew` where b_dec is not subtracted from inputs;
    "topk" `AutoEncoderTopK`; "gated" `GatedAutoEncoder`; "jump_relu" `BatchTopKSAE` where it has
    one threshold and b_dec is subtracted, else `JumpReluAutoEncoder`, which does not subtract it:
    b_enc - b_dec W_enc is its bias.

    Raises:
      InputError: For an autoencoder that the format does not have.
    """
    if reason := refuses(sae):
        raise InputError(f"{path}: {reason}")
    trainer = _trainer(sae)
    kind = _CLASSES[trainer["dict_class"]]
    leaves = {field: np.asarray(getattr(sae, field)) for field in kind.fields.values()}
    if sae.centers_input and not kind.centers_input:
        # (x - b_dec) W_enc + b_enc, with one rounding of the bias.
        shift_N = leaves["b_dec"].astype(np.float64) @ leaves["w_enc"]
        leaves["b_enc"] = leaves["b_enc"] - shift_N
    tensors = {}
    for tensor, field in kind.fields.items():
        value = leaves[field].astype(np.float32)
        tensors[tensor] = value.T if tensor.endswith(".weight") else value
    if kind.others:
        tensors["k"] = np.array(trainer["k"], np.int32)
        # -1 stands for a threshold that is not known.
        threshold = -1 if sae.threshold is None else np.asarray(sae.threshold)[0]
        tensors["threshold"] = np.array(threshold, np.float32)
    torch_file.write(path / WEIGHTS, tensors)
    weights.write_config(path / CONFIG, {"trainer": trainer})
