"""Matches the latents of two autoencoders one to one, with a proof that no matching is better.

    python experiments/match.py --a=runs/quickstart/saes/layers.6.mlp/seed1 \
        --b=runs/quickstart/saes/layers.6.mlp/seed2 --out=matchings

and, at any later time, checks the proof again with none of the solver's code:

    python experiments/match.py --a=... --b=... --verify=matchings/exact.npz

An autoencoder is a folder of saejax, SAELens, sparsify or dictionary_learning, or hub:owner/name;
of several, as in a run, --hookpoint, --seed_a and --seed_b choose. The two may be of different
formats and sizes.
Two of 32,768 latents take about 40 seconds on two CPU cores for both sides, and 1 GB.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

import saejax
from saejax import cli
from saejax.analysis.overlap import certificate_table, overlap_table, pair_result
from saejax.config import MATCH_METHODS, MatchConfig
from saejax.errors import InputError
from saejax.matching.matching import SIDES, saved_sides
from saejax.processes import is_first

_A = flags.DEFINE_string("a", None, "First autoencoder.", required=True)
_B = flags.DEFINE_string("b", None, "Second autoencoder.", required=True)
_SEED_A = flags.DEFINE_integer("seed_a", None, "Seed of the first, where --a is a run.")
_SEED_B = flags.DEFINE_integer("seed_b", None, "Seed of the second, where --b is a run.")
_HOOKPOINT = flags.DEFINE_string("hookpoint", None, "Hook point, where a run has several.")
_METHODS = flags.DEFINE_list(
    "methods", ["exact"], f"How to match one to one, any of {', '.join(MATCH_METHODS)}."
)
_SIDE = flags.DEFINE_enum(
    "side", "both", ("both", *SIDES), "Which weights to match; agreement needs both."
)
_THRESHOLD = flags.DEFINE_float("threshold", 0.7, "Cosine above which a pair is shared.")
_EPSILON = flags.DEFINE_float(
    "epsilon", MatchConfig().epsilon, "Regularisation of sinkhorn, in units of cosine."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance", MatchConfig().tolerance, "Error of the marginals at which sinkhorn stops."
)
_OUT = flags.DEFINE_string(
    "out", None, "Folder for <method>.npz and max_cosine.npz; nothing is saved without it."
)
_VERIFY = flags.DEFINE_string(
    "verify", None, "A saved matching of --a and --b: checks its proof instead of matching."
)


def main(argv: Sequence[str]) -> None:
    """Loads, matches or verifies, prints, saves."""
    del argv
    sae_a = saejax.load_sae(_A.value, _HOOKPOINT.value, _SEED_A.value)
    sae_b = saejax.load_sae(_B.value, _HOOKPOINT.value, _SEED_B.value)
    if unknown := set(_METHODS.value) - set(MATCH_METHODS):
        raise InputError(
            f"--methods={','.join(sorted(unknown))}: choose from {', '.join(MATCH_METHODS)}"
        )
    if _VERIFY.value:
        _verify(sae_a, sae_b, _VERIFY.value)
    elif _SIDE.value == "both":
        _compare(sae_a, sae_b)
    else:
        matchings = []
        for method in _METHODS.value:
            entropic = method == "sinkhorn"
            matchings.append(
                saejax.match(
                    sae_a,
                    sae_b,
                    method=method,
                    side=_SIDE.value,
                    epsilon=_EPSILON.value if entropic else None,
                    tolerance=_TOLERANCE.value if entropic else None,
                )
            )
        for matching in matchings:
            if _OUT.value and is_first():
                matching.save(Path(_OUT.value) / f"{matching.method}.npz")
        print(certificate_table(matchings, threshold=_THRESHOLD.value))


def _compare(sae_a: saejax.Sae, sae_b: saejax.Sae) -> None:
    pairs, matchings, comparison = [], [], None
    for method in _METHODS.value:
        comparison = saejax.compare(
            sae_a,
            sae_b,
            method=method,
            maxima_of=comparison,
            epsilon=_EPSILON.value,
            tolerance=_TOLERANCE.value,
        )
        if _OUT.value and is_first():
            out = Path(_OUT.value)
            comparison.save(out / f"{method}.npz", out / "max_cosine.npz")
        names = (dict(sae_a.metadata).get("seed", "a"), dict(sae_b.metadata).get("seed", "b"))
        pairs.append(
            pair_result(
                names, method, comparison, hookpoint=_HOOKPOINT.value, threshold=_THRESHOLD.value
            )
        )
        matchings += [comparison.decoder, comparison.encoder]
    print(
        overlap_table(pairs), certificate_table(matchings, threshold=_THRESHOLD.value), sep="\n\n"
    )


def _verify(sae_a: saejax.Sae, sae_b: saejax.Sae, path: str) -> None:
    for side in saved_sides(path):
        matching = saejax.Matching.load(path, side)
        try:
            violation = saejax.verify(sae_a, sae_b, matching)
        except saejax.VerificationError as error:
            raise InputError(f"{path}, {side}: not proven: {error}") from None
        assert matching.certificate is not None  # `verify` refuses matchings without.
        claim = "optimal" if matching.certificate.certified else "not claimed to be optimal"
        print(
            f"{path}, {side}: verified, {claim}: {matching.num_matched:,} pairs, sum of cosines "
            f"{matching.certificate.primal:.9f}, gap {matching.certificate.gap:.2g}, largest "
            f"violation {violation:.2g}"
        )


if __name__ == "__main__":
    cli.run(main, several="allowed")
