r"""Evaluates autoencoders on text that they were not trained on, also inside the language model.

    python experiments/evaluate.py --run=runs/quickstart

takes every seed of a run, and windows of its corpus that training left out (data.num_tokens below
the corpus), or another text, with --text=FILE. An autoencoder from elsewhere (SAELens, sparsify,
dictionary_learning; a folder or hub:owner/name) needs to be told where it belongs:

    python experiments/evaluate.py --sae=FOLDER --lm=gpt2 --hookpoint=h.6.mlp --text=corpus.jsonl \
        --context_length=128 --bos=window

Prints, each with its standard error over windows, the loss in nats a token of the model as it is
and with its activations at the hook point replaced by zeros, by their mean, and by the
reconstructions of each autoencoder; how much that raises the loss; the divergence of the
predictions, KL(model || replaced); the loss recovered, (ablated - spliced) / (ablated - model);
then FVU, explained variance, active latents per token (L0), and the latents that never fired.
What training left out of each window, as its first tokens, keeps its activations and counts
nowhere. saejax/analysis/evaluation.py defines the numbers, and says which are those of SAELens
and dictionary_learning. Everything goes to results/evaluate.json of the run, or to --out.

The whole model runs once for each autoencoder and three times besides. From its operations, three
seeds and 50,000 tokens of SmolLM2-135M should take 10 minutes on two cores.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import saejax
from saejax import cli
from saejax.analysis.evaluate import evaluate
from saejax.analysis.evaluation import evaluation_record, evaluation_table
from saejax.config import Config, DataConfig, LmConfig
from saejax.config_check import check
from saejax.data.corpus import Windows, of_other_text, read_held_out_windows, read_windows
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.lm import DecoderConfig, check_hookpoint, load_config, load_lm, load_tokenizer
from saejax.lm.tokenizer import Tokenizer
from saejax.memory import keep_pages
from saejax.rundir import RunDir, commit, versions

_RUN = flags.DEFINE_string("run", None, "Run directory; all of its seeds are evaluated.")
_SAE = flags.DEFINE_string(
    "sae", None, "An autoencoder, in place of --run: a folder or hub:owner/name."
)
flags.mark_flags_as_mutual_exclusive(["run", "sae"], required=True)
_TEXT = flags.DEFINE_string(
    "text", None, "Text in any form of data.source, of which the first --tokens are used."
)
_TEXT_FIELD = flags.DEFINE_string(
    "text_field", None, "Field or column of --text, text unless given."
)
_TOKENS = flags.DEFINE_integer("tokens", 50_000, "Tokens to use, rounded down to whole windows.")
_BATCH_WINDOWS = flags.DEFINE_integer(
    "batch_windows",
    None,
    "Windows in a forward pass, lm.batch_windows unless given.",
    lower_bound=1,
)
_OUT = flags.DEFINE_string(
    "out", None, "File for the numbers; of a run results/evaluate.json unless given."
)
_FOLDER = flags.DEFINE_string(
    "folder", None, "With --sae, of several: folder below it, --hookpoint unless given."
)
_SEED = flags.DEFINE_integer("seed", None, "With --sae, of several: the one in seed<i>.")
_LM = flags.DEFINE_string("lm", None, "With --sae: the language model, as lm.source.")
_HOOKPOINT = flags.DEFINE_string("hookpoint", None, "With --sae: the hook point that it reads.")
_TARGET = flags.DEFINE_string(
    "target_hookpoint", None, "With --sae, a transcoder: the hook point that it reconstructs."
)
_CONTEXT = flags.DEFINE_integer("context_length", None, "With --sae: tokens in a window.")
_SKIP = flags.DEFINE_integer(
    "skip_tokens", None, "With --sae: tokens at the start of each window to leave alone."
)
_BOS = flags.DEFINE_string("bos", None, "With --sae: none, document or window, as data.bos.")
_OF_SAE = (_FOLDER, _SEED, _LM, _HOOKPOINT, _TARGET, _CONTEXT, _SKIP, _BOS)


def main(argv: Sequence[str]) -> None:
    """Evaluates, prints, saves."""
    del argv
    keep_pages()
    if _TEXT_FIELD.value and not _TEXT.value:
        raise InputError(f"--text_field={_TEXT_FIELD.value} is about --text, which is missing")
    cfg, saes = _from_run(RunDir(Path(_RUN.value))) if _RUN.value else _from_sae()
    lm_config = load_config(cfg.lm.source)
    for hookpoint in filter(None, (cfg.hookpoint, cfg.target_hookpoint)):
        check_hookpoint(lm_config, hookpoint)
    tokenizer = load_tokenizer(cfg.lm.source)
    windows, about = _windows(cfg, tokenizer, lm_config)
    evaluation = evaluate(
        load_lm(cfg.lm.source, dtype=cfg.lm.dtype),
        list(saes.values()),
        windows,
        hookpoint=cfg.hookpoint,
        target_hookpoint=cfg.target_hookpoint,
        data=cfg.data,
        special_ids=tokenizer.special_ids,
        batch_windows=_BATCH_WINDOWS.value or cfg.lm.batch_windows,
    )
    print(
        f"{cfg.target_hookpoint or cfg.hookpoint} on {evaluation.num_windows} windows "
        f"({evaluation.num_tokens:,} tokens) of {about}\n"
    )
    print(evaluation_table([f"seed {name}" for name in saes], evaluation))
    own = RunDir(Path(_RUN.value)).result("evaluate") if _RUN.value else None
    if path := Path(_OUT.value) if _OUT.value else own:
        record = {
            "hookpoint": cfg.hookpoint,
            "target_hookpoint": cfg.target_hookpoint,
            "text": about,
            **evaluation_record(list(saes), evaluation),
            "config": dataclasses.asdict(cfg),
            "commit": commit(),
            "versions": versions(),
        }
        with atomic_write(path) as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")
        print(f"results: {path}")


def _from_run(run: RunDir) -> tuple[Config, dict[str | int, saejax.Sae]]:
    if given := [f"--{flag.name}={flag.value}" for flag in _OF_SAE if flag.value is not None]:
        raise InputError(f"{', '.join(given)}: --run brings its own; leave it out")
    cfg = run.read_config()
    return cfg, {seed: saejax.load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}


def _from_sae() -> tuple[Config, dict[str | int, saejax.Sae]]:
    def needed(flag: flags.FlagHolder) -> Any:
        if flag.value is None:
            raise InputError(f"--{flag.name} is missing: --sae={_SAE.value} does not tell it")
        return flag.value

    needed(_TEXT)
    sae = saejax.load_sae(needed(_SAE), _FOLDER.value or needed(_HOOKPOINT), _SEED.value)
    cfg = Config(
        hookpoint=needed(_HOOKPOINT),
        target_hookpoint=_TARGET.value or "",
        lm=LmConfig(source=needed(_LM)),
        data=DataConfig(context_length=needed(_CONTEXT)),
    )
    cfg.data.skip_tokens = cfg.data.skip_tokens if _SKIP.value is None else _SKIP.value
    cfg.data.bos = _BOS.value or cfg.data.bos
    # Of training there is nothing to check but what these have to fit.
    cfg.train.batch_tokens, cfg.sae.unit_decoder = cfg.data.context_length, not _TARGET.value
    check(cfg)
    return cfg, {dict(sae.metadata).get("seed", "unknown"): sae}


def _windows(cfg: Config, tokenizer: Tokenizer, lm_config: DecoderConfig) -> tuple[Windows, str]:
    """The windows, and what they are of."""
    num_windows = _TOKENS.value // cfg.data.context_length
    if num_windows < 2:
        raise InputError(
            f"--tokens={_TOKENS.value} must be at least {2 * cfg.data.context_length}, two windows "
            f"of {cfg.data.context_length} tokens"
        )
    if _TEXT.value is None:
        windows = read_held_out_windows(
            cfg.data, tokenizer, vocab_size=lm_config.vocab_size, num_windows=num_windows
        )
        return windows, f"{cfg.data.source} that training did not use"
    data = of_other_text(cfg.data, _TEXT.value, _TEXT_FIELD.value, num_windows)
    return read_windows(data, tokenizer, vocab_size=lm_config.vocab_size), _TEXT.value


if __name__ == "__main__":
    cli.run(main)
