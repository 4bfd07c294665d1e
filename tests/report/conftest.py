"""Run directories with made-up results of a known shape."""

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saejax.analysis.compare import Comparison
from saejax.config import Config
from saejax.config_json import to_json
from saejax.interp.summary import summaries
from saejax.lm.tokenizer import load_tokenizer
from saejax.matching import Certificate, Matching
from saejax.matching.matching import Soft

THRESHOLD = 0.7
NUM_LATENTS = 64
MakeRun = Callable[..., Path]
Arrays = dict[str, np.ndarray]
CONTEXTS, WIDTH, LENS, NEIGHBOURS = 6, 25, 8, 4


def _comparison(rng: np.random.Generator, method: str) -> Comparison:
    """Half of the latents found again, with high cosines, and half not."""
    certified = method == "exact"
    hit_N = rng.random(NUM_LATENTS) < 0.5
    target_N = rng.permutation(NUM_LATENTS).astype(np.int32)
    encoder_target_N = target_N.copy()
    # Two latents whose encoders swap partners.
    encoder_target_N[[0, 1]] = target_N[[1, 0]]

    def matched(side: str, target_N: np.ndarray) -> Matching:
        cosine_N = np.where(hit_N, 0.9, 0.3) + rng.uniform(-0.09, 0.09, NUM_LATENTS)
        primal = float(cosine_N.sum())
        gap = 0.0 if certified else 0.002 * primal
        certificate = Certificate(primal, primal + gap, gap, gap / primal, certified, 1, 2, 3, "x")
        zeros_N = np.zeros(NUM_LATENTS)
        cosine_N = cosine_N.astype(np.float32)
        soft = None
        if method == "sinkhorn":
            entropy_N = np.where(hit_N, 0.0, np.log(3)).astype(np.float32)
            weight_N = np.where(hit_N, 1.0, 0.25).astype(np.float32)
            soft = Soft(
                entropy=entropy_N,
                expected_cosine=cosine_N / 2,
                likeliest=target_N,
                weight=weight_N,
                num_sure=30,
                epsilon=0.02,
                tolerance=1e-3,
                error=1e-4,
                converged=True,
                iterations=4,
                candidate_iterations=40,
                geometry="streamed",
            )
        return Matching(target_N, cosine_N, zeros_N, zeros_N, side, method, certificate, soft=soft)

    def nearest(m: Matching) -> Matching:
        cosine_N = np.minimum(m.cosine + np.float32(0.01), np.float32(1))
        return Matching(m.target, cosine_N, None, None, m.side, "max_cosine", None)

    decoder, encoder = matched("decoder", target_N), matched("encoder", encoder_target_N)
    return Comparison(decoder, encoder, nearest(decoder), nearest(encoder))


