"""What the explanations of a run add to its report: `results/interp.json`, checked and in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.interp.summary import SOURCES, paired, score_of, weighted
from saejax.report.interp_figures import Group, Scores, pair_scores, score_histograms
from saejax.report.pictures import DrawnFigure
from saejax.report.run_files import Run
from saejax.rundir import RunDir

# Rows of each half of the table of examples.
_EXAMPLES = 5


class LevelRow(NamedTuple):
    """A row of the table: a level, who explains, and the scores."""

    level: str
    source: str
    num: int
    mean: float
    interval: tuple[float, float] | None
    median: float


class ExampleRow(NamedTuple):
    """A latent of the base seed with its explanation, and the same of its partner if shared."""

    cosine: float
    latent: int
    score: float
    explanation: str
    partner: int
    partner_score: float | None
    partner_explanation: str


class Interp(NamedTuple):
    """Explanations and their scores.

    Attributes:
      record: `results/interp.json`.
      about: Who explained, and how to read scores, as sentences.
      levels: Rows of the table.
      findings: As sentences.
      missing: What is not there, and why, as sentences.
      shared: Examples: shared pairs of the highest scores.
      unshared: Latents that no other seed has, of the highest scores.
      latents: What the latent browser shows, by seed and latent.
    """

    record: dict[str, Any]
    about: tuple[str, ...]
    levels: tuple[LevelRow, ...]
    findings: tuple[str, ...]
    missing: tuple[str, ...]
    shared: tuple[ExampleRow, ...]
    unshared: tuple[ExampleRow, ...]
    latents: dict[int, dict[int, dict[str, Any]]]

    @property
    def num_figures(self) -> int:
        """How many `interp_figures` draws."""
        return bool(_base(self.record)) + bool(_pairs(self.record))


def read_interp(run: Run) -> Interp | None:
    """Reads the explanations of a run; None if there are none.

    Raises:
      InputError: If `results/interp.json` is broken.
    """
    files = RunDir(run.path)
    path = files.result("interp")
    if not path.exists():
        return None
    try:
        if (record := files.read_result("interp")) is None:
            raise ValueError("no object of JSON")
        return Interp(
            record,
            _about(record),
            tuple(_levels(record)),
            tuple(_findings(record)),
            tuple(_missing(record)),
            *_examples(record),
            _of_latents(record),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        # JSON of another shape than the script writes.
        raise InputError(
            f"{path} does not fit ({type(error).__name__}: {error}): "
            f"experiments/interpret.py --run={run.path} writes it anew"
        ) from None


def interp_figures(interp: Interp) -> Iterator[DrawnFigure]:
    """Draws the scores by level and, of two seeds, those of partners."""
    record = interp.record
    if not _base(record):
        return
    title = f"{record['hookpoint']}, seed {record['base_seed']}: scores of explanations"
    yield DrawnFigure(
        f"interp.levels.{record['hookpoint']}",
        score_histograms(_groups(record), title=title),
        title,
        "Histograms of explanation scores, one for each number of seeds that share the latents.",
        "Scores by how many other seeds share a latent, and how many latents were scored. Latents "
        "are weighted so that they stand for all of the level that fire often enough; vertical "
        "lines are means.",
    )
    if pairs := _pairs(record):
        seeds = record["base_seed"], record["partner_seed"]
        title = f"{record['hookpoint']}: scores of partners in seeds {seeds[0]} and {seeds[1]}"
        first, second = (np.array([pair[i] for pair in pairs]) for i in (0, 1))
        figure = pair_scores(
            first,
            second,
            np.array([row["cosine"] for *_, row in pairs]),
            np.array([row["shared"] for *_, row in pairs], bool),
            seeds=seeds,
            title=title,
        )
        source = "the language model" if record["explainer"] else "sets of tokens"
        yield DrawnFigure(
            f"interp.pairs.{record['hookpoint']}",
            figure,
            title,
            "Scatter plot of explanation scores of latents against those of their partners.",
            f"A latent and its partner, each explained on its own by {source}; the colour is the "
            "cosine of their decoder directions. After figure 3 of the paper.",
        )


def _pairs(record: Mapping[str, Any]) -> list[Any]:
    source = "llm" if record["explainer"] else "token_set"
    return paired(record["latents"], source, "mean", base_seed=record["base_seed"])


def _level_name(level: int | None) -> str:
    if level is None:
        return "all latents"
    return f"{level or 'no'} other{'s' * (level != 1)}"


def _base(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in record["latents"] if row["seed"] == record["base_seed"]]


def _groups(record: Mapping[str, Any]) -> list[Group]:
    base = _base(record)
    groups = []
    for level in sorted(
        {row["level"] for row in base}, key=lambda level: -1 if level is None else level
    ):
        of_level = [row for row in base if row["level"] == level]
        scores = (Scores(*weighted(of_level, source, "mean")) for source in SOURCES)
        groups.append(Group(_level_name(level), *scores))
    return groups


def _about(record: Mapping[str, Any]) -> tuple[str, ...]:
    settings = record["settings"]
    fires, silent = settings["num_activating"], settings["num_non_activating"]
    windows = f"{fires} windows in which it fires and {silent} others"
    if record["explainer"]:
        who = (
            f"{record['explainer']} saw {settings['num_explain']} windows of each latent and "
            f"explained it; {record['scorer']} judged by the explanation {windows}."
        )
    else:
        who = f"No language model was asked: here are sets of tokens alone, judged on {windows}."
    return (
        f"{who} Detection asks whether a window fits the explanation, fuzzing whether the right "
        "tokens are marked. A score is the mean of the two balanced accuracies: 0.5 is chance, 1 "
        "is perfect.",
        "The reference is the simplest explanation, the set of tokens on which the latent fires at "
        "least at every second place, which needs no language model: what a model's explanations "
        "score above it is what they add. Scores depend on the models: compare them within a run.",
    )


def _levels(record: Mapping[str, Any]) -> Iterator[LevelRow]:
    names = {"llm": record["explainer"], "token_set": "token set"}
    by_level = record["summaries"]["mean"]["by_level"]
    for source in SOURCES:
        for row in by_level[source]:
            interval = row["mean_interval"] and tuple(row["mean_interval"])
            name = _level_name(row["level"])
            yield LevelRow(name, names[source], row["num"], row["mean"], interval, row["median"])


def _findings(record: Mapping[str, Any]) -> Iterator[str]:
    found = record["summaries"]["mean"]
    names = {"llm": record["explainer"], "token_set": "the sets of tokens"}
    for source in SOURCES:
        if (each := found["difference"][source]) is not None:
            text = (
                f"Explained by {names[source]}, latents that another seed shares have a mean score "
                f"of {each['shared']:.3f}, those that none does {each['unshared']:.3f}"
            )
            if each["interval"]:
                low, high = each["interval"]
                text += f" (95 % interval of the difference: {low:+.3f} to {high:+.3f})"
            yield f"{text}."
    if (wins := found["llm_beats_token_set"]) is not None:
        total = wins["won"] + wins["tied"] + wins["lost"]
        yield (
            f"{names['llm']} scores above the set of tokens for {wins['won']} of {total} latents, "
            f"the same for {wins['tied']}, and below for {wins['lost']}."
        )
    for source in SOURCES:
        pairs = found["pairs"][source]
        if pairs["correlation"] is not None:
            text = (
                f"Over {pairs['num']} pairs explained by {names[source]}, the rank correlation of "
                f"the two scores is {pairs['correlation']:.2f}"
            )
            if pairs["mean_with_cosine"] is not None:
                text += f", and that of their mean with the cosine {pairs['mean_with_cosine']:.2f}"
            yield f"{text}."


def _missing(record: Mapping[str, Any]) -> Iterator[str]:
    for stage, reason in record["missing"].items():
        yield f"{stage}: {reason}."
    if few := record["too_few"]:
        yield f"{len(few)} chosen latents fire in too few windows to be scored."
    if record["num_rare"]:
        yield (
            f"{record['num_rare']} latents of seed {record['base_seed']} fire too seldom to be "
            "chosen."
        )
    counts = record["summaries"]["counts"]
    said = [f"{number} {name}" for name, number in counts["problems"].items()]
    if said:
        yield f"Answers without an explanation: {', '.join(said)}."
    if counts["unparsable_windows"]:
        yield f"{counts['unparsable_windows']} windows have no readable verdict and do not count."


def _examples(
    record: Mapping[str, Any],
) -> tuple[tuple[ExampleRow, ...], tuple[ExampleRow, ...]]:
    """Of the language model's explanations, shared pairs and unshared latents, best first."""
    rows = record["latents"]
    pairs = paired(rows, "llm", "mean", base_seed=record["base_seed"])
    partners = {row["partner"]: row for row in rows if row["seed"] != record["base_seed"]}
    shared = [
        ExampleRow(
            row["cosine"],
            row["latent"],
            own,
            row["llm"]["explanation"],
            row["partner"],
            other,
            partners[row["latent"]]["llm"]["explanation"],
        )
        for own, other, row in pairs
        if row["shared"]
    ]
    unshared = [
        ExampleRow(
            row["cosine"] or 0.0, row["latent"], own, row["llm"]["explanation"], -1, None, ""
        )
        for row in _base(record)
        if row["level"] == 0 and (own := score_of(row, "llm", "mean")) is not None
    ]
    shared.sort(key=lambda row: (-(row.score + (row.partner_score or 0)), row.latent))
    unshared.sort(key=lambda row: (-row.score, row.latent))
    return tuple(shared[:_EXAMPLES]), tuple(unshared[:_EXAMPLES])


def _of_latents(record: Mapping[str, Any]) -> dict[int, dict[int, dict[str, Any]]]:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for row in record["latents"]:
        said = []
        for source, name in (("llm", record["explainer"]), ("token_set", "the set of tokens")):
            if (each := row[source]) is not None:
                text = each["explanation"] or f"none ({each['problem']})"
                said.append({"by": name, "text": text, "scores": _scores(each)})
        score = score_of(row, "llm" if record["explainer"] else "token_set", "mean")
        found.setdefault(row["seed"], {})[row["latent"]] = {"score": score, "said": said}
    return found


def _scores(each: Mapping[str, Any]) -> str:
    parts: Sequence[str] = [
        f"{kind} {each[kind]['balanced_accuracy']:.2f} ({each[kind]['interval'][0]:.2f} to "
        f"{each[kind]['interval'][1]:.2f})"
        for kind in ("detection", "fuzzing")
        if kind in each and each[kind]["balanced_accuracy"] is not None
    ]
    return ", ".join(parts) or "no scores"
