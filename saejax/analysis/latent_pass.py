"""One pass over windows of text that sums up what the latents of all seeds do, and can go on.

A window is encoded in segments of at most 256 tokens, with the 24 tokens around it that contexts
need, so that the codes of all seeds are held for one segment at a time: S x 280 x N floats, and at
most as many again for each pair (280 x N floats are 1 MB at N = 1,024 and 147 MB at 131,072). What
is kept between batches is 396 bytes a latent and seed, and 16 a latent and pair.

Dimension letters: S seeds, B windows of a batch, L tokens of a window, T tokens of a segment with
those around it, D activation width, N latents.
"""

import functools
import signal
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from saejax.analysis import contexts
from saejax.analysis.cofiring import Cofiring, cofiring, no_cofiring
from saejax.analysis.contexts import AFTER, BEFORE, Peaks
from saejax.analysis.firing import Firing, firing, no_firing
from saejax.analysis.text import Read
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.progress import Progress
from saejax.sae.sae import Sae, encode_dense
from saejax.train.interrupt import Interrupted, SignalFlag

# Tokens of a segment, without those around it.
_SEGMENT = 256
_SECONDS_BETWEEN_SAVES = 60.0


class Pair(NamedTuple):
    """Two autoencoders of the pass.

    Attributes:
      a: Which one.
      b: Which other one.
      target: [N] the partner in b of each latent of a.
    """

    a: int
    b: int
    target: np.ndarray


class Totals(NamedTuple):
    """What a pass has found so far.

    Attributes:
      windows: How many were read.
      tokens: Positions that count.
      firing: Of each autoencoder.
      cofiring: Of each pair, by the latents of a.
      peaks: Of each autoencoder.
    """

    windows: Any
    tokens: Any
    firing: tuple[Firing, ...]
    cofiring: tuple[Cofiring, ...]
    peaks: tuple[Peaks, ...]


def run_pass(
    saes: Sequence[Sae],
    pairs: Sequence[Pair],
    read: Read,
    numbers: Int[np.ndarray, " W"],
    *,
    batch_windows: int,
    partial: Path,
    inputs: str,
) -> Totals:
    """Sums over all tokens of some windows.

    What was found is saved about every minute, and a pass of the same inputs goes on from there
    with the same numbers as one that was never stopped. The file is left for the caller to delete.

    Args:
      saes: Autoencoders of the same width.
      pairs: Which latents to compare.
      read: Activations of windows.
      numbers: Which windows, ascending.
      batch_windows: How many to read at once.
      partial: File for what was found.
      inputs: Identifies everything that decides the result.

    Raises:
      InputError: If an activation is not finite, or the file cannot be read or written.
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
    """
    counts = [sae.num_latents for sae in saes]
    held = Totals(
        np.int64(0),
        np.int64(0),
        tuple(map(no_firing, counts)),
        tuple(no_cofiring(counts[pair.a]) for pair in pairs),
        tuple(map(contexts.no_peaks, counts)),
    )
    held = _restored(held, partial, inputs)
    on_device = jax.device_put(tuple(saes))
    targets = jax.device_put(tuple(jnp.asarray(pair.target) for pair in pairs))
    places = tuple((pair.a, pair.b) for pair in pairs)
    saved = time.monotonic()
    bar = Progress("read latents", total=len(numbers), initial=int(held.windows), unit="windows")
    with SignalFlag() as stop, bar as progress:
        while held.windows < len(numbers):
            some = numbers[int(held.windows) :][:batch_windows]
            # A short last batch is filled up, so that one compiled shape serves all.
            numbers_B = np.resize(some, batch_windows)
            x_BLD, keep_BL = read(numbers_B)
            keep_BL = np.array(keep_BL)
            keep_BL[len(some) :] = False
            found, peaks, finite = _batch(
                on_device, targets, held.peaks, x_BLD, keep_BL, numbers_B, places=places
            )
            if not finite:
                raise InputError(
                    f"windows {some[0]} to {some[-1]} have activations that are not finite: the "
                    "model's weights or its dtype are at fault; try lm.dtype=float32"
                )
            fired, fired_together = jax.tree.map(
                lambda total, part: total + np.asarray(part, total.dtype),
                (held.firing, held.cofiring),
                found,
            )
            held = Totals(
                held.windows + len(some),
                held.tokens + np.int64(keep_BL.sum()),
                fired,
                fired_together,
                peaks,
            )
            progress.advance(len(some))
            if stop.signum is not None or time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                _save(held, partial, inputs)
                saved = time.monotonic()
            if stop.signum is not None:
                raise Interrupted(
                    f"{signal.Signals(stop.signum).name}: stopped at window {held.windows} of "
                    f"{len(numbers)}, saved in {partial}; run the same command again to continue",
                    stop.signum,
                )
    return held


