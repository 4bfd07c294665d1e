"""What the latents of a run do on text: how often they fire, on what, and whether partners agree.

One pass over the text or the activation store (`latent_pass`), then the logit lens of each seed
and the nearest decoder rows of each pair. Dimension letters: N latents.
"""

import dataclasses
import hashlib
import itertools
import json
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from saejax.analysis import contexts
from saejax.analysis.cofiring import cofiring_summary, correlation, jaccard
from saejax.analysis.compare import Comparison
from saejax.analysis.firing import Firing, firing_summary, mean_when_firing
from saejax.analysis.latent_files import PairLatents, SeedLatents
from saejax.analysis.latent_pass import Pair, Totals, run_pass
from saejax.analysis.logit_lens import logit_lens
from saejax.analysis.neighbours import neighbours
from saejax.analysis.text import Text, chosen_windows, open_reader, open_text
from saejax.config import Config, MeshConfig
from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.lm import load_unembedding
from saejax.matching.similarity import directions
from saejax.mesh import make_mesh
from saejax.progress import Progress
from saejax.rundir import RunDir, commit, versions
from saejax.sae.sae import Sae

# Tokens that are read where the corpus has as many: a latent that fires on one token of 100,000
# is seen a hundred times.
NUM_TOKENS = 10_000_000
_TOKENS_NAMED = 8
_NEIGHBOURS = 4
# Of the results; changes with what is computed.
_FORMAT = "saejax latents 1"

Comparisons = Mapping[tuple[int, int], Comparison]


def describe_latents(
    cfg: Config, run: RunDir, saes: Mapping[int, Sae], *, num_tokens: int = NUM_TOKENS
) -> dict[str, Any]:
    """Writes what the latents of every seed and pair do, and `results/latents.json`.

    Reads windows of the run's own text once, no token twice: all, or as many as asked for, the
    first ones with `data.order="in_order"`, else spread evenly. Where results of the same inputs
    are there already, they are returned.

    The files are those of `saejax.analysis.latent_files`. Pairs need their matchings, the first
    of `match.methods` that is there; those without are left out, with a warning. Memory: see
    `latent_pass` and `logit_lens`, and the ids of the windows that contexts are from.

    Args:
      cfg: The run.
      run: Its directory.
      saes: The autoencoder of each seed, all of the same number of latents.
      num_tokens: How many to read, rounded down to whole windows.

    Returns:
      What was written: `num_tokens`, `activations` ("store" or "model"), `seeds` (of each
      `firing_summary`), `pairs` (of each `cofiring_summary`), `missing_pairs`, config, commit,
      versions.

    Raises:
      InputError: If something cannot be read or written, or does not belong together.
      Interrupted: After Ctrl-C or SIGTERM, with the work saved.
    """
    text = open_text(cfg)
    for seed, sae in saes.items():
        if {sae.d_model, sae.d_out} != {text.width}:
            raise InputError(
                f"seed {seed} maps width {sae.d_model} to {sae.d_out}, but {cfg.lm.source} has "
                f"width {text.width}: they do not belong together"
            )
    numbers = chosen_windows(cfg, text, num_tokens)
    comparisons = _comparisons(cfg, run, saes)
    inputs = _inputs(cfg, text, numbers, saes, comparisons)
    if (known := _known(cfg, run, inputs, saes, comparisons)) is not None:
        return known
    seeds = list(saes)
    partial = run.latents(cfg.hookpoint, seeds[0]).with_name("partial.npz")
    pairs = [
        Pair(seeds.index(i), seeds.index(j), comparison.decoder.target)
        for (i, j), comparison in comparisons.items()
    ]
    read, origin = open_reader(cfg, run, text)
    totals = run_pass(
        list(saes.values()),
        pairs,
        read,
        numbers,
        batch_windows=cfg.lm.batch_windows,
        partial=partial,
        inputs=inputs,
    )
    _write_seeds(cfg, run, saes, text, totals)
    summaries = _write_pairs(cfg, run, saes, comparisons, pairs, totals)
    tokens = int(totals.tokens)
    found = {
        "hookpoint": cfg.hookpoint,
        "num_tokens": tokens,
        "activations": origin,
        "seeds": [
            {"seed": seed, "num_latents": saes[seed].num_latents}
            | firing_summary(sums.firings, tokens)
            for seed, sums in zip(seeds, totals.firing, strict=True)
        ],
        "pairs": summaries,
        "missing_pairs": [
            list(pair) for pair in itertools.combinations(seeds, 2) if pair not in comparisons
        ],
        "inputs": inputs,
        "config": dataclasses.asdict(cfg),
        "commit": commit(),
        "versions": versions(),
    }
    written = json.dumps(found, indent=2)
    with atomic_write(run.result("latents")) as file:
        file.write(written.encode() + b"\n")
    partial.unlink(missing_ok=True)
    return json.loads(written)


