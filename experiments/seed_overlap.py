"""The main job: train the seeds, match every pair, and write the report.

    python experiments/seed_overlap.py --config=configs/quickstart.py --workdir=runs/quickstart

Called again, it does only what is missing. Any field of the configuration can be set, as in
--config.init_seeds=1,2,3,4 or --config.sae.num_latents=4096; saejax/config.py says what each
one means.
"""

from collections.abc import Sequence

from absl import flags

from saejax import cli
from saejax.analysis.overlap import overlap_table
from saejax.errors import InputError
from saejax.lm import hookpoints, load_config
from saejax.memory import keep_pages
from saejax.report import write_report
from saejax.run import overlap_run, train_run
from saejax.rundir import open_run
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


def main(argv: Sequence[str]) -> None:
    """Trains, matches, reports."""
    del argv
    keep_pages()
    cfg = cli.config(_CONFIG)
    if _LIST.value:
        print(*hookpoints(load_config(cfg.lm.source)), sep="\n")
        return
    if len(cfg.init_seeds) < 2:
        raise InputError(f"init_seeds={cfg.init_seeds}: overlap needs at least two seeds")
    run = open_run(cfg, _WORKDIR.value)
    logger = make_logger(_LOGGER.value, cfg, run)
    overlap = overlap_run(cfg, run, train_run(cfg, run, logger))
    print(overlap_table(overlap["pairs"]))
    print(f"report: {write_report(run.root)}")


if __name__ == "__main__":
    cli.run(main)
