"""Ablations: trains runs that differ in some fields, matches their seeds, tabulates all of them.

    python experiments/sweep.py --config=configs/quickstart.py --workdir=runs/k \
        --vary=sae.k=8,16,32,64

Every combination of the values of all --vary flags is a run of its own in the work directory
(`k=8/`, ...), which train.py, seed_overlap.py and report.py can go on with. A pattern of hook
points takes all that it matches, --vary='hookpoint=layers.*.mlp'. Without --vary, the runs are
those that `get_sweep()` of the configuration file names, as in configs/replication.py.

With data.activations=store the language model reads each text once, at all hook points, before
the first run; runs then train one after another. With data.activations=stream those that read the
same tokens train at the same time, in one pass, with all states in memory. With two seeds or more
the pairs of each run are matched. Called again, it does only what is missing; called with other
values, it adds runs, and the table and figure show all.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.errors import InputError
from saejax.memory import keep_pages
from saejax.report import write_report
from saejax.report.style import write_figure
from saejax.report.sweep import pareto_figure
from saejax.run import overlap_run
from saejax.rundir import open_run
from saejax.sweep import collect, points, sweep_table, train_sweep, vary

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the sweep.", required=True)
_VARY = flags.DEFINE_multi_string(
    "vary", [], "A field and its values, as sae.k=16,32,64; may be repeated."
)


def main(argv: Sequence[str]) -> None:
    """Trains, matches, tabulates."""
    del argv
    keep_pages()
    cfg = cli.config(_CONFIG)
    runs = vary(cfg, _VARY.value) if _VARY.value else points(cfg, cli.config_sweep(_CONFIG))
    if not runs:
        raise InputError(
            "--vary is missing, and the configuration has no get_sweep(): name a field and its "
            "values, as --vary=sae.k=16,32"
        )
    root = Path(_WORKDIR.value)
    jobs = [(each, open_run(each, root / name)) for name, each in runs.items()]
    for each, run, saes in train_sweep(jobs, root):
        if len(saes) > 1:
            overlap_run(each, run, saes)
            write_report(run.root)
    result = collect(root)
    figure = pareto_figure(result, title="Variance unexplained against active latents")
    write_figure(figure, root / "figures", "pareto")
    print(sweep_table(result))
    print(f"results: {root / 'results' / 'sweep.json'}, figure: {root / 'figures' / 'pareto.svg'}")


if __name__ == "__main__":
    cli.run(main)
