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
values, it adds runs, and tables and figures show all.

Machines can share the work: with --known=FILE, results/sweep.json of another directory, the runs in
it are not run again, and tables and figures have them too.

Each setting that runs vary alone, around the run that most of them differ from in one, is a factor:
results/factors.json, a table, and figures/factor.<name>.svg beside the paper's numbers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from saejax import cli
from saejax.analysis.factor_table import factor_table
from saejax.analysis.factors import factors
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.memory import keep_pages
from saejax.processes import is_first
from saejax.report import write_report
from saejax.report.factor_figures import factor_figure
from saejax.report.style import write_figure
from saejax.report.sweep import pareto_figure
from saejax.run import overlap_run
from saejax.rundir import open_run
from saejax.sweep import points, train_sweep, vary
from saejax.sweep_results import collect, read_results, still_to_run, sweep_table

_CONFIG = cli.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the sweep.", required=True)
_VARY = flags.DEFINE_multi_string(
    "vary", [], "A field and its values, as sae.k=16,32,64; may be repeated."
)
_KNOWN = flags.DEFINE_string("known", None, "results/sweep.json whose runs are not run again.")


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
    known = read_results(Path(_KNOWN.value)) if _KNOWN.value else None
    if known is not None:
        runs = still_to_run(runs, known)
    jobs = [(each, open_run(each, root / name)) for name, each in runs.items()]
    for each, run, saes in train_sweep(jobs, root):
        if len(saes) > 1:
            overlap_run(each, run, saes)
            if is_first():
                write_report(run.root)
    if is_first():
        _tabulate(root, known)


def _tabulate(root: Path, known: dict[str, Any] | None) -> None:
    result = collect(root, known)
    figure = pareto_figure(result, title="Variance unexplained against active latents")
    write_figure(figure, root / "figures", "pareto")
    found = factors(result)
    with atomic_write(root / "results" / "factors.json") as file:
        file.write(json.dumps(found, indent=2).encode() + b"\n")
    for factor in found["factors"]:
        if sum(point["pairs"] > 0 for point in factor["points"]) > 1:
            name = ".".join(filter(None, ("factor", factor["factor"], factor["series"])))
            drawn = factor_figure(factor, threshold=found["threshold"])
            write_figure(drawn, root / "figures", name)
    print(f"{sweep_table(result)}\n\n{factor_table(found)}\n")
    print(f"results: {root / 'results'}, figures: {root / 'figures'}")


if __name__ == "__main__":
    cli.run(main, several="allowed")
