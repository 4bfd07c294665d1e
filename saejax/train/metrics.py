"""Training metrics: checked, shown, and appended to metrics.jsonl."""

import json
import math
from collections.abc import Callable
from pathlib import Path

from saejax.errors import InputError
from saejax.files import atomic_write, explain_os_errors

# Metrics of one step: a number per seed, in the order of `init_seeds`, or one for all.
Record = dict[str, float | list[float]]


class NonFiniteError(InputError):
    """Training stopped because activations, the loss or a gradient are not finite."""


def check_finite(
    record: Record, *, step: int, seeds: tuple[int, ...], kept: Callable[[], str]
) -> None:
    """Raises `NonFiniteError` if a metric is NaN or infinite.

    Args:
      record: Metrics of the step.
      step: The step.
      seeds: Names the entries of a metric that has one number a seed.
      kept: Says which checkpoint is the last good one; called only to tell it.
    """
    if not math.isfinite(record["train/total_variance"]):  # pyright: ignore[reportArgumentType]
        raise NonFiniteError(
            f"step {step}: the activations are not finite; check the model and lm.dtype. {kept()}"
        )
    for name, values in record.items():
        for seed, value in zip(seeds, values if isinstance(values, list) else [], strict=False):
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"step {step}: {name} of seed {seed} is {value}; lower train.lr_scale, or "
                    f"the limit train.grad_clip. {kept()}"
                )


class MetricsLog:
    """Appends metrics to a JSONL file, one object a line.

    Args:
      path: The file. Lines of `first_step` and later are dropped: they belong to an earlier
        process that went further than the checkpoint it left.
      first_step: The step that comes next.
    """

    def __init__(self, path: Path, *, first_step: int):
        kept: list[str] = []
        if path.exists():
            for line in path.read_text().splitlines():
                # A line cut short by a crash can only be the last one.
                if line.endswith("}") and json.loads(line)["step"] < first_step:
                    kept.append(line)
        with atomic_write(path) as file:
            file.write("".join(line + "\n" for line in kept).encode())
        self._path = path

    def write(self, record: Record | dict[str, object]) -> None:
        """Adds a line; it is on its way to the disk when this returns."""
        with explain_os_errors(self._path), self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")
