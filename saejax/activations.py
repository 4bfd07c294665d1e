"""From text to activations: what the loader reads, and how a batch of it becomes activations."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from saejax import mesh as mesh_lib
from saejax.config import Config
from saejax.config_json import flatten
from saejax.data.corpus import Windows, read_windows
from saejax.data.exclude import REPLACED, Kept, excludes, keep_tokens
from saejax.data.loader import Batch, TokenBlock, WindowSource, num_steps
from saejax.data.shuffle_buffer import ShuffleBuffer
from saejax.data.store import (
    ActivationStore,
    begin_store,
    is_complete,
    store_headers,
    write_store,
)
from saejax.lm import (
    DecoderConfig,
    check_hookpoint,
    hook_width,
    layers_needed,
    lm_fingerprint,
    load_config,
    load_lm,
    load_tokenizer,
    make_capture,
)
from saejax.processes import all_succeed, all_true
from saejax.train.loop import Activations

# Fields that decide what a store holds. Those of its text do so by way of the windows, whose
# checksum it has as well; they are here for a message that names them.
_DECISIVE = (
    "lm.",
    "data.source",
    "data.subset",
    "data.split",
    "data.text_field",
    "data.context_length",
    "data.documents",
    "data.bos",
    "data.skip_tokens",
    "data.num_tokens",
    "data.store_dtype",
    "data.exclude_special_tokens",
    "data.max_norm_multiple",
)


def stored(cfg: Config) -> dict[str, Any]:
    """The fields that decide what a store of activations holds, by dotted path."""
    return {path: x for path, x in flatten(cfg).items() if path.startswith(_DECISIVE)}


def open_activations(
    cfg: Config, hookpoints: tuple[str, ...], store: Path, mesh: Mesh, *, norms_of: str
) -> tuple[WindowSource, Activations]:
    """The windows of a run, and a function from a batch of them to activations on the mesh.

    With `data.activations=store` the activations are written first, where they are not yet there,
    and the language model is gone from memory afterwards. Several processes write a part each
    and read from the same folder. A store that is whole is read as it is, if the files of model
    and text are there and still give the same.

    Args:
      cfg: The run: its `lm` and `data`.
      hookpoints: Where to read; its own hook point is not looked at.
      store: Folder of the activation store.
      mesh: Devices.
      norms_of: Hook point of the norms that `data.max_norm_multiple` is about.

    Returns:
      What `make_batches` takes, and a function from a batch, of which each process has the part
      `mesh.batch_part`, to {hook point: [B, D]}; from the model, with tokens excluded, also the
      metric `REPLACED`.

    Raises:
      InputError: If the model, the text or a hook point cannot be read, the corpus does not
        fill a batch, or a store cannot be written.
    """
    if cfg.data.activations == "stream":
        text = _open_text(cfg, hookpoints, norms_of)
        capture = _make_capture(cfg, text, hookpoints, mesh, norms_of)
        return text.windows_WL, _from_text(cfg, capture, mesh)
    to_mesh = _to_mesh(mesh)
    _complete_store(cfg, hookpoints, store, mesh.local_mesh, norms_of)

    def from_store(batch: Batch) -> dict[str, Array]:
        assert isinstance(batch, dict)
        return _flat({name: to_mesh(x) for name, x in batch.items()})

    return ActivationStore(store, hookpoints), from_store


class _Text(NamedTuple):
    """Token windows, and what is known of the model before its weights are read."""

    windows_WL: Windows
    special_ids: np.ndarray
    lm_config: DecoderConfig
    lm_fingerprint: str


def _open_text(cfg: Config, hookpoints: tuple[str, ...], norms_of: str) -> _Text:
    lm_config = load_config(cfg.lm.source)
    for hookpoint in _captured(cfg, hookpoints, norms_of):
        check_hookpoint(lm_config, hookpoint)
    # Before the text, which can take long: this looks whether the weights are whole.
    fingerprint = lm_fingerprint(cfg.lm.source)
    tokenizer = load_tokenizer(cfg.lm.source)
    windows_WL = read_windows(cfg.data, tokenizer, vocab_size=lm_config.vocab_size)
    num_steps(cfg, len(windows_WL))
    return _Text(windows_WL, np.array(tokenizer.special_ids), lm_config, fingerprint)


def _captured(cfg: Config, hookpoints: tuple[str, ...], norms_of: str) -> tuple[str, ...]:
    """Hook points that a pass reads: also that of the norms, if any are looked at."""
    norms = (norms_of,) if cfg.data.max_norm_multiple else ()
    return tuple(dict.fromkeys((*hookpoints, *norms)))


def _make_capture(
    cfg: Config, text: _Text, hookpoints: tuple[str, ...], mesh: Mesh, norms_of: str
) -> Callable[[np.ndarray], Kept]:
    """Loads the model; gives a function from this process's part of a batch to activations."""
    read = _captured(cfg, hookpoints, norms_of)
    lm = load_lm(
        cfg.lm.source,
        dtype=cfg.lm.dtype,
        num_layers=max(layers_needed(text.lm_config, hookpoint) for hookpoint in read),
        mesh=mesh,
    )
    capture_on_mesh = make_capture(lm, read)
    to_mesh = _to_mesh(mesh)

    @jax.jit
    def keep(tokens_WL: Array, captured: Mapping[str, Array]) -> Kept:
        kept = keep_tokens(
            tokens_WL, captured, cfg.data, special_ids=text.special_ids, norms_of=norms_of
        )
        return kept._replace(activations={name: kept.activations[name] for name in hookpoints})

    def capture(tokens_WL: np.ndarray) -> Kept:
        on_mesh_WL = to_mesh(tokens_WL)
        return keep(on_mesh_WL, capture_on_mesh(on_mesh_WL))

    return capture


