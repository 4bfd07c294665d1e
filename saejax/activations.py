"""From text to activations: what the loader reads, and how a batch of it becomes activations."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from saejax import mesh as mesh_lib
from saejax.config import Config
from saejax.data.corpus import read_windows
from saejax.data.loader import Batch, WindowSource, num_steps
from saejax.data.store import ActivationStore, is_complete, write_store
from saejax.lm import (
    check_hookpoint,
    hook_width,
    layers_needed,
    load_config,
    load_lm,
    load_tokenizer,
    make_capture,
)
from saejax.train.loop import Activations


def open_activations(
    cfg: Config, hookpoints: tuple[str, ...], store: Path, mesh: Mesh
) -> tuple[WindowSource, Activations]:
    """The windows of a run, and a function from a batch of them to activations on the mesh.

    With `data.activations=store` the activations are written first, where they are not yet there,
    and the language model is gone from memory afterwards.

    Args:
      cfg: The run: its `lm` and `data`.
      hookpoints: Where to read; its own hook point is not looked at.
      store: Folder of the activation store.
      mesh: Devices.

    Returns:
      What `make_batches` takes, and a function from a batch to {hook point: [B, D]}.

    Raises:
      InputError: If the model, the text or a hook point cannot be read, or the corpus does not
        fill a batch.
    """
    on_data = NamedSharding(mesh, mesh_lib.BATCH)
    stored = cfg.data.activations == "store"
    describes = {"lm": dataclasses.asdict(cfg.lm), "data": dataclasses.asdict(cfg.data)}
    if not (stored and is_complete(store, hookpoints, describes)):
        lm_config = load_config(cfg.lm.source)
        for hookpoint in hookpoints:
            check_hookpoint(lm_config, hookpoint)
        tokenizer = load_tokenizer(cfg.lm.source)
        windows_WL = read_windows(cfg.data, tokenizer, vocab_size=lm_config.vocab_size)
        num_steps(cfg, len(windows_WL))
        lm = load_lm(
            cfg.lm.source,
            dtype=cfg.lm.dtype,
            num_layers=max(layers_needed(lm_config, hookpoint) for hookpoint in hookpoints),
        )
        capture_on_mesh = make_capture(lm, hookpoints, mesh=mesh)

        def capture(tokens_WL: Batch) -> dict[str, jax.Array]:
            assert isinstance(tokens_WL, np.ndarray)
            return capture_on_mesh(jax.device_put(tokens_WL, on_data))

        if not stored:
            skip = cfg.data.skip_tokens
            return windows_WL, lambda batch: {
                name: _flat(x[:, skip:]) for name, x in capture(batch).items()
            }
        mesh_lib.check_divides(mesh, mesh_lib.DATA, **{"lm.batch_windows": cfg.lm.batch_windows})
        write_store(
            store,
            windows_WL,
            capture,
            widths={hookpoint: hook_width(lm_config, hookpoint) for hookpoint in hookpoints},
            skip_tokens=cfg.data.skip_tokens,
            dtype=cfg.data.store_dtype,
            batch_windows=cfg.lm.batch_windows,
            describes={**describes, "lm_fingerprint": lm.fingerprint},
        )

    def from_store(batch: Batch) -> dict[str, jax.Array]:
        assert isinstance(batch, dict)
        return {name: _flat(jax.device_put(x, on_data)) for name, x in batch.items()}

    return ActivationStore(store, hookpoints), from_store


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])
