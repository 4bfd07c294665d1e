"""All results of a trained run, from its autoencoders and matchings.

    python experiments/analyze.py --run=runs/quickstart

Stages, each of which writes results/<stage>.json:
  overlap     every definition of "shared", of every pair (matches what is not yet matched)
  thresholds  latents that are shared at every threshold from 0 to 1
  spread      intervals over the latents of a pair, and over seeds
  null        what chance gives: random directions, untrained seeds, a rotated dictionary
  seeds       what more seeds still find, fits, cycles through three seeds
  latents     what latents do on the run's text, from its store or its model (also latents/)

Called again, it keeps the results whose inputs are the same. What a stage lacks is told, and the
others go on. Exit code: 0, or 1 where a stage failed. experiments/report.py shows the results.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.analyses import STAGES, analyze, check_stages
from saejax.analysis.latents import NUM_TOKENS
from saejax.analysis.summary import summary
from saejax.config_check import check
from saejax.errors import InputError
from saejax.formats.load import load_sae
from saejax.memory import keep_pages
from saejax.rundir import RunDir

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_STAGES = flags.DEFINE_list("stages", list(STAGES), "Which stages; their order is that above.")
_TOKENS = flags.DEFINE_integer(
    "tokens", NUM_TOKENS, "Tokens that the stage latents reads; fewer where the text has fewer."
)


def main(argv: Sequence[str]) -> None:
    """Makes the results and prints a summary of each."""
    del argv
    keep_pages()
    run = RunDir(Path(_RUN.value))
    cfg = run.read_config()
    check(cfg)
    check_stages(_STAGES.value)
    for seed in cfg.init_seeds:
        if not (run.sae(cfg.hookpoint, seed) / "cfg.json").exists():
            raise InputError(
                f"{run.root} has no trained autoencoder of seed {seed}: finish it with "
                f"experiments/train.py --config=... --workdir={run.root}"
            )
    saes = {seed: load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}
    failed = []
    for outcome in analyze(cfg, run, saes, _STAGES.value, num_tokens=_TOKENS.value):
        print(f"{outcome.stage}: {outcome.status}" + f", {outcome.reason}" * bool(outcome.reason))
        if outcome.record is not None:
            print(summary(outcome.stage, outcome.record))
        if outcome.status == "failed":
            failed.append(outcome.stage)
        print(flush=True)
    print(f"results: {run.result('*').parent}")
    if failed:
        sys.exit(f"error: not done: {', '.join(failed)}; the reasons are above")


if __name__ == "__main__":
    cli.run(main, several="allowed")
