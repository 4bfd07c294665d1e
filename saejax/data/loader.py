"""Batches in an order that depends on the data seed and the step, and nothing else.

Letters: W windows, L tokens of a window, D activation width.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from saejax.config import Config, tokens_per_batch, windows_per_batch
from saejax.data.corpus import Windows
from saejax.data.store import ActivationStore
from saejax.errors import InputError

# Windows by number: token ids [L], or stored activations [L, D] by hook point.
WindowSource = ActivationStore | Windows | np.ndarray


class TokenBlock(NamedTuple):
    """What a step takes from a shuffle buffer.

    Attributes:
      number: Of the block of consecutive steps whose tokens are mixed.
      batches: Token ids [windows, L] of each of these steps, or this process's part of them.
      take_B: Which tokens of the block the step takes: positions in its whole batches, one after
        the other, without what `data.skip_tokens` drops.
    """

    number: int
    batches: tuple[np.ndarray, ...]
    take_B: np.ndarray


# Of several windows.
Batch = np.ndarray | dict[str, np.ndarray] | TokenBlock

# Reader threads and batches read ahead: a batch of stored activations is a few memory-mapped
# rows, so a few threads hide the disk.
_READ_OPTIONS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)


def num_steps(cfg: Config, num_windows: int) -> int:
    """Steps of a run: all epochs, cut into batches; the last incomplete batch is dropped.

    Raises:
      InputError: If all epochs together do not fill a batch.
    """
    steps = num_windows * cfg.data.epochs // windows_per_batch(cfg)
    if not steps:
        raise InputError(
            f"train.batch_tokens={cfg.train.batch_tokens} is {windows_per_batch(cfg)} windows, "
            f"but the corpus has {num_windows} in {cfg.data.epochs} epochs; lower it or add text"
        )
    return steps


def make_batches(
    cfg: Config,
    source: WindowSource,
    *,
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.DatasetIterator[Batch]:
    """An iterator over batches whose position can be saved and restored.

    A batch is token ids [windows, L], or by hook point activations [windows, L, D], or [tokens, D]
    where single tokens are shuffled, or a `TokenBlock` with `data.shuffle_buffer_batches`. With
    `data.order="shuffled"` the windows of each epoch have an order of their own, a function of
    (`data_seed`, epoch); "shuffled_tokens" orders all tokens of a store so; with "in_order"
    windows come as in the corpus. A batch may span the end of an epoch. Neither the seeds of
    the autoencoders nor the devices have any say: of several processes each reads its part of
    every batch, and the parts in the order of the processes are the batch of a single one.

    Args:
      cfg: The run.
      source: Windows, indexable at random; an `ActivationStore` for "shuffled_tokens".
      process_index: Which part is read; that of this process unless given.
      process_count: Into how many equal parts a batch is cut; the number of processes unless given.

    Raises:
      InputError: If a batch cannot be cut so, or the corpus does not fill one.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if windows_per_batch(cfg) % count:
        raise InputError(
            f"train.batch_tokens={cfg.train.batch_tokens} is {windows_per_batch(cfg)} windows of "
            f"{cfg.data.context_length} tokens, which {count} processes cannot share equally; "
            f"choose a multiple of {count * cfg.data.context_length}"
        )
    if cfg.data.order == "shuffled_tokens":
        assert isinstance(source, ActivationStore), "checked by saejax.config_check"
        read = functools.partial(_shuffled_tokens, source, cfg.data_seed)
        per_batch = tokens_per_batch(cfg)
    else:
        order = grain.MapDataset.range(len(source)).seed(cfg.data_seed)
        order = order.shuffle() if cfg.data.order == "shuffled" else order
        read = functools.partial(_windows, source, order.repeat(cfg.data.epochs))
        per_batch = windows_per_batch(cfg)
    part = per_batch // count

    def of_step(step: int) -> Batch:
        start = step * per_batch + index * part
        return read(range(start, start + part))

    steps = num_steps(cfg, len(source))
    blocks = cfg.data.shuffle_buffer_batches
    dataset = grain.MapDataset.range(steps).map(_blocks(cfg, of_step, steps) if blocks else of_step)
    return iter(dataset.to_iter_dataset(_READ_OPTIONS))


def _windows(source: WindowSource, order: grain.MapDataset, positions: range) -> Batch:
    """The windows at some positions of all epochs, stacked."""
    numbers: list[Any] = [order[position] for position in positions]
    if isinstance(source, ActivationStore):
        windows = [source[number] for number in numbers]
        return {name: np.stack([window[name] for window in windows]) for name in windows[0]}
    return np.stack([source[number] for number in numbers])


def _shuffled_tokens(
    store: ActivationStore, data_seed: int, positions: range
) -> dict[str, np.ndarray]:
    """Activations [tokens, D] at some positions of all shuffled epochs."""
    epoch, within = np.divmod(np.asarray(positions), store.num_tokens)
    orders = [
        _token_order(data_seed, int(e), store.num_tokens)[within[epoch == e]]
        for e in np.unique(epoch)
    ]
    return store.tokens(np.concatenate(orders))


# A batch spans at most two epochs unless it is larger than one.
@functools.lru_cache(maxsize=2)
def _token_order(data_seed: int, epoch: int, num_tokens: int) -> np.ndarray:
    """A permutation of the tokens for an epoch: 8 bytes a token."""
    return np.random.default_rng((data_seed, epoch)).permutation(num_tokens)


def _blocks(cfg: Config, of_step: Callable[[int], Any], steps: int) -> Callable[[int], TokenBlock]:
    """A function from a step to its part of a block of the shuffle buffer."""
    size, tokens = cfg.data.shuffle_buffer_batches, tokens_per_batch(cfg)

    # The steps of a block share its batches and its order, which several threads ask for.
    @functools.lru_cache(maxsize=2)
    def block(number: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        within = range(number * size, min((number + 1) * size, steps))
        order = np.random.default_rng((cfg.data_seed, number)).permutation(len(within) * tokens)
        return tuple(of_step(step) for step in within), order

    def part(step: int) -> TokenBlock:
        number, at = divmod(step, size)
        batches, order = block(number)
        return TokenBlock(number, batches, order[at * tokens : (at + 1) * tokens])

    return part
