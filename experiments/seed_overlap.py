"""The main job: train the seeds, match every pair, analyse, and write the report.

    python experiments/seed_overlap.py --config=configs/quickstart.py --workdir=runs/quickstart

Called again, it does only what is missing. Any field of the configuration can be set, as in
--config.init_seeds=1,2,3,4 or --config.sae.num_latents=4096; saejax/config.py says what each
one means.
"""

from collections.abc import Sequence

import train
from absl import flags

from saejax import cli
from saejax.analyses import QUICK_STAGES, analyze
from saejax.analysis.summary import summary
from saejax.errors import InputError
from saejax.processes import is_first
from saejax.report import write_report
from saejax.run import overlap_run

flags.adopt_module_key_flags(train)


def main(argv: Sequence[str]) -> None:
    """Trains, matches, analyses, reports."""
    del argv
    cfg = train.configured()
    if cfg is None:
        return
    if len(cfg.init_seeds) < 2:
        raise InputError(f"init_seeds={cfg.init_seeds}: overlap needs at least two seeds")
    run, saes = train.train_seeds(cfg)
    overlap = overlap_run(cfg, run, saes)
    print(summary("overlap", overlap))
    for outcome in analyze(cfg, run, saes, QUICK_STAGES):
        if outcome.record is None:
            print(f"{outcome.stage}: {outcome.reason}")
        else:
            print(summary(outcome.stage, outcome.record))
    if is_first():
        print(f"report: {write_report(run.root)}")


if __name__ == "__main__":
    cli.run(main, several="allowed")
