"""The latent caches of all seeds of a run, in one pass over its text that can be stopped anywhere.

Dimension letters: B windows, T tokens of a batch, D activation width, N latents, U sequences, L
tokens of a sequence, F firings.
"""

import dataclasses
import itertools
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int32, Int64, UInt

from saejax.analysis.text import Read, Text, chosen_windows, open_reader, open_text
from saejax.config import Config, DataConfig
from saejax.errors import InputError
from saejax.interp.cache import LARGEST, cache_files, open_cache
from saejax.interp.cache_config import begin, config, text_digest
from saejax.interp.cache_parts import count_firings, part_chain, write_part, write_range
from saejax.progress import Progress
from saejax.rundir import RunDir
from saejax.sae.sae import Sae, encode, encode_dense
from saejax.train.interrupt import Interrupted, SignalFlag

# As delphi, and Paulo et al. 2024.
NUM_TOKENS = 10_000_000
_NUM_SPLITS = 5
# Codes of a chunk of tokens before the active ones are chosen: 128 MiB of float32.
_CHUNK_CODES = 2**25
# Firings of all seeds that are held, 14 bytes each, before they are written.
_HELD_FIRINGS = 2**22
_SECONDS_BETWEEN_PARTS = 60.0


def cache_run(
    cfg: Config,
    run: RunDir,
    saes: Mapping[int, Sae],
    folder: Path,
    *,
    num_tokens: int = NUM_TOKENS,
    data: DataConfig | None = None,
    num_splits: int = _NUM_SPLITS,
) -> dict[int, Path]:
    """Writes which latents of every seed fire where, see `saejax.interp.cache`.

    A sequence is a window of the text, with all of its tokens; positions that the autoencoder is
    not given (`data.skip_tokens` and those excluded) have no firings. Codes above 65,504 are stored
    as 65,504, with a warning; those that float16 rounds to 0 (below 3e-8) are left out.

    Stopped at any point, it goes on from the last part, at most about a minute back, when it is
    called again; what is complete is not made again, and seeds may be added. Memory, beside the
    model and a batch of its activations: 128 MiB of codes, and about 50 bytes for each of 4 million
    firings, or of the latent that fires most if it does so more often. Disk, a seed: 8 bytes a
    firing (14 with more than 65,536 windows, or latents in a file) and 40 bytes a token (its id
    in each of five files); before they are sorted, up to 14 bytes a firing more.

    Args:
      cfg: The run.
      run: Its directory.
      saes: The autoencoder of each seed.
      folder: For the folders of the seeds, `<hookpoint>.seed<i>`, and for nothing else: delphi
        takes all that is in it for caches.
      num_tokens: How many to read, rounded down to whole windows: of the text all, or the first
        ones with `data.order="in_order"`, else windows spread evenly.
      data: Another text, which the language model then reads; None: that of the run, from its
        stored activations where they are there.
      num_splits: Files of a seed.

    Returns:
      The folder of each seed, for `open_cache`.

    Raises:
      InputError: If something cannot be read or written or does not belong together, an activation
        is not finite, or a folder holds a cache of something else.
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
    """
    if num_splits < 1:
        raise InputError(f"num_splits={num_splits} must be at least 1")
    own_text = data is None
    cfg = cfg if data is None else dataclasses.replace(cfg, data=data)
    text = open_text(cfg)
    for seed, sae in saes.items():
        if sae.d_model != text.width:
            raise InputError(
                f"seed {seed} reads width {sae.d_model}, but {cfg.lm.source} has width "
                f"{text.width}: they do not belong together"
            )
    numbers = chosen_windows(cfg, text, num_tokens)
    digest = text_digest(cfg, text, numbers)
    seeds = [
        _Seed(cfg, seed, sae, folder, text=text, digest=digest, splits=num_splits, numbers=numbers)
        for seed, sae in saes.items()
    ]
    unfinished = [seed for seed in seeds if seed.missing_ranges()]
    unread = [seed for seed in unfinished if seed.next_sequence < len(numbers)]
    with SignalFlag() as stop:
        if unread:
            read, _ = open_reader(cfg, run if own_text else None, text)
            _collect(unread, read, numbers, text, cfg.lm.batch_windows, stop)
        for seed in unfinished:
            seed.sort(text, numbers, stop)
    for seed in seeds:
        seed.delete_parts()
        open_cache(seed.folder)  # Which writes its index.
    return {seed.seed: seed.folder for seed in seeds}


