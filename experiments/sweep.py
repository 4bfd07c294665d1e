"""Ablations: trains runs that differ in some fields on one pass of the language model.

    python experiments/sweep.py --config=configs/quickstart.py --workdir=runs/k \
        --vary=sae.k=8,16,32,64

Every combination of the values of all --vary flags is a run of its own in the work directory
(`k=8/`, ...), which train.py, seed_overlap.py and report.py can go on with. Activations are
captured once for all of them, at several hook points where --vary=hookpoint=layers.3.mlp,layers.6
or a pattern, --vary='hookpoint=layers.*.mlp', asks for it. With two seeds or more the pairs of
each run are matched. Called again, it does only what is missing; called with other values, it adds
runs, and the table and figure show all.

What cannot vary is what the runs share: the model, the text, the order of the tokens, the tokens
of a step, the mesh. The states of all runs are in memory at once.
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
from saejax.run import overlap_run, train_together
from saejax.rundir import open_run
from saejax.sweep import collect, sweep_table, vary

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
    if not _VARY.value:
        raise InputError("--vary is missing: name a field and its values, as --vary=sae.k=16,32")
    root = Path(_WORKDIR.value)
    jobs = [(each, open_run(each, root / name)) for name, each in vary(cfg, _VARY.value).items()]
    trained = train_together(jobs, root / "activations")
    for (each, run), saes in zip(jobs, trained, strict=True):
        if saes is not None and len(saes) > 1:
            overlap_run(each, run, saes)
            write_report(run.root)
    result = collect(root)
    figure = pareto_figure(result, title="Variance unexplained against active latents")
    write_figure(figure, root / "figures", "pareto")
    print(sweep_table(result))
    print(f"results: {root / 'results' / 'sweep.json'}, figure: {root / 'figures' / 'pareto.svg'}")


if __name__ == "__main__":
    cli.run(main)
