"""What the explanations of a run add to its report: `results/interp.json`, checked and in words."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.interp.summary import SOURCES, paired, score_of, weighted
from saejax.report import interp_words as words
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
      levels: Rows of the table of means of detection and fuzzing.
      embedding_levels: Rows of that of embedding scores; () without an encoder.
      findings: As sentences.
      missing: What is not there, and why, as sentences.
      shared: Examples: shared pairs of the highest scores.
      unshared: Latents that no other seed has, of the highest scores.
      latents: What the latent browser shows, by seed and latent.
    """

    record: dict[str, Any]
    about: tuple[str, ...]
    levels: tuple[LevelRow, ...]
    embedding_levels: tuple[LevelRow, ...]
    findings: tuple[str, ...]
    missing: tuple[str, ...]
    shared: tuple[ExampleRow, ...]
    unshared: tuple[ExampleRow, ...]
    latents: dict[int, dict[int, dict[str, Any]]]

    @property
    def num_figures(self) -> int:
        """How many `interp_figures` draws."""
        shown = bool(_base(self.record)) + bool(_pairs(self.record))
        return shown + _embedded(self.record)


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
            tuple(words.about(record)),
            tuple(_levels(record, "mean")),
            tuple(_levels(record, "embedding")),
            tuple(words.findings(record)),
            tuple(words.missing(record)),
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
    """Draws the scores by level, also those by an encoder, and, of two seeds, those of partners."""
    record = interp.record
    if not _base(record):
        return
    title = f"{record['hookpoint']}, seed {record['base_seed']}: scores of explanations"
    yield DrawnFigure(
        f"interp.levels.{record['hookpoint']}",
        score_histograms(
            _groups(record, "mean"),
            title=title,
            measure="mean balanced accuracy of detection and fuzzing",
        ),
        title,
        "Histograms of explanation scores, one for each number of seeds that share the latents.",
        "Scores by how many other seeds share a latent, and how many latents were scored. Latents "
        "are weighted so that they stand for all of the level that fire often enough; vertical "
        "lines are means.",
    )
    if _embedded(record):
        title = f"{record['hookpoint']}, seed {record['base_seed']}: embedding scores"
        yield DrawnFigure(
            f"interp.embedding.{record['hookpoint']}",
            score_histograms(
                _groups(record, "embedding"),
                title=title,
                measure="AUROC of the cosine with the explanation",
            ),
            title,
            "Histograms of embedding scores, one for each number of seeds that share the latents.",
            "How well the cosine with the explanation tells windows in which the latent fires from "
            "others, for the same latents with the same weights.",
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


def _embedded(record: Mapping[str, Any]) -> bool:
    """Whether an encoder scored latents of the base seed."""
    rows = _base(record)
    return any(score_of(row, s, "embedding") is not None for row in rows for s in SOURCES)


def _groups(record: Mapping[str, Any], kind: str) -> list[Group]:
    base = _base(record)
    groups = []
    for level in sorted(
        {row["level"] for row in base}, key=lambda level: -1 if level is None else level
    ):
        of_level = [row for row in base if row["level"] == level]
        scores = (Scores(*weighted(of_level, source, kind)) for source in SOURCES)
        groups.append(Group(_level_name(level), *scores))
    return groups


def _levels(record: Mapping[str, Any], kind: str) -> Iterator[LevelRow]:
    # Results without an encoder have no embedding scores.
    if kind not in record["summaries"]:
        return
    names = {"llm": record["explainer"], "token_set": "token set"}
    by_level = record["summaries"][kind]["by_level"]
    for source in SOURCES:
        for row in by_level[source]:
            interval = row["mean_interval"] and tuple(row["mean_interval"])
            name = _level_name(row["level"])
            yield LevelRow(name, names[source], row["num"], row["mean"], interval, row["median"])


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
    fields = {
        "detection": "balanced_accuracy",
        "fuzzing": "balanced_accuracy",
        "embedding": "auroc",
    }
    parts: Sequence[str] = [
        f"{kind} {each[kind][field]:.2f} ({each[kind]['interval'][0]:.2f} to "
        f"{each[kind]['interval'][1]:.2f})"
        for kind, field in fields.items()
        if kind in each and each[kind][field] is not None
    ]
    return ", ".join(parts) or "no scores"
