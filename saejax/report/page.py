"""One self-contained page that tells what a run found: report.html.

Dimension letters: N latents, P pairs of seeds, T thresholds.
"""

import os
import statistics
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from saejax.analysis.ambiguity import ambiguity
from saejax.files import atomic_write
from saejax.progress import Progress
from saejax.report import paper, wording
from saejax.report.analyses import Analyses, read_analyses, seed_figures
from saejax.report.browser import Browser, latent_browser
from saejax.report.figures import cosine_scatter, threshold_curves, training_curves
from saejax.report.firing import firing_figure
from saejax.report.interp import Interp, interp_figures, read_interp
from saejax.report.latent_files import read_seed
from saejax.report.pictures import Captioned, DrawnFigure, Picture, write_picture
from saejax.report.run_files import Pair, Run, load_comparison, read_run
from saejax.rundir import RunDir

_THRESHOLDS = np.linspace(0, 1, 101)
_PUBLISHED = {
    "shared": paper.SHARED_FRAC,
    "aligned": paper.ALIGNED_FRAC,
    "nearest": paper.MAX_COSINE_FRAC,
}
_ARCHITECTURES = {"topk": "TopK"}


class Section(NamedTuple):
    """All pairs at one hook point under one matching method."""

    hookpoint: str
    method: str
    pairs: tuple[Pair, ...]
    scatters: tuple[Picture, ...]  # one a pair
    curves: Picture
    ambiguities: tuple[dict[str, Any], ...]  # one a pair, of entropic plans; empty without
    analyses: Analyses
    seed_pictures: tuple[Captioned, ...]  # of three seeds or more
    firing: Captioned | None  # of the first seed, where `latents/` has its counts

    def fractions(self, name: str) -> list[float]:
        """The values of one definition of "shared", one a pair."""
        return [pair.fractions[name] for pair in self.pairs]

    def mean_cosines(self, name: str) -> list[float]:
        """One of the mean cosines, one a pair."""
        return [pair.mean_cosine[name] for pair in self.pairs]


def write_report(run_dir: str | os.PathLike) -> Path:
    """Writes `report.html` and `figures/*.{svg,png}` into a run directory.

    The page needs no other file, no network and, but for its latent browser, no JavaScript. The
    browser shows each pair by one method, the configuration's first, and of `latents/` what is
    there. A run that is trained but not yet matched gets a page about its training that says
    what is missing. The same inputs give the same bytes.

    Args:
      run_dir: A run directory with config.json, versions.json and metrics.jsonl; and, once
        matched, results/overlap.json and matchings/; once analysed, latents/.

    Returns:
      The path of report.html.

    Raises:
      InputError: For a missing or broken file, naming it and the script that writes it, or
        when the page cannot be written.

    References:
      Paulo & Belrose 2025 (arXiv 2501.16615), figures 1 and A2.
    """
    run = read_run(Path(run_dir))
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in run.pairs:
        groups.setdefault((pair.hookpoint, pair.method), []).append(pair)
    hookpoints = list(dict.fromkeys(hookpoint for hookpoint, _ in groups))
    # Within a hook point, methods that prove their matchings come first: they make the headline.
    ordered = sorted(
        groups.items(),
        key=lambda item: (
            hookpoints.index(item[0][0]),
            not all(pair.certified for pair in item[1]),
        ),
    )
    numbers = count(1)
    analyses = {key: read_analyses(run, pairs) for key, pairs in groups.items()}
    total = 1 + sum(len(pairs) + 1 for pairs in groups.values())
    total += sum(analyses[key].num_figures for key in groups)
    total += sum(_counts_of_first(run, pairs).exists() for pairs in groups.values())
    interp = read_interp(run)
    total += interp.num_figures if interp else 0
    with Progress("report", total=total, unit="figures") as progress:
        sections = [
            _section(run, pairs, analyses[key], numbers, progress) for key, pairs in ordered
        ]
        interp_pictures = _captioned(
            interp_figures(interp) if interp else (), run.path, "", numbers, progress
        )
        training = write_picture(
            training_curves(run.metrics), run.path, "training", next(numbers), "Training", progress
        )
    pairs = [pair for hookpoint in hookpoints for pair in _browsed(run, hookpoint, sections)]
    browser = latent_browser(run, pairs, interp=interp) if pairs else None
    path = RunDir(run.path).report
    with atomic_write(path) as file:
        # A lone surrogate, which JSON can carry, has no UTF-8 form.
        file.write(
            _render(run, sections, training, browser, interp, interp_pictures).encode(
                "utf-8", errors="replace"
            )
        )
    return path


def _browsed(run: Run, hookpoint: str, sections: list[Section]) -> tuple[Pair, ...]:
    """The pairs of the method that `latents/` was made with: the configuration's first."""
    methods = run.config.match.methods
    at_hookpoint = [section for section in sections if section.hookpoint == hookpoint]
    known = [section for section in at_hookpoint if section.method in methods]
    return min(known, key=lambda s: methods.index(s.method), default=at_hookpoint[0]).pairs


