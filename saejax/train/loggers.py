"""Metrics to Weights & Biases, besides metrics.jsonl."""

import dataclasses
import os
import secrets
from types import TracebackType
from typing import Any, Self

from saejax.config import Config
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.rundir import RunDir

# Values of --logger.
LOGGERS = ("none", "wandb")


def make_logger(name: str, cfg: Config, run: RunDir) -> "WandbLogger | None":
    """The logger of a name in `LOGGERS`.

    Raises:
      InputError: If its package is missing.
    """
    return WandbLogger(cfg, run) if name == "wandb" else None


class WandbLogger:
    """Sends metrics to one Weights & Biases run, to the same one after a restart.

    Use as a context manager around the training; nothing is sent before it. The W&B run has the
    name of the run directory and the whole configuration, is in the project `WANDB_PROJECT`
    ("saejax" unless set), and has its id in `<run>/wandb/run_id`. W&B's own files are there as
    well, and all of W&B's environment variables work, such as `WANDB_MODE=offline`.

    Args:
      cfg: The run.
      run: Its directory.

    Raises:
      InputError: If the package `wandb` is missing.
    """

    def __init__(self, cfg: Config, run: RunDir):
        try:
            # Names, since a folder `wandb` in the path would pass for the package.
            from wandb import Error, init  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(
                "--logger=wandb needs the package wandb, which is not installed: run "
                "`pip install wandb`, or leave the flag out"
            ) from None
        self._init, self._error = init, Error
        self._cfg, self._dir = cfg, run
        self._run: Any = None

    def write(self, record: dict[str, Any]) -> None:
        """Sends a record of metrics.jsonl; a list has a number a seed, as `train/fvu/seed1`.

        Steps that W&B has from before a restart are not sent again: they are the same.
        """
        if record["step"] < self._run.step:
            return
        flat: dict[str, Any] = {}
        for name, value in record.items():
            if isinstance(value, list):
                seeds = zip(self._cfg.init_seeds, value, strict=True)
                flat |= {f"{name}/seed{seed}": v for seed, v in seeds}
            else:
                flat[name] = value
        self._run.log(flat, step=record["step"])

    def _run_id(self) -> str:
        path = self._dir.root / "wandb" / "run_id"
        if not path.exists():
            with atomic_write(path) as file:
                file.write(secrets.token_hex(8).encode())
        return path.read_text()

    def __enter__(self) -> Self:
        root = self._dir.root.resolve()
        try:
            self._run = self._init(
                project=os.environ.get("WANDB_PROJECT", "saejax"),
                name=root.name,
                dir=root,
                id=self._run_id(),
                resume="allow",
                config=dataclasses.asdict(self._cfg),
            )
        except self._error as error:
            raise InputError(
                f"--logger=wandb: {str(error).splitlines()[0]}; WANDB_MODE=offline keeps the "
                "metrics on this machine, for `wandb sync` later"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)
