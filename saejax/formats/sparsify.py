"""sparsify's folders of one sparse coder: `cfg.json` and `sae.safetensors`.

Dimension letters: D activation width, N latents.

References:
  eai-sparsify 1.3.3, sparsify/{config,sparse_coder,fused_encoder}.py.
"""

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from saejax.errors import InputError
from saejax.formats import weights
from saejax.sae.sae import Sae

WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
# sparsify's defaults, which files may leave out.
_EXPANSION_FACTOR, _K = 32, 32
# Settings of a run of sparsify (`config.json`) -> our names.
_RUN_SETTINGS = {
    "model": "model_name",
    "dataset": "dataset_path",
    "ctx_len": "context_size",
    "shuffle_seed": "data_seed",
}


def is_here(path: Path) -> bool:
    """Whether a folder has the weights of a sparse coder."""
    return os.path.isfile(path / WEIGHTS)


def refuses(sae: Sae) -> str | None:
    """Why sparsify has no such sparse coder, or None."""
    if sae.arch != "topk":
        return f"sparsify has topk alone, and this one is {sae.arch}"
    if sae.normalize_activations != "none":
        return f"sparsify has no normalize_activations={sae.normalize_activations!r}"
    if sae.d_out != sae.d_model:
        return f"sparsify has one width, and this one has {sae.d_model} and {sae.d_out}"
    if sae.w_skip is not None and not sae.transcoder:
        return "a skip connection needs transcoder=True, see saejax.Sae"
    return None


def drops(sae: Sae) -> list[str]:
    """What of an autoencoder is lost: nothing, `cfg.json` holds all metadata."""
    return []


def save(sae: Sae, path: Path) -> None:
    """Writes a folder that sparsify loads (`SparseCoder.load_from_disk`).

    Tensors: encoder.weight [N, D], encoder.bias [N], W_dec [N, D], b_dec [D], and W_skip [D, D] of
    a skip connection; float32. The configuration is written last. Its `metadata` are ours, which
    sparsify passes over.

    sparsify subtracts b_dec from the inputs of an autoencoder and not from those of a transcoder
    (`transcode`). Where this one differs, b_enc + b_dec W_enc (or b_enc - b_dec W_enc) is written
    as the bias of the encoder: the same codes, to rounding.

    Raises:
      InputError: For what sparsify does not have, see `refuses`.
    """
    if reason := refuses(sae):
        raise InputError(f"{path}: {reason}")
    # With a skip connection the flag is free to say what is done to inputs: see `load`.
    transcode = sae.transcoder if sae.w_skip is None else not sae.centers_input
    w_enc_DN, b_enc_N = np.asarray(sae.w_enc, np.float32), np.asarray(sae.b_enc, np.float32)
    if sae.centers_input == transcode:
        shift_N = np.asarray(sae.b_dec, np.float64) @ w_enc_DN
        b_enc_N = b_enc_N - shift_N if transcode else b_enc_N + shift_N
    skip = {} if sae.w_skip is None else {"W_skip": sae.w_skip}
    weights.write_safetensors(
        path / WEIGHTS,
        {
            "encoder.weight": w_enc_DN.T,
            "encoder.bias": b_enc_N,
            "W_dec": sae.w_dec,
            "b_dec": sae.b_dec,
            **skip,
        },
    )
    config = {
        "activation": "topk",
        "num_latents": sae.num_latents,
        "k": min(sae.k, sae.num_latents),
        "skip_connection": bool(skip),
        "transcode": transcode,
        "d_in": sae.d_model,
        "metadata": dict(sae.metadata),
    }
    weights.write_config(path / CONFIG, config)


def load(path: Path) -> Sae:
    """Reads a folder of sparsify, as sparsify 1.3.3 reads it.

    Files may lack what later versions added. Without `transcode` (before February 2025) nothing
    tells transcoders from autoencoders: they are autoencoders here as there, which subtract b_dec
    from inputs. A skip connection makes them transcoders that do.

    The metadata are hook point and seed as `<hookpoint>[/seed<i>]` says them, and model, text and
    seeds of the run that this is in.

    Raises:
      InputError: For a missing, truncated or unsupported file, naming it and the value.
    """
    file = path / CONFIG
    config = weights.read_config(file)
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise InputError(f"{file}: activation={activation!r} cannot be read, only 'topk'")
    if weights.flag(config, "signed", False, file):
        raise InputError(f"{file}: signed=true cannot be read: codes are never negative here")
    transcode = weights.flag(config, "transcode", False, file)
    skip = weights.flag(config, "skip_connection", False, file)
    width = weights.positive(config, "d_in", file)
    if config.get("num_latents", 0) == 0:
        factor = {"expansion_factor": _EXPANSION_FACTOR} | config
        count = width * weights.positive(factor, "expansion_factor", file)
    else:
        count = weights.positive(config, "num_latents", file)
    k = weights.positive({"k": _K} | config, "k", file)
    if k > count:
        raise InputError(f"{file}: k={k} is more than num_latents={count}")
    shapes = {
        "encoder.weight": (count, width),
        "encoder.bias": (count,),
        "W_dec": (count, width),
        "b_dec": (width,),
    } | ({"W_skip": (width, width)} if skip else {})
    tensors = weights.read_safetensors(path / WEIGHTS)
    if extra := sorted(set(tensors) - set(shapes)):
        raise InputError(
            f"{path / WEIGHTS}: extra tensor {', '.join(extra)}; skip_connection={skip}"
        )
    read = {
        name: weights.tensor(tensors, name, shape, path / WEIGHTS) for name, shape in shapes.items()
    }
    own = config.get("metadata", {})
    if not isinstance(own, dict):
        raise InputError(f"{file}: metadata={own!r} must be a JSON object")
    return Sae(
        w_enc=np.ascontiguousarray(read["encoder.weight"].T),
        b_enc=read["encoder.bias"],
        w_dec=read["W_dec"],
        b_dec=read["b_dec"],
        w_skip=read.get("W_skip"),
        k=k,
        transcoder=transcode or skip,
        apply_b_dec_to_input=True if skip and not transcode else None,
        metadata=weights.metadata(_place(path) | own),
    )


def _place(path: Path) -> dict[str, str | int]:
    """What the folder's name and the run around it say."""
    folder = path.absolute()
    entries: dict[str, str | int] = {}
    seed = re.fullmatch(r"seed(\d+)", folder.name)
    if seed:
        entries["seed"] = int(seed[1])
        folder = folder.parent
    if re.fullmatch(r"\w+\.\d+(\.\w+)*|embed_tokens|embed_in", folder.name):
        entries["hookpoint"] = folder.name
    run = {}
    # It may not be there, or be another program's.
    with contextlib.suppress(InputError):
        run = weights.read_config(folder.parent / "config.json")
    if not isinstance(run.get("sae"), dict):
        return entries
    for theirs, ours in _RUN_SETTINGS.items():
        if isinstance(run.get(theirs), str | int):
            entries[ours] = run[theirs]
    seeds = run.get("init_seeds")
    if isinstance(seeds, list) and len(seeds) == 1 and isinstance(seeds[0], int):
        entries.setdefault("seed", seeds[0])
    return entries
