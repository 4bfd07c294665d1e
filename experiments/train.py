"""Trains the autoencoders of a run: many seeds at once, on the same tokens in the same order.

    python experiments/train.py --config=configs/quickstart.py --workdir=runs/quickstart

Called again, it continues where it stopped. Any field of the configuration can be set, as in
--config.sae.k=32; saejax/config.py says what each one means.
"""

from collections.abc import Sequence

from absl import flags

from saejax import cli
from saejax.config import Config
from saejax.lm import hookpoints, load_config
from saejax.memory import keep_pages
from saejax.processes import is_first
from saejax.run import train_run
from saejax.rundir import RunDir, open_run
from saejax.sae.sae import Sae
from saejax.train.loggers import LOGGERS, make_logger

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "Run directory, made if needed.")
_LIST = flags.DEFINE_bool("list_hookpoints", False, "Print the model's hook points and stop.")
flags.register_multi_flags_validator(
    ["workdir", "list_hookpoints"],
    lambda values: bool(values["workdir"] or values["list_hookpoints"]),
    message="--workdir is missing: name a run directory, made if needed",
)
_LOGGER = flags.DEFINE_enum(
    "logger", "none", LOGGERS, "Where training metrics go besides metrics.jsonl."
)


def configured() -> Config | None:
    """The configuration of the flags; None if they ask for hook points, which are printed."""
    keep_pages()
    cfg = cli.config(_CONFIG)
    if not _LIST.value:
        return cfg
    print(*hookpoints(load_config(cfg.lm.source)), sep="\n")
    return None


def train_seeds(cfg: Config) -> tuple[RunDir, dict[int, Sae]]:
    """The run directory that the flags name, and its autoencoders, trained as far as needed."""
    run = open_run(cfg, _WORKDIR.value)
    logger = make_logger(_LOGGER.value, cfg, run) if is_first() else None
    return run, train_run(cfg, run, logger)


def main(argv: Sequence[str]) -> None:
    """Trains and exports."""
    del argv
    if (cfg := configured()) is not None:
        run, saes = train_seeds(cfg)
        for seed in saes:
            print(f"seed {seed}: {run.sae(cfg.hookpoint, seed)}")


if __name__ == "__main__":
    cli.run(main, several="allowed")
