"""Batches in an order that depends on the data seed and the step, and nothing else.

Letters: W windows, L tokens of a window, D activation width.
"""

import functools

import grain
import numpy as np

from saejax.config import Config, tokens_per_batch, windows_per_batch
from saejax.data.corpus import Windows
from saejax.data.store import ActivationStore
from saejax.errors import InputError

# Windows by number: token ids [L], or stored activations [L, D] by hook point.
WindowSource = ActivationStore | Windows | np.ndarray
# Of several windows.
Batch = np.ndarray | dict[str, np.ndarray]

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


def make_batches(cfg: Config, source: WindowSource) -> grain.DatasetIterator[Batch]:
    """An iterator over batches whose position can be saved and restored.

    A batch is token ids [windows, L], or by hook point activations [windows, L, D], or [tokens, D]
    where single tokens are shuffled. With
    `data.order="shuffled"` the windows of each epoch have an order of their own, a function of
    (`data_seed`, epoch); "shuffled_tokens" orders all tokens of a store so; with "in_order"
    windows come as in the corpus. A batch may span the end of an epoch. Neither the seeds of
    the autoencoders nor the devices have any say.

    Args:
      cfg: The run.
      source: Windows, indexable at random; an `ActivationStore` for "shuffled_tokens".
    """
    dataset: grain.MapDataset[Batch]
    if cfg.data.order == "shuffled_tokens":
        assert isinstance(source, ActivationStore), "checked by saejax.config_check"
        dataset = grain.MapDataset.range(num_steps(cfg, len(source))).map(
            functools.partial(_shuffled_tokens, source, cfg.data_seed, tokens_per_batch(cfg))
        )
        return iter(dataset.to_iter_dataset(_READ_OPTIONS))
    # The two index types of sources, SupportsIndex and int, are told apart by the checker only.
    dataset = grain.MapDataset.source(source)  # pyright: ignore[reportArgumentType]
    dataset = dataset.seed(cfg.data_seed)
    if cfg.data.order == "shuffled":
        dataset = dataset.shuffle()
    dataset = dataset.repeat(cfg.data.epochs).batch(windows_per_batch(cfg), drop_remainder=True)
    return iter(dataset.to_iter_dataset(_READ_OPTIONS))


def _shuffled_tokens(
    store: ActivationStore, data_seed: int, batch_tokens: int, step: int
) -> dict[str, np.ndarray]:
    """Activations [batch_tokens, D] of a step: the next ones of the shuffled epochs."""
    position = np.arange(step * batch_tokens, (step + 1) * batch_tokens)
    epoch, within = np.divmod(position, store.num_tokens)
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