class _Seed:
    """The cache of one seed as it is made: parts, then files."""

    def __init__(
        self,
        cfg: Config,
        seed: int,
        sae: Sae,
        folder: Path,
        *,
        text: Text,
        digest: str,
        splits: int,
        numbers: Int64[np.ndarray, " U"],
    ):
        self.seed = seed
        # Without what would compile the same code for each seed.
        self.sae = dataclasses.replace(sae, metadata=())
        self.folder = folder / f"{cfg.hookpoint}.seed{seed}"
        self._parts = self.folder / "parts"
        count = sae.num_latents
        bounds = [i * count // splits for i in range(splits + 1)]
        self._ranges = [range(a, b) for a, b in itertools.pairwise(bounds) if a < b]
        begin(self.folder, config(cfg, seed, sae, text, digest, len(numbers), splits))
        _, self.next_sequence = part_chain(self._parts)
        self._held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def missing_ranges(self) -> list[range]:
        """Ranges of latents without a file."""
        there = cache_files(self.folder)
        return [r for r in self._ranges if (r.start, r.stop - 1) not in there]

    def hold(self, firings: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Takes in the firings of a batch, see `_firings`."""
        self._held.append(firings)

    def write_part(self, end: int) -> None:
        """Writes what is held, which is of the sequences before an end."""
        if end > self.next_sequence:
            sequences = range(self.next_sequence, end)
            held = map(np.concatenate, zip(*self._held, strict=True))
            write_part(self._parts, sequences, *held, num_latents=self.sae.num_latents)
            self.next_sequence = end
            self._held = []

    def sort(self, text: Text, numbers: Int64[np.ndarray, " U"], stop: SignalFlag) -> None:
        """Writes the files that are missing."""
        parts, _ = part_chain(self._parts)
        missing = self.missing_ranges()
        total = sum(count_firings(parts, latents) for latents in missing)
        with Progress(f"sort seed {self.seed}", total=total, unit="firings") as progress:

            def on_firings(count: int) -> None:
                progress.advance(count)
                _check(stop)

            for latents in missing:
                path = self.folder / f"{latents.start}_{latents.stop - 1}.safetensors"
                write_range(path, parts, text.windows, numbers, latents, on_firings)
                _check(stop)

    def delete_parts(self) -> None:
        """Deletes what the files have been made of."""
        shutil.rmtree(self._parts, ignore_errors=True)


def _collect(
    seeds: Sequence[_Seed],
    read: Read,
    numbers: Int64[np.ndarray, " U"],
    text: Text,
    batch_windows: int,
    stop: SignalFlag,
) -> None:
    """Writes the parts of all sequences that they do not have yet."""
    length = text.windows.shape[1]
    dtype = np.uint32 if len(numbers) * length < 2**32 else np.uint64
    first = min(seed.next_sequence for seed in seeds)
    on_device = [jax.device_put(seed.sae) for seed in seeds]
    held, written = 0, time.monotonic()
    total, done = len(numbers) * length, first * length
    with Progress("cache latents", total=total, initial=done, unit="tokens") as progress:
        while first < len(numbers):
            some = numbers[first : first + batch_windows]
            # A short last batch is filled up, so that one compiled shape serves all.
            x_BLD, keep_BL = read(np.resize(some, batch_windows))
            keep_BL = np.array(keep_BL)
            keep_BL[len(some) :] = False
            x_TD = jnp.asarray(x_BLD, jnp.float32).reshape(-1, x_BLD.shape[-1])
            if not jnp.isfinite(x_TD).all(where=jnp.asarray(keep_BL).reshape(-1, 1)):
                raise InputError(
                    f"windows {some[0]} to {some[-1]} have activations that are not finite: the "
                    "model's weights or its dtype are at fault; try lm.dtype=float32"
                )
            sequence_B1 = first + np.arange(batch_windows)[:, None]
            position_L = length - x_BLD.shape[1] + np.arange(x_BLD.shape[1])
            token_T = (sequence_B1 * length + position_L[None]).ravel()
            first += len(some)
            for seed, sae in zip(seeds, on_device, strict=True):
                # One whose part was written before another's was, when all was stopped, is ahead.
                if seed.next_sequence < first:
                    new_T = keep_BL.ravel() & (token_T >= seed.next_sequence * length)
                    found = _firings(sae, x_TD, new_T, token_T.astype(dtype))
                    seed.hold(found)
                    held += len(found[0])
            progress.advance(len(some) * length)
            late = time.monotonic() - written > _SECONDS_BETWEEN_PARTS
            stopped = stop.signum is not None
            if held > _HELD_FIRINGS or late or stopped or first == len(numbers):
                for seed in seeds:
                    seed.write_part(first)
                held, written = 0, time.monotonic()
            _check(stop)


def _check(stop: SignalFlag) -> None:
    """Raises `Interrupted` after a signal."""
    if stop.signum is not None:
        raise Interrupted(
            f"{signal.Signals(stop.signum).name}: stopped, with the work saved; run the same "
            "command again to continue",
            stop.signum,
        )


def _firings(
    sae: Sae,
    x_TD: Float[Array, "T D"],
    keep_T: Bool[np.ndarray, " T"],
    token_T: UInt[np.ndarray, " T"],
) -> tuple[Int32[np.ndarray, " F"], UInt[np.ndarray, " F"], Float16[np.ndarray, " F"]]:
    """Latents, tokens and float16 values of the positive codes of tokens, in their order."""
    found = []
    chunk = max(1, _CHUNK_CODES // sae.num_latents)
    for first in range(0, len(x_TD), chunk):
        part_TD, part = x_TD[first : first + chunk], slice(first, first + chunk)
        if sae.k < sae.num_latents:
            value_TK, index_TK = map(np.asarray, encode(sae, part_TD))
        else:
            value_TK, index_TK = np.asarray(encode_dense(sae, part_TD)), None
        half_TK = np.minimum(value_TK, LARGEST).astype(np.float16)
        rows, slots = np.nonzero((half_TK > 0) & keep_T[part, None])
        latent_F = slots if index_TK is None else index_TK[rows, slots]
        found.append((latent_F.astype(np.int32), token_T[part][rows], half_TK[rows, slots]))
    latent_F, token_F, value_F = map(np.concatenate, zip(*found, strict=True))
    return latent_F, token_F, value_F
