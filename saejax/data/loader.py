"""Batches of windows in an order that depends on the data seed and the step, and nothing else."""

import grain
import numpy as np

from saejax.config import Config, windows_per_batch
from saejax.errors import InputError

# Reader threads and batches read ahead: a batch of stored activations is a few memory-mapped
# rows, so a few threads hide the disk.
_READ_OPTIONS = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)


# Windows by number: token ids [L], or stored activations [L', D].
WindowSource = grain.sources.RandomAccessDataSource


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


def make_batches(cfg: Config, source: WindowSource) -> grain.DatasetIterator[np.ndarray]:
    """An iterator over batches [windows, ...] whose position can be saved and restored.

    With `data.order="shuffled"` each epoch has an order of its own, a function of
    (`data_seed`, epoch); with "in_order" windows come as in the corpus. A batch may span the
    end of an epoch. Neither the seeds of the autoencoders nor the devices have any say.

    Args:
      cfg: The run.
      source: Windows, indexable at random.
    """
    dataset = grain.MapDataset.source(source).seed(cfg.data_seed)
    if cfg.data.order == "shuffled":
        dataset = dataset.shuffle()
    dataset = dataset.repeat(cfg.data.epochs).batch(windows_per_batch(cfg), drop_remainder=True)
    return iter(dataset.to_iter_dataset(_READ_OPTIONS))

