"""The text of a run and its activations, any windows at a time: from its store, or its model.

Dimension letters: B windows, L tokens of a window that the autoencoders are given, D width.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from saejax.config import Config
from saejax.config_json import flatten
from saejax.data.corpus import Windows, read_windows
from saejax.data.exclude import Kept, excludes, keep_tokens
from saejax.data.shards import (
    HEADER,
    check_header,
    read_header,
)
from saejax.data.store import ActivationStore, tokens_sha256
from saejax.errors import InputError
from saejax.lm import (
    Tokenizer,
    check_hookpoint,
    layers_needed,
    lm_fingerprint,
    load_config,
    load_lm,
    load_tokenizer,
    make_capture,
)
from saejax.rundir import RunDir

# Window numbers [B] to activations [B, L, D] and which positions count [B, L].
Read = Callable[[Int[np.ndarray, " B"]], tuple[Array | np.ndarray, Array | np.ndarray]]


class Text(NamedTuple):
    """The windows of a run.

    Attributes:
      windows: Token ids.
      tokenizer: Of the model.
      tokens_per_window: L, without `data.skip_tokens`.
      width: D, of the model.
    """

    windows: Windows
    tokenizer: Tokenizer
    tokens_per_window: int
    width: int


def open_text(cfg: Config) -> Text:
    """Opens the windows that a run trains on, in the order of the corpus.

    Raises:
      InputError: If the model or the text cannot be read.
    """
    tokenizer = load_tokenizer(cfg.lm.source)
    lm_config = load_config(cfg.lm.source)
    windows_WL = read_windows(cfg.data, tokenizer, vocab_size=lm_config.vocab_size)
    kept = cfg.data.context_length - cfg.data.skip_tokens
    return Text(windows_WL, tokenizer, kept, lm_config.d_model)


def chosen_windows(cfg: Config, text: Text, num_tokens: int) -> Int[np.ndarray, " W"]:
    """Numbers of the windows to read, ascending: the first with "in_order", else spread evenly.

    Raises:
      InputError: If the tokens do not fill a window.
    """
    wanted = num_tokens // text.tokens_per_window
    if wanted < 1:
        raise InputError(
            f"tokens={num_tokens}: a window has {text.tokens_per_window}; ask for at least as many"
        )
    available = len(text.windows)
    count = min(wanted, available)
    every = np.arange(count)
    return every if cfg.data.order == "in_order" else every * available // count


def open_reader(cfg: Config, run: RunDir | None, text: Text) -> tuple[Read, str]:
    """A function that reads activations, and where it has them from: "store" or "model".

    The store of the run serves where it is whole; without a run, the model. Where
    `data.exclude_special_tokens` or `data.max_norm_multiple` leave positions out, the model is run,
    since a store has others in their places, which would count twice; norms are those at
    `cfg.hookpoint`.

    Raises:
      InputError: If the model cannot be read, or a store is of something else.
    """
    store = None if run is None or excludes(cfg.data) else _whole_store(cfg, run, text)
    if store is not None:

        def from_store(numbers_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x_BLD = np.stack([store[int(number)][cfg.hookpoint] for number in numbers_B])
            return x_BLD, np.ones(x_BLD.shape[:2], bool)

        return from_store, "store"
    lm_config = load_config(cfg.lm.source)
    check_hookpoint(lm_config, cfg.hookpoint)
    num_layers = layers_needed(lm_config, cfg.hookpoint)
    lm = load_lm(cfg.lm.source, dtype=cfg.lm.dtype, num_layers=num_layers)
    capture = make_capture(lm, [cfg.hookpoint])
    special_ids = np.array(text.tokenizer.special_ids)

    @jax.jit
    def keep(tokens_BL: Array, captured: dict[str, Array]) -> Kept:
        return keep_tokens(
            tokens_BL, captured, cfg.data, special_ids=special_ids, norms_of=cfg.hookpoint
        )

    def from_model(numbers_B: np.ndarray) -> tuple[Array, Array]:
        tokens_BL = jnp.asarray(np.stack([text.windows[int(n)] for n in numbers_B]))
        kept = keep(tokens_BL, capture(tokens_BL))
        return kept.activations[cfg.hookpoint], ~kept.replaced_BL

    return from_model, "model"


def _whole_store(cfg: Config, run: RunDir, text: Text) -> ActivationStore | None:
    """The store of the run, if it has all of its shards as they were written."""
    path = run.activations / cfg.hookpoint
    if not (path / HEADER).exists():
        return None
    header = read_header(path)
    decisive = {name: value for name, value in flatten(cfg).items() if name in header}
    made_from = {
        "tokens_sha256": tokens_sha256(text.windows),
        "lm_fingerprint": lm_fingerprint(cfg.lm.source),
    }
    check_header(path, header, header | decisive | made_from)
    try:
        store = ActivationStore(run.activations, (cfg.hookpoint,))
        store.check()
    except InputError as error:
        warnings.warn(f"{error}; the model is run instead", stacklevel=3)
        return None
    return store