def _comparisons(cfg: Config, run: RunDir, saes: Mapping[int, Sae]) -> Comparisons:
    """Those of the pairs whose matchings are there."""
    found: dict[tuple[int, int], Comparison] = {}
    missing = []
    for pair in itertools.combinations(saes, 2):
        maxima = run.matching(cfg.hookpoint, pair, "max_cosine")
        for method in cfg.match.methods:
            path = run.matching(cfg.hookpoint, pair, method)
            if pair not in found and path.exists() and maxima.exists():
                found[pair] = Comparison.load(path, maxima)
        if pair not in found:
            missing.append("{}-{}".format(*pair))
            continue
        target_N = found[pair].decoder.target
        count, others = (saes[seed].num_latents for seed in pair)
        if len(target_N) != count or target_N.min() < 0 or target_N.max() >= others:
            raise InputError(
                f"{maxima.parent}: the matching of seeds {pair} does not pair {count} with "
                f"{others} latents: delete it and run experiments/seed_overlap.py"
            )
    if missing:
        warnings.warn(
            f"no matchings of seeds {', '.join(missing)} in {run.root}: only what each seed does "
            "is described; experiments/seed_overlap.py makes them",
            stacklevel=3,
        )
    return found


def _inputs(
    cfg: Config,
    text: Text,
    numbers: Int[np.ndarray, " W"],
    saes: Mapping[int, Sae],
    comparisons: Comparisons,
) -> str:
    """A checksum of everything that decides the results."""
    pairs = list(comparisons)
    named = [_FORMAT, dataclasses.asdict(cfg), list(saes), pairs]
    sha256 = hashlib.sha256(json.dumps(named).encode())
    for number in numbers:
        sha256.update(text.windows[int(number)].data)
    for array in jax.tree.leaves(list(saes.values())):
        sha256.update(np.ascontiguousarray(array).data)
    for comparison in comparisons.values():
        for matching in (comparison.decoder, comparison.encoder):
            sha256.update(matching.target.data)
            sha256.update(matching.cosine.data)
    return sha256.hexdigest()


def _known(
    cfg: Config, run: RunDir, inputs: str, saes: Mapping[int, Sae], comparisons: Comparisons
) -> dict[str, Any] | None:
    """The results of the same inputs, where they and their files are there."""
    files = [run.latents(cfg.hookpoint, *seeds) for seeds in (*((s,) for s in saes), *comparisons)]
    path = run.result("latents")
    if not all(file.exists() for file in (path, *files)):
        return None
    try:
        known = json.loads(path.read_text())
    except ValueError:
        return None
    return known if isinstance(known, dict) and known.get("inputs") == inputs else None


def _write_seeds(
    cfg: Config, run: RunDir, saes: Mapping[int, Sae], text: Text, totals: Totals
) -> None:
    unembedding = load_unembedding(cfg.lm.source)
    # A model can have rows that no token has, which nothing could show.
    unembedding = unembedding._replace(table=unembedding.table[: text.tokenizer.vocab_size])
    named = min(_TOKENS_NAMED, len(unembedding.table))
    total = sum(sae.num_latents for sae in saes.values())
    with Progress("logit lens", total=total, unit="latents") as progress:
        for (seed, sae), sums, peaks in zip(saes.items(), totals.firing, totals.peaks, strict=True):
            lens = logit_lens(sae.w_dec, unembedding, named, progress)
            numbers_U = np.unique(peaks.window)
            windows_UL = np.stack([text.windows[int(number)] for number in numbers_U])
            SeedLatents(
                num_tokens=np.array(totals.tokens),
                firings_N=sums.firings,
                max_N=np.asarray(peaks.value[0]),
                mean_N=mean_when_firing(sums),
                context_tokens_NCW=contexts.context_tokens(
                    peaks, windows_UL, numbers_U, cfg.data.skip_tokens
                ),
                context_values_NCW=np.moveaxis(np.asarray(peaks.around), 2, 0),
                promoted_NP=lens.promoted,
                promoted_logit_NP=lens.promoted_logit,
                suppressed_NP=lens.suppressed,
                suppressed_logit_NP=lens.suppressed_logit,
            ).save(run.latents(cfg.hookpoint, seed))


def _write_pairs(
    cfg: Config,
    run: RunDir,
    saes: Mapping[int, Sae],
    comparisons: Comparisons,
    pairs: list[Pair],
    totals: Totals,
) -> list[dict[str, Any]]:
    summaries: list[dict[str, Any]] = []
    if not comparisons:
        return summaries
    mesh = make_mesh(MeshConfig())
    units = {seed: directions(sae, "decoder", f"seed {seed}") for seed, sae in saes.items()}
    total = sum(comparison.num_latents for comparison in comparisons.values())
    tokens = int(totals.tokens)
    with Progress("nearest latents", total=total, unit="latents") as progress:
        for ((i, j), comparison), pair, both in zip(
            comparisons.items(), pairs, totals.cofiring, strict=True
        ):
            a = totals.firing[pair.a]
            partner = Firing(*(part[pair.target] for part in totals.firing[pair.b]))
            nearest_NR, cosine_NR = neighbours(units[i], units[j], _NEIGHBOURS, progress, mesh=mesh)
            found = PairLatents(
                both_N=both.both,
                jaccard_N=jaccard(a, partner, both),
                correlation_N=correlation(a, partner, both, tokens),
                neighbour_NR=nearest_NR,
                neighbour_cosine_NR=cosine_NR,
            )
            found.save(run.latents(cfg.hookpoint, i, j))
            summaries.append(
                {"seeds": [i, j], "method": comparison.decoder.method}
                | cofiring_summary(
                    found.jaccard_N,
                    found.correlation_N,
                    frequency_N=a.firings / tokens,
                    firings_N=a.firings,
                    cosine_N=comparison.decoder.cosine,
                    shared_N=comparison.shared(cfg.match.threshold),
                )
            )
    return summaries
