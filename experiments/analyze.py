"""What the latents of a finished run do on its text: firing, contexts, and whether partners agree.

    python experiments/analyze.py --run=runs/quickstart

Reads the activation store where the run has one, else runs the language model. Called again, it
continues where it stopped, and does nothing where it is done.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.analysis.latent_table import latents_table
from saejax.analysis.latents import NUM_TOKENS, describe_latents
from saejax.config_check import check
from saejax.formats.load import load_sae
from saejax.memory import keep_pages
from saejax.rundir import RunDir

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_TOKENS = flags.DEFINE_integer(
    "tokens", NUM_TOKENS, "Tokens to read; fewer where the run's text has fewer."
)


def main(argv: Sequence[str]) -> None:
    """Describes the latents and prints a summary."""
    del argv
    keep_pages()
    run = RunDir(Path(_RUN.value))
    cfg = run.read_config()
    check(cfg)
    saes = {seed: load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}
    found = describe_latents(cfg, run, saes, num_tokens=_TOKENS.value)
    print(latents_table(found))
    print(f"results: {run.result('latents')}")


if __name__ == "__main__":
    cli.run(main)