@functools.partial(jax.jit, static_argnames="places")
def _batch(
    saes: tuple[Sae, ...],
    targets: tuple[Int[Array, " N"], ...],
    peaks: tuple[Peaks, ...],
    x_BLD: Float[Array, "B L D"],
    keep_BL: Bool[Array, "B L"],
    numbers_B: Int[Array, " B"],
    places: tuple[tuple[int, int], ...],
) -> tuple[Any, tuple[Peaks, ...], Bool[Array, ""]]:
    """Sums over a batch, peaks so far, and whether all activations are finite."""
    finite = jnp.isfinite(x_BLD).all(where=keep_BL[..., None])
    length = x_BLD.shape[1]
    segments = -(-length // _SEGMENT)
    size = -(-length // segments)
    # The tokens around the first and last segment, which do not count.
    padding = (BEFORE, segments * size - length + AFTER)
    x_BLD = jnp.pad(x_BLD, ((0, 0), padding, (0, 0)))
    keep_BL = jnp.pad(keep_BL, ((0, 0), padding))

    def of_segment(carry: Any, start: Array, x_LD: Array, keep_L: Array) -> tuple[Any, None]:
        sums, largest = carry
        x_TD = lax.dynamic_slice_in_dim(x_LD, start, size + BEFORE + AFTER)
        keep_T = lax.dynamic_slice_in_dim(keep_L, start, size + BEFORE + AFTER)
        codes = [
            jnp.where(keep_T[:, None], encode_dense(sae, x_TD.astype(jnp.float32)), 0.0)
            for sae in saes
        ]
        own = [code_TN[BEFORE:-AFTER] for code_TN in codes]
        new = (
            tuple(map(firing, own)),
            tuple(
                cofiring(own[a], own[b][:, target_N])
                for (a, b), target_N in zip(places, targets, strict=True)
            ),
        )
        sums = jax.tree.map(jnp.add, sums, new)
        largest = tuple(
            contexts.larger(before, contexts.peak_of_segment(code_TN, start))
            for before, code_TN in zip(largest, codes, strict=True)
        )
        return (sums, largest), None

    def of_window(carry: Any, part: tuple[Array, Array, Array]) -> tuple[Any, None]:
        sums, peaks = carry
        x_LD, keep_L, number = part
        none = tuple(contexts.no_peak(sae.num_latents) for sae in saes)
        (sums, largest), _ = lax.scan(
            lambda carry, start: of_segment(carry, start, x_LD, keep_L),
            (sums, none),
            jnp.arange(segments, dtype=jnp.int32) * size,
        )
        peaks = tuple(
            contexts.insert(held, new, number) for held, new in zip(peaks, largest, strict=True)
        )
        return (sums, peaks), None

    counts = [sae.num_latents for sae in saes]
    nothing = jax.tree.map(
        lambda x: jnp.zeros(x.shape, jnp.int32 if x.dtype == np.int64 else jnp.float32),
        (tuple(map(no_firing, counts)), tuple(no_cofiring(counts[a]) for a, _ in places)),
    )
    (sums, peaks), _ = lax.scan(of_window, (nothing, peaks), (x_BLD, keep_BL, numbers_B))
    return sums, peaks, finite


def _save(held: Totals, path: Path, inputs: str) -> None:
    leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(held))}
    with atomic_write(path) as file:
        np.savez(file, allow_pickle=False, inputs=np.array(inputs), **leaves)


def _restored(start: Totals, path: Path, inputs: str) -> Totals:
    """What an earlier pass of the same inputs saved, or the start."""
    if not path.exists():
        return start
    leaves, structure = jax.tree.flatten(start)
    try:
        # numpy leaves a damaged archive open that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as parts:
            if str(parts["inputs"]) != inputs:
                return start
            return jax.tree.unflatten(structure, [parts[str(i)] for i in range(len(leaves))])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it to start anew") from None
