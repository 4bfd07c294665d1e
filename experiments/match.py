"""Matches the latents of two autoencoders one to one and tells how much they share.

    python experiments/match.py --a=runs/quickstart/saes/layers.6.mlp/seed1 \
        --b=runs/quickstart/saes/layers.6.mlp/seed2 --out=matching.npz

An autoencoder is a SAELens directory or a run of saejax (then --seed_a and --seed_b choose).
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

import saejax
from saejax import cli
from saejax.analysis.overlap import overlap_table, pair_result
from saejax.config import MATCH_METHODS
from saejax.errors import InputError

_A = flags.DEFINE_string("a", None, "First autoencoder.", required=True)
_B = flags.DEFINE_string("b", None, "Second autoencoder.", required=True)
_SEED_A = flags.DEFINE_integer("seed_a", None, "Seed of the first, where --a is a run.")
_SEED_B = flags.DEFINE_integer("seed_b", None, "Seed of the second, where --b is a run.")
_HOOKPOINT = flags.DEFINE_string("hookpoint", None, "Hook point, where a run has several.")
_METHODS = flags.DEFINE_list("methods", ["exact"], "Any of exact, scipy.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.7, "Cosine above which a pair is shared.")
_OUT = flags.DEFINE_string(
    "out", None, "Folder for <method>.npz and max_cosine.npz; nothing is saved without it."
)


def main(argv: Sequence[str]) -> None:
    """Loads, matches, prints, saves."""
    del argv
    sae_a = saejax.load_sae(_A.value, _HOOKPOINT.value, _SEED_A.value)
    sae_b = saejax.load_sae(_B.value, _HOOKPOINT.value, _SEED_B.value)
    if unknown := set(_METHODS.value) - set(MATCH_METHODS):
        raise InputError(f"--methods={','.join(sorted(unknown))}: choose from exact, scipy")
    pairs = []
    for method in _METHODS.value:
        comparison = saejax.compare(sae_a, sae_b, method=method)
        if _OUT.value:
            out = Path(_OUT.value)
            comparison.save(out / f"{method}.npz", out / "max_cosine.npz")
        names = (dict(sae_a.metadata).get("seed", "a"), dict(sae_b.metadata).get("seed", "b"))
        pairs.append(
            pair_result(
                names, method, comparison, hookpoint=_HOOKPOINT.value, threshold=_THRESHOLD.value
            )
        )
    print(overlap_table(pairs))


if __name__ == "__main__":
    cli.run(main)
