"""What the analyses of a run add to its report: errors, chance, and what more seeds find."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from saejax.errors import InputError
from saejax.report.pictures import DrawnFigure
from saejax.report.run_files import Pair, Run
from saejax.report.trend_figures import donut_figure, levels_figure, trend_figure
from saejax.report.wording import percent
from saejax.rundir import RunDir

_Value = TypeVar("_Value")


class Analyses(NamedTuple):
    """Of the pairs at one hook point by one method; empty where an analysis was not made.

    Attributes:
      errors: Standard error over seeds of the mean of each fraction.
      spread: What they say, as a sentence.
      chance: What chance gives, as a sentence.
      seeds: What more seeds find, as sentences.
      record: `results/seeds.json`, from three seeds on.
    """

    errors: dict[str, float]
    spread: str
    chance: str
    seeds: tuple[str, ...]
    record: dict[str, Any] | None

    @property
    def num_figures(self) -> int:
        """How many `seed_figures` draws."""
        return 0 if self.record is None else 3


def read_analyses(run: Run, pairs: Sequence[Pair]) -> Analyses:
    """Reads `results/{spread,null,seeds}.json`, as far as they are there.

    Args:
      run: The run.
      pairs: Those at one hook point by one method.

    Raises:
      InputError: If one of them is broken, or of other matchings than `results/overlap.json`.
    """
    hookpoint, method = pairs[0].hookpoint, pairs[0].method
    if hookpoint != run.config.hookpoint:
        return Analyses({}, "", "", (), None)
    shared = {pair.seeds: pair.fractions["shared_frac"] for pair in pairs}

    def spread(record: dict[str, Any]) -> tuple[dict[str, float], str] | None:
        if method not in record["methods"]:
            return None
        spreads = record["methods"][method]
        _check_same(spreads["shared_frac"]["mean"], sum(shared.values()) / len(shared))
        if (own := spreads["shared_frac"])["standard_error"] is None:
            return None
        return (
            {name: float(each["standard_error"]) for name, each in spreads.items()},
            "Behind the means: their standard errors by the jackknife over seeds. The "
            f"interval of the shared fraction over seeds, at {percent(record['confidence'])} "
            f"confidence, is {percent(own['low'])} to {percent(own['high'])}.",
        )

    def seeds(record: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]] | None:
        if record["method"] != method or len(record["seeds"]) < 3:
            return None
        for row in record["pairs"]:
            _check_same(row["shared_frac"], shared[tuple(row["seeds"])])
        return _seed_sentences(record), record

    errors, about_spread = _read(run, "spread", spread) or ({}, "")
    about_seeds, record = _read(run, "seeds", seeds) or ((), None)
    return Analyses(errors, about_spread, _read(run, "null", _chance) or "", about_seeds, record)


def seed_figures(analyses: Analyses, hookpoint: str, method: str) -> Iterator[DrawnFigure]:
    """Draws what more seeds find, where that was computed."""
    if (record := analyses.record) is None:
        return
    S, first = len(record["seeds"]), record["seeds"][0]
    title = f"{hookpoint}: {S} seeds, {method}"
    yield DrawnFigure(
        "trend",
        trend_figure(record["trend"], record["fits"], title=title),
        title,
        "Fraction of latents that are only in the base, falling with the number of autoencoders.",
        "Latents of one seed that none of k - 1 others has, by the number k of autoencoders: means "
        "over all choices of seeds, which is exact. Diamonds are the paper's.",
    )
    yield DrawnFigure(
        "levels",
        levels_figure(record["levels"], title=title),
        title,
        "Bars of the fraction of latents by the number of other seeds that share them.",
        "Latents by how many of the other seeds share them.",
    )
    title = f"{hookpoint}: seed {first} and {S - 1} others, {method}"
    yield DrawnFigure(
        "donut",
        donut_figure(record["levels"][0], title=title),
        title,
        f"Ring of the latents of seed {first} by the number of other seeds that share them.",
        f"The same of seed {first} alone.",
    )


def _read(run: Run, name: str, read: Callable[[dict[str, Any]], _Value]) -> _Value | None:
    files = RunDir(run.path)
    path = files.result(name)
    if not path.exists():
        return None
    try:
        if (record := files.read_result(name)) is None:
            raise ValueError("no object of JSON")
        return read(record)
    except (KeyError, TypeError, ValueError) as error:
        # JSON of another shape than the analysis writes.
        raise InputError(
            f"{path} does not fit ({type(error).__name__}: {error}): "
            f"experiments/analyze.py --run={run.path} writes it anew"
        ) from None


def _check_same(found: float, of_overlap: float) -> None:
    # Less than a latent of a million.
    if abs(found - of_overlap) > 1e-6:
        raise ValueError(
            f"{found:.6f} are shared, but {of_overlap:.6f} by results/overlap.json: it is of other "
            "matchings"
        )


def _chance(record: dict[str, Any]) -> str:
    directions, rotated = record["directions"], record["rotated"]
    return (
        f"Chance: the best of {record['num_latents']:,} random directions of width "
        f"{record['width']:,} has a cosine of {directions['best_cosine']:.3f} on average, above "
        f"{record['threshold']:g} with probability {directions['above_frac']:.1g}. With the second "
        f"dictionary rotated at random, {percent(rotated['shared_frac'])} of the latents have a "
        f"counterpart, and {percent(rotated['agreement_frac'])} the same partner in both matchings."
    )


def _seed_sentences(record: dict[str, Any]) -> tuple[str, ...]:
    S = len(record["seeds"])
    last = record["trend"][-1]["only_in_base_frac"]
    sentences = [
        f"{percent(last)} of the latents of a seed are in none of the {S - 1} others, and "
        f"{percent(record['cycles']['core_frac'])} are the same in all {S}."
    ]
    repeats = record["repeats"]
    if None not in (repeats["after_shared_frac"], repeats["after_unshared_frac"]):
        sentences.append(
            f"A latent that one seed shares is shared by another with a chance of "
            f"{percent(repeats['after_shared_frac'])}, one that is not shared by it with "
            f"{percent(repeats['after_unshared_frac'])}: were sharing independent, both would be "
            f"{percent(repeats['shared_frac'])}."
        )
    return tuple(sentences)