def _from_text(cfg: Config, capture: Callable[[np.ndarray], Kept], mesh: Mesh) -> Activations:
    """Batches of token ids, or parts of a shuffle buffer, to activations."""

    def by_token(tokens_WL: np.ndarray) -> dict[str, Array]:
        kept = capture(tokens_WL)
        told = {REPLACED: kept.replaced_BL[..., None]} if excludes(cfg.data) else {}
        return _flat({**kept.activations, **told})

    buffer = ShuffleBuffer(by_token, cfg.data.shuffle_buffer_batches, mesh)

    def from_text(batch: Batch) -> dict[str, Array]:
        if isinstance(batch, TokenBlock):
            given = buffer(batch)
        else:
            assert isinstance(batch, np.ndarray)
            given = by_token(batch)
        if REPLACED in given:
            given[REPLACED] = given[REPLACED].mean()
        return given

    return from_text


def _complete_store(
    cfg: Config, hookpoints: tuple[str, ...], store: Path, local_mesh: Mesh, norms_of: str
) -> None:
    """Writes what is missing of a store, each process with a model of its own on its devices."""
    process, processes = jax.process_index(), jax.process_count()
    batch_windows = cfg.lm.batch_windows
    with all_succeed():
        text = _open_text(cfg, hookpoints, norms_of)
        headers = store_headers(
            text.windows_WL,
            widths={name: hook_width(text.lm_config, name) for name in hookpoints},
            tokens_per_window=cfg.data.context_length - cfg.data.skip_tokens,
            dtype=cfg.data.store_dtype,
            batch_windows=batch_windows,
            describes=_describes(cfg, text, norms_of),
        )
        complete = is_complete(store, headers, process_index=process, process_count=processes)
    if all_true(complete):
        return
    with all_succeed():
        mesh_lib.check_divides(local_mesh, mesh_lib.DATA, **{"lm.batch_windows": batch_windows})
        capture = _make_capture(cfg, text, hookpoints, local_mesh, norms_of)
        if process == 0:
            begin_store(store, headers)
    with all_succeed():
        write_store(
            store,
            headers,
            text.windows_WL,
            capture,
            batch_windows=batch_windows,
            process_index=process,
            process_count=processes,
        )


def _describes(cfg: Config, text: _Text, norms_of: str) -> dict[str, Any]:
    """What decides stored activations, besides the windows, by name of the field."""
    decisive = stored(cfg)
    if cfg.data.exclude_special_tokens:
        decisive["special_ids"] = text.special_ids.tolist()
    if cfg.data.max_norm_multiple:
        decisive["norms_of"] = norms_of
    return {**decisive, "lm_fingerprint": text.lm_fingerprint}


def _to_mesh(mesh: Mesh) -> Callable[[np.ndarray], Array]:
    """A function from this process's part of a batch to the whole batch, split over "data"."""
    sharding = NamedSharding(mesh, mesh_lib.BATCH)
    _, parts = mesh_lib.batch_part(mesh)
    return lambda part: jax.make_array_from_process_local_data(
        sharding, part, (parts * len(part), *part.shape[1:])
    )


@jax.jit
def _flat(by_window: Mapping[str, Array]) -> dict[str, Array]:
    """Arrays [..., tokens, D] to [B, D]."""
    return {name: x.reshape(-1, x.shape[-1]) for name, x in by_window.items()}
