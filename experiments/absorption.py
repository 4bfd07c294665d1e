"""Feature absorption and splitting on the first-letter task, for each seed of a run.

    python experiments/absorption.py --run=runs/quickstart

Words of one token are spelled in prompts (" dog has the first letter: D"), and their activations
read at the run's hook point. Probes on these are the ground truth: which words begin with an a?
For each seed: which latents say so (its main latents; several are a split), and for which words
are they silent while another latent carries the probe's direction (absorption; Chanin et al.
2024, arXiv 2409.14507, as measured by SAEBench). Between seeds: are the main latents partners in
the run's matchings, and are the same words absorbed?

Writes results/absorption.json. Only letters whose probe has an F1 above 0.6 count. A small model
spells badly, and a small autoencoder has few letter latents: read the F1 columns first. SAEBench
advises models of 1 billion parameters and 16,384 latents; on autoencoders of MLP outputs the
paper of the seeds (arXiv 2501.16615) looked for absorption and found none.

The quickstart's three seeds take about three minutes on two cores.
"""

import dataclasses
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from absl import flags

from saejax import cli
from saejax.analysis import first_letter
from saejax.analysis.absorption import Data, measure, train_probes
from saejax.analysis.absorption_seeds import absorption_result, absorption_table
from saejax.analysis.compare import Comparison
from saejax.config import Config
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.formats.load import load_sae
from saejax.lm import layers_needed, load_config, load_lm, load_tokenizer, make_capture
from saejax.progress import Progress
from saejax.rundir import RunDir, commit, versions

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_LETTERS = flags.DEFINE_string(
    "letters", "", "First letters, as in abc; empty takes all that have enough words."
)
_WORDS = flags.DEFINE_integer("words_per_letter", 400, "Most words of a letter, at least 40.")


def main(argv: Sequence[str]) -> None:
    """Reads the words, measures each seed, compares, prints, saves."""
    del argv
    run = RunDir(Path(_RUN.value))
    cfg = run.read_config()
    if cfg.target_hookpoint:
        raise InputError(
            f"{run.root} holds transcoders, which write elsewhere than they read: name a run of "
            "autoencoders"
        )
    saes = {seed: load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}
    comparisons = {pair: _comparison(cfg, run, pair) for pair in combinations(cfg.init_seeds, 2)}
    data, train, test = _words(cfg)
    probes = train_probes(data)
    results = {}
    with Progress("measure", total=len(saes), unit="seeds") as progress:
        for seed, sae in saes.items():
            results[seed] = measure(sae, data, probes)
            progress.advance(1)
    result = absorption_result(
        results, comparisons, probes, train, test, threshold=cfg.match.threshold
    )
    print(absorption_table(result))
    record = result | {
        "hookpoint": cfg.hookpoint,
        "words_per_letter": _WORDS.value,
        "config": dataclasses.asdict(cfg),
        "commit": commit(),
        "versions": versions(),
    }
    with atomic_write(run.result("absorption")) as file:
        file.write(json.dumps(record, indent=2).encode() + b"\n")
    print(f"results: {run.result('absorption')}")


def _comparison(cfg: Config, run: RunDir, pair: tuple[int, int]) -> Comparison:
    matched = run.matching(cfg.hookpoint, pair, cfg.match.methods[0])
    if not matched.exists():
        raise InputError(f"{matched} is missing: match the seeds with experiments/seed_overlap.py")
    return Comparison.load(matched, run.matching(cfg.hookpoint, pair, "max_cosine"))


def _words(cfg: Config) -> tuple[Data, first_letter.Words, first_letter.Words]:
    """Words to train and to test probes on, and their activations."""
    tokenizer = load_tokenizer(cfg.lm.source)
    train, test = first_letter.split_words(
        first_letter.find_words(tokenizer), _LETTERS.value.lower(), per_letter=_WORDS.value
    )
    layers = layers_needed(load_config(cfg.lm.source), cfg.hookpoint)
    lm = load_lm(cfg.lm.source, dtype=cfg.lm.dtype, num_layers=layers)
    capture = make_capture(lm, (cfg.hookpoint,))
    # As in training: windows begin with the token that the autoencoders saw there.
    begin = () if cfg.data.bos == "none" or tokenizer.bos is None else (tokenizer.bos,)
    x_train, x_test = (
        first_letter.read_words(
            first_letter.make_prompts(words, tokenizer, begin=begin),
            capture,
            cfg.hookpoint,
            batch_windows=cfg.lm.batch_windows,
        )
        for words in (train, test)
    )
    return Data(x_train, x_test, train.letters, test.letters), train, test


if __name__ == "__main__":
    cli.run(main)
