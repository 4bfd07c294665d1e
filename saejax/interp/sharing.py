"""How the latents of a run's first seed are shared, and who their partners are. N latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from saejax.analysis.compare import Comparison
from saejax.config import Config
from saejax.errors import InputError
from saejax.rundir import RunDir


class Sharing(NamedTuple):
    """Of the latents of the first seed, the base; their partners are in the second seed.

    Attributes:
      method: Of the matchings.
      levels: In how many other seeds each latent of the first and of the second seed is shared, as
        `results/seeds.json` counts it.
      partner: Partner by the decoders; -1 for none.
      cosine: Of the two decoder rows.
      shared: Whether the latent and its partner are shared.
    """

    method: str
    levels: tuple[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]]
    partner: Int32[np.ndarray, " N"]
    cosine: Float32[np.ndarray, " N"]
    shared: Bool[np.ndarray, " N"]


def read_sharing(cfg: Config, run: RunDir) -> Sharing:
    """Reads the matchings of the first two seeds with all others.

    Raises:
      InputError: If the run has one seed, or a matching is missing or broken.
    """
    seeds, method = cfg.init_seeds, cfg.match.methods[0]
    if len(seeds) < 2:
        raise InputError("one seed: what is shared needs a pair")
    levels: list[np.ndarray] = []
    for base in seeds[:2]:
        counts_N = np.zeros(cfg.sae.num_latents, np.int64)
        for other in seeds:
            if other != base:
                counts_N += _hits(cfg, run, base, other)
        levels.append(counts_N)
    first = _comparison(cfg, run, (seeds[0], seeds[1]))
    shared_N = first.shared(cfg.match.threshold)
    decoder = first.decoder
    return Sharing(method, (levels[0], levels[1]), decoder.target, decoder.cosine, shared_N)


def _hits(cfg: Config, run: RunDir, base: int, other: int) -> Bool[np.ndarray, " N"]:
    """Which latents of one seed are shared with another; matchings go from the earlier seed."""
    in_order = cfg.init_seeds.index(base) < cfg.init_seeds.index(other)
    found = _comparison(cfg, run, (base, other) if in_order else (other, base))
    shared_N = found.shared(cfg.match.threshold)
    if in_order:
        return shared_N
    back_N = np.zeros_like(shared_N)
    back_N[found.decoder.target[shared_N]] = True
    return back_N


def _comparison(cfg: Config, run: RunDir, pair: tuple[int, int]) -> Comparison:
    matched = run.matching(cfg.hookpoint, pair, cfg.match.methods[0])
    nearest = run.matching(cfg.hookpoint, pair, "max_cosine")
    for path in (matched, nearest):
        if not path.exists():
            raise InputError(f"{path} is missing: experiments/analyze.py --run={run.root} makes it")
    found = Comparison.load(matched, nearest)
    if found.num_latents != cfg.sae.num_latents:
        raise InputError(
            f"{matched} is of {found.num_latents} latents, the run's autoencoders have "
            f"{cfg.sae.num_latents}: delete it and run experiments/analyze.py --run={run.root}"
        )
    return found