def overlap_entry(
    c: Comparison, hookpoint: str, seeds: tuple[int, int], method: str
) -> dict[str, object]:
    return {
        "hookpoint": hookpoint,
        "seeds": list(seeds),
        "method": method,
        "num_latents": c.num_latents,
        "shared_frac": c.shared_frac(THRESHOLD),
        "aligned_frac": c.aligned_frac(THRESHOLD),
        "decoder_frac": c.decoder_frac(THRESHOLD),
        "agreement_frac": c.agreement_frac,
        "max_cosine_frac": c.max_cosine_frac(THRESHOLD),
        "mean_cosine": c.mean_cosine,
        "threshold": THRESHOLD,
        "solver": "lapx" if method == "exact" else method,
        "certified": method == "exact",
        "relative_gap": 0.0 if method == "exact" else 0.002,
        "seconds": 2,
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run; with no hook points it is trained only."""

    def make(
        name: str = "run",
        *,
        seeds: Sequence[int] = (1, 2, 3),
        hookpoints: Sequence[str] = ("layers.6.mlp",),
        methods: Sequence[str] = ("exact",),
        lm_source: str = "package:m/model.gguf",
    ) -> Path:
        rng = np.random.default_rng(0)
        run = tmp_path / name
        (run / "results").mkdir(parents=True)
        config = Config(init_seeds=tuple(seeds))
        config.lm.source = lm_source
        (run / "config.json").write_text(to_json(config))
        versions = {"jax": "0.10.2", "commit": "0123456789abcdef", "python": "3.11.9"}
        (run / "versions.json").write_text(json.dumps(versions))
        lines = [
            {
                "step": 50 * (t + 1),
                "tokens": 1000 * (t + 1),
                "train/fvu": [1.2 / (t + 1) + seed / 1000 for seed in seeds],
                "train/dead_frac": [t / 100 for _ in seeds],
                "train/l0": [32 for _ in seeds],
                "train/grad_norm": [0.1 for _ in seeds],
                "train/lr": 1e-3 * (4 - t),
                "tokens_per_second": 7000,
            }
            for t in range(4)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        entries = []
        for hookpoint, method in itertools.product(hookpoints, methods):
            for i, j in itertools.combinations(seeds, 2):
                stem = run / "matchings" / hookpoint / f"seed{i}-seed{j}"
                comparison = _comparison(rng, method)
                comparison.save(f"{stem}.{method}.npz", f"{stem}.max_cosine.npz")
                entries.append(overlap_entry(comparison, hookpoint, (i, j), method))
        if entries:
            overlap = {
                "pairs": entries,
                "config": dataclasses.asdict(config),
                "commit": versions["commit"],
                "versions": versions,
            }
            (run / "results" / "overlap.json").write_text(json.dumps(overlap))
        return run

    return make


@pytest.fixture
def add_latents(tiny_lm: Path) -> Callable[..., dict[str, Arrays]]:
    """Writes made-up `latents/` into a run, and returns them by the names of their files."""
    tokenizer = load_tokenizer(str(tiny_lm))

    def one_seed(seed: int, phrases: Mapping[tuple[int, int], str]) -> Arrays:
        rng = np.random.default_rng(seed)
        shape = (NUM_LATENTS, CONTEXTS, WIDTH)
        letters = tokenizer.encode_batch(["abcdefghij klmnop "])[0]
        tokens_NCW = rng.choice(letters, shape).astype(np.int32)
        for (of_seed, latent), phrase in phrases.items():
            if of_seed == seed:
                ids = tokenizer.encode_batch([phrase])[0][:WIDTH]
                tokens_NCW[latent, 0] = -1
                tokens_NCW[latent, 0, -len(ids) :] = ids
        value_NCW = np.where(rng.random(shape) < 0.2, rng.random(shape), 0)
        value_NCW[:, :, 16] = np.linspace(4, 2, CONTEXTS)
        # One latent never fires.
        tokens_NCW[0], value_NCW[0] = -1, 0
        firings_N = rng.integers(1, 900, NUM_LATENTS)
        firings_N[0] = 0
        return {
            "num_tokens": np.int64(1000),
            "firings_N": firings_N,
            "max_N": value_NCW.max(axis=(1, 2)).astype(np.float32),
            "mean_N": np.where(firings_N > 0, 1.5, 0).astype(np.float32),
            "context_tokens_NCW": tokens_NCW,
            "context_values_NCW": value_NCW.astype(np.float16),
            "promoted_NP": rng.integers(0, 250, (NUM_LATENTS, LENS), np.int32),
            "suppressed_NP": rng.integers(0, 250, (NUM_LATENTS, LENS), np.int32),
            "promoted_logit_NP": np.float32(3 * rng.random((NUM_LATENTS, LENS))),
            "suppressed_logit_NP": np.float32(-rng.random((NUM_LATENTS, LENS))),
        }

    def one_pair(seeds: tuple[int, int]) -> Arrays:
        rng = np.random.default_rng(sum(seeds))
        shape = (NUM_LATENTS, NEIGHBOURS)
        return {
            "jaccard_N": rng.random(NUM_LATENTS, np.float32),
            "correlation_N": rng.random(NUM_LATENTS, np.float32),
            "both_N": rng.integers(0, 400, NUM_LATENTS),
            "neighbour_NR": rng.integers(0, NUM_LATENTS, shape, np.int32),
            "neighbour_cosine_NR": -np.sort(-rng.random(shape, np.float32), axis=1),
        }

    def add(
        run: Path,
        *,
        seeds: Sequence[int] = (1, 2),
        hookpoint: str = "layers.6.mlp",
        phrases: Mapping[tuple[int, int], str] | None = None,
    ) -> dict[str, Arrays]:
        files = {f"seed{seed}": one_seed(seed, phrases or {}) for seed in seeds}
        files |= {f"seed{i}-seed{j}": one_pair((i, j)) for i, j in itertools.combinations(seeds, 2)}
        folder = run / "latents" / hookpoint
        folder.mkdir(parents=True)
        for name, arrays in files.items():
            np.savez(folder / f"{name}.npz", **arrays)
        return files

    return add


def _scored(value: float) -> dict[str, Any]:
    return {"balanced_accuracy": value, "interval": [value / 2, 1.0], "unparsable": 0}


def _explained(text: str | None, value: float, embedding: bool) -> dict[str, Any]:
    found = {"explanation": text, "problem": "" if text else "refused"}
    if not text:
        return found
    if embedding:
        area = {"auroc": value / 2 + 0.2, "interval": [value / 2, value], "num_activating": 100}
        found["embedding"] = area | {"num_non_activating": 90}
    return found | {"detection": _scored(value), "fuzzing": _scored(value)}


def _interp_record(*, llm: bool = True, embedding: bool = False) -> dict[str, Any]:
    # Without embedding scores a record is as it was before there were any.
    about = {"embedder": "package:minilm/model"} if embedding else {}
    rng = np.random.default_rng(0)
    rows = []
    for latent in range(30):
        level, cosine = latent % 3, float(rng.random())
        for seed, own, other in ((1, latent, 60 - latent), (2, 60 - latent, latent)):
            score = round(0.5 + latent / 100 + seed / 1000, 3)
            text = f"explanation {latent} of seed {seed} </script><b>words & \u202e"
            rows.append(
                {
                    "seed": seed,
                    "latent": own,
                    "level": level,
                    "partner": other,
                    "cosine": cosine,
                    "shared": level > 0,
                    "stratum": [level, 0],
                    "stratum_size": 20,
                    "llm": _explained(None if latent == 29 else text, score, embedding)
                    if llm
                    else None,
                    "token_set": _explained("fires on these tokens", 0.55, embedding),
                }
            )
    return about | {
        "hookpoint": "layers.6.mlp",
        "base_seed": 1,
        "partner_seed": 2,
        "explainer": "wise" if llm else None,
        "scorer": "wiser" if llm else None,
        "settings": {"num_explain": 40, "num_activating": 100, "num_non_activating": 90},
        "summaries": summaries(rows, base_seed=1, seed=0),
        "missing": {} if llm else {"explain": "no --base_url"},
        "too_few": [{}, {}],
        "num_rare": 3,
        "latents": rows,
    }


@pytest.fixture
def make_interp() -> Callable[..., dict[str, Any]]:
    """Gives a made-up `results/interp.json`, of 30 latents of seed 1 and their partners."""
    return _interp_record
