"""How the latents of a run's first seed are shared, and who their partners are. N latents."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from saejax.analysis.compare import Comparison
from saejax.analysis.seeds import seen_from_other
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
    first = _comparison(cfg, run, (seeds[0], seeds[1]))
    shared_N = first.shared(cfg.match.threshold)
    decoder = first.decoder
    levels = shared_N.astype(np.int64), seen_from_other(shared_N, decoder.target).astype(np.int64)
    for level_N, base in zip(levels, seeds[:2], strict=True):
        for other in seeds[2:]:
            level_N += _comparison(cfg, run, (base, other)).shared(cfg.match.threshold)
    return Sharing(method, levels, decoder.target, decoder.cosine, shared_N)


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