def _section(
    run: Run, pairs: list[Pair], analyses: Analyses, numbers: Iterator[int], progress: Progress
) -> Section:
    hookpoint, method = pairs[0].hookpoint, pairs[0].method
    threshold = pairs[0].threshold
    scatters = []
    ambiguities = []
    curves = {"shared": [], "aligned": [], "nearest": []}
    shared_with_first = []
    for pair in pairs:
        comparison = load_comparison(run.path, pair)
        first, second = pair.seeds
        title = f"{hookpoint}: seed {first} and seed {second}, {method}"
        figure = cosine_scatter(
            comparison.decoder.cosine,
            comparison.encoder.cosine,
            comparison.agree,
            threshold=threshold,
            title=title,
        )
        name = f"scatter.{hookpoint}.seed{first}-seed{second}.{method}"
        scatters.append(write_picture(figure, run.path, name, next(numbers), title, progress))
        if (found := ambiguity(comparison, threshold)) is not None:
            ambiguities.append({"seeds": pair.seeds} | found)
        if first == pairs[0].seeds[0]:
            shared_with_first.append(comparison.shared(threshold))
        curves["shared"].append([comparison.shared_frac(t) for t in _THRESHOLDS])
        curves["aligned"].append([comparison.aligned_frac(t) for t in _THRESHOLDS])
        curves["nearest"].append([comparison.max_cosine_frac(t) for t in _THRESHOLDS])
    title = f"{hookpoint}: {len(pairs)} pair{'s' if len(pairs) > 1 else ''}, {method}"
    figure = threshold_curves(
        _THRESHOLDS,
        {label: np.array(fraction_PT) for label, fraction_PT in curves.items()},
        threshold=threshold,
        title=title,
        published=_PUBLISHED,
    )
    name = f"thresholds.{hookpoint}.{method}"
    picture = write_picture(figure, run.path, name, next(numbers), title, progress)
    seed_pictures = _captioned(
        seed_figures(analyses, hookpoint, method),
        run.path,
        f".{hookpoint}.{method}",
        numbers,
        progress,
    )
    firing = None
    if counts := read_seed(_counts_of_first(run, pairs), pairs[0].num_latents):
        title = f"{hookpoint}, seed {pairs[0].seeds[0]}, {method}: shared by how often it fires"
        figure = firing_figure(
            counts.firings_N, int(counts.num_tokens), np.stack(shared_with_first), title=title
        )
        name = f"firing.{hookpoint}.{method}"
        firing = Captioned(
            write_picture(figure, run.path, name, next(numbers), title, progress),
            "Fraction of latents that are shared, and number of latents, by how often they fire.",
            f"Latents of seed {pairs[0].seeds[0]} by the part of {counts.num_tokens:,} tokens on "
            "which they fire, and how many of each group are shared.",
        )
    return Section(
        hookpoint,
        method,
        tuple(pairs),
        tuple(scatters),
        picture,
        tuple(ambiguities),
        analyses,
        seed_pictures,
        firing,
    )


def _captioned(
    figures: Iterable[DrawnFigure],
    run_path: Path,
    suffix: str,
    numbers: Iterator[int],
    progress: Progress,
) -> tuple[Captioned, ...]:
    """Writes figures, with a suffix to the names of their files."""
    return tuple(
        Captioned(
            write_picture(
                each.figure,
                run_path,
                each.name + suffix,
                next(numbers),
                each.title,
                progress,
            ),
            each.alt,
            each.caption,
        )
        for each in figures
    )


def _counts_of_first(run: Run, pairs: list[Pair]) -> Path:
    """File of the firing counts of the first seed."""
    return RunDir(run.path).latents(pairs[0].hookpoint, pairs[0].seeds[0])


def _render(
    run: Run,
    sections: list[Section],
    training: Picture,
    browser: Browser | None,
    interp: Interp | None,
    interp_pictures: tuple[Captioned, ...],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("saejax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": wording.percent,
        "mean": statistics.fmean,
    }
    config, metrics = run.config, run.metrics
    name = run.path.resolve().name
    headline_pairs = sections[0].pairs if sections else ()
    facts = {
        "Language model": config.lm.source.rstrip("/").rsplit("/", maxsplit=1)[-1],
        "Hook point": ", ".join(dict.fromkeys(section.hookpoint for section in sections))
        or config.hookpoint,
        "Autoencoder": (
            f"{_ARCHITECTURES.get(config.sae.arch, config.sae.arch)}, "
            f"{config.sae.num_latents:,} latents, {config.sae.k:,} active"
        ),
        "Training tokens": f"{metrics.tokens[-1]:,} for each seed",
        "Seeds": ", ".join(map(str, config.init_seeds)),
        "Pairs compared": str(len(headline_pairs)) if headline_pairs else "none yet",
        "Final FVU": f"{metrics.fvu[-1].mean():.3f}",
        "Dead latents": wording.percent(metrics.dead_frac[-1].mean()),
    }
    versions = dict(run.versions)
    if run.analysis_commit not in (None, versions.get("commit")):
        versions["commit of the analysis"] = run.analysis_commit
    return environment.get_template("report.html.j2").render(
        name=name,
        headline=wording.headline(run, headline_pairs),
        certainty=wording.certainty(headline_pairs) if headline_pairs else None,
        certainty_of=wording.certainty,
        missing=wording.missing(run),
        threshold=headline_pairs[0].threshold if headline_pairs else config.match.threshold,
        definitions=wording.DEFINITIONS,
        facts=facts,
        sections=sections,
        training=training,
        browser=browser,
        interp=interp,
        interp_pictures=interp_pictures,
        metrics=metrics,
        settings=wording.settings(config),
        versions=versions,
        command=wording.command(config, versions.get("commit", ""), name),
    )
