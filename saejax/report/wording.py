"""The sentences of a report: what was found, how sure it is, and how to run it again."""

import dataclasses
import json
import re
import shlex
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from saejax.config import Config
from saejax.report.run_files import Pair, Run

# Between a number and its unit, where a line must not break.
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Definition(NamedTuple):
    """One published way to count counterparts: a column of the table."""

    key: str
    label: str
    text: str  # with {threshold}


# Paulo & Belrose 2025 (arXiv 2501.16615), section 3, and the code released with it.
DEFINITIONS = (
    Definition(
        "shared_frac",
        "Shared",
        "The decoder matching and the encoder matching name the same partner, and both cosines "
        "are at least {threshold}. This is the definition in the paper's text, and the number at "
        "the top of this page.",
    ),
    Definition(
        "aligned_frac",
        "Aligned",
        "Both cosines are above {threshold}, each in its own matching; the two partners may be "
        "different latents. This is what the paper's code counts.",
    ),
    Definition(
        "decoder_frac",
        "Decoder only",
        "The cosine in the decoder matching is above {threshold}, whatever the encoder does. The "
        "paper compares models and architectures this way.",
    ),
    Definition(
        "agreement_frac",
        "Same partner",
        "Both matchings name the same partner, at any cosine.",
    ),
    Definition(
        "max_cosine_frac",
        "Nearest",
        "The most similar latent of the other seed has a cosine above {threshold}, for decoders "
        "and for encoders. Several latents may share one nearest neighbour, so this is not one "
        "to one, and it depends on which seed comes first.",
    ),
)


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal."""
    return f"{100 * fraction:.1f}{_NO_BREAK}%"


def percent_range(fractions: Sequence[float]) -> str:
    """Smallest and largest of some fractions, as percentages."""
    return f"{100 * min(fractions):.1f} to {percent(max(fractions))}"


def headline(run: Run, pairs: Sequence[Pair]) -> str:
    """The answer in one sentence; `pairs` are of one hook point and method of the run."""
    if not pairs:
        count = len(run.config.init_seeds)
        return (
            "One seed was trained; a comparison needs two."
            if count == 1
            else f"{count} seeds were trained; their latents have not been compared yet."
        )
    shared = [pair.fractions["shared_frac"] for pair in pairs]
    if len(pairs) == 1:
        first, second = pairs[0].seeds
        answer = (
            f"{percent(shared[0])} of the latents of seed {first} have a counterpart in seed "
            f"{second}."
        )
    else:
        answer = (
            f"On average {percent(statistics.fmean(shared))} (range {percent_range(shared)}) of "
            "the latents of one seed have a counterpart in another seed."
        )
    if len({pair.hookpoint for pair in run.pairs}) == 1:
        return answer
    return f"At {pairs[0].hookpoint}: {answer[0].lower()}{answer[1:]}"


def certainty(pairs: Sequence[Pair]) -> str:
    """Whether the matchings of some pairs are proven to be the best ones."""
    solvers = " and ".join(sorted({pair.solver for pair in pairs}))
    gaps = [pair.relative_gap for pair in pairs if pair.relative_gap is not None]
    proven = sum(pair.certified for pair in pairs)
    if proven == len(pairs):
        which = "The matchings are" if proven == 1 else f"The matchings of all {proven} pairs are"
        largest = f"largest relative gap {max(gaps):.1g}; " if gaps else ""
        return (
            f"{which} proven optimal ({largest}solver: {solvers}): no other one-to-one pairing "
            "has a larger total cosine."
        )
    start = (
        f"The matchings of {proven} of {len(pairs)} pairs are proven optimal"
        if proven
        else "The matchings are not proven optimal"
    )
    if len(gaps) < len(pairs):
        return f"{start} (solver: {solvers}), and there is no bound on how far from it they are."
    return (
        f"{start} (solver: {solvers}); the total cosine of the best one-to-one pairing is at most "
        f"{100 * max(gaps):.2g}{_NO_BREAK}% larger."
    )


def missing(run: Run) -> str | None:
    """What to run for the part of the page that is missing, or None."""
    if run.pairs:
        return None
    if len(run.config.init_seeds) == 1:
        return "Train more seeds, as in --config.init_seeds=1,2, to see how much they share."
    return (
        "There are no results of matching (results/overlap.json): run experiments/seed_overlap.py "
        "with the same configuration and working directory. It matches every pair, keeps what is "
        "finished, and writes this page again."
    )


def missing_latents(files: Sequence[str], run_name: str) -> str:
    """What makes the files that the latent browser lacks, which are given by their names."""
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    run = shlex.quote(f"runs/{run_name}")
    return (
        "Text snippets, logit-lens tokens, firing rates, co-firing and runner-up partners are not "
        f"all here: there is no {', '.join(files[:3])}{more}. They are made by python "
        f"experiments/analyze.py --run={run}; then python experiments/report.py --run={run} "
        "writes this page again."
    )


def left_out(
    hookpoint: str,
    *,
    budget: int,
    snippets: tuple[int, int],
    latents: tuple[int, int],
    first_seed: int,
) -> str:
    """What of the latents' descriptions is in the page, each given with how much there is."""
    parts = []
    if snippets[0] < snippets[1]:
        parts.append(f"the {snippets[0]} strongest of {snippets[1]} snippets of a latent")
    if latents[0] < latents[1]:
        parts.append(
            f"descriptions of the first {latents[0]:,} of {latents[1]:,} latents of seed "
            f"{first_seed} and of their partners in the other seeds (the list has all latents)"
        )
    return (
        f"To stay small ({budget / 2**20:.3g}{_NO_BREAK}MiB for the descriptions of latents at "
        f"{hookpoint}), this page holds {', and '.join(parts)}. The rest is in "
        f"latents/{hookpoint}/."
    )


def settings(config: Config) -> dict[str, dict[str, object]]:
    """Every field of a configuration, by its group; the fields of no group come first."""
    groups: dict[str, dict[str, object]] = {"run": {}}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            groups[name] = value
        else:
            groups["run"][name] = value
    return groups


def command(config: Config, commit: str, run_name: str) -> str:
    """Shell lines that run the same again.

    They set every field, so that it does not matter which file of `configs/` they start from.
    """

    def literal(value: object) -> str:
        # The flags read tuples as Python writes them.
        if isinstance(value, tuple):
            return f"({''.join(f'{json.dumps(item)},' for item in value)})"
        return str(value)

    flags = [
        f"--config.{name if group == 'run' else f'{group}.{name}'}={shlex.quote(literal(value))}"
        for group, fields in settings(config).items()
        for name, value in fields.items()
    ]
    parts = [
        "python experiments/seed_overlap.py",
        "--config=configs/quickstart.py",
        f"--workdir={shlex.quote(f'runs/{run_name}-again')}",
        *flags,
    ]
    # A commit that is not a plain hash ("unknown", "...-dirty") cannot be checked out.
    checkout = f"git checkout {commit}\n" if re.fullmatch("[0-9a-f]{7,40}", commit) else ""
    return checkout + " \\\n  ".join(parts)
