"""What the report's latent browser shows, packed for the page that holds it.

The page carries blocks (see browser_blocks.py), each in a script element that is never run;
browser.js decodes those it needs when it needs them. A manifest, plain JSON, says what lies where:

- `blocks`: the name, type and length of each array of a block, in order.
- `tokens`: the block with the text of all tokens; `planes`: bytes of a token's number.
- `places`, one a hook point: `seeds`, each with `core` (firing rates and values of all latents),
  `lens` and `num_tokens`; `snippets`, a block a rank; `described`, the latents that have a
  lens and snippets, null for all; and `explained`, by seed and latent what
  `saejax.report.interp` says of its explanations.
- `views`, one a pair of seeds: its `place`, `core` (partners, cosines, co-firing) and `details`
  (neighbours, entropic plan) of the described latents of the first seed.

Dimension letters: n latents that are described.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from saejax.analysis.compare import Comparison
from saejax.analysis.latent_files import PairLatents, SeedLatents
from saejax.errors import InputError
from saejax.matching import Matching
from saejax.matching.matching import Soft
from saejax.progress import Progress
from saejax.report import browser_blocks, wording
from saejax.report.browser_blocks import Block, Tokens, number_tokens, pack
from saejax.report.interp import Interp
from saejax.report.latent_files import read_pair, read_seed
from saejax.report.run_files import Pair, Run, load_comparison
from saejax.rundir import RunDir

# What snippets, tokens and neighbours may take of the page: all that there is for three seeds of
# the paper's 32,768 latents, which a browser still opens within seconds.
BUDGET_BYTES = 32 * 2**20


class Browser(NamedTuple):
    """The data of a latent browser."""

    manifest: dict[str, Any]
    blocks: dict[str, str]  # by the id of their elements
    notes: tuple[str, ...]  # what is not in the page, and why


class _View(NamedTuple):
    pair: Pair
    comparison: Comparison
    soft: Soft | None
    latents: PairLatents | None


class _Place(NamedTuple):
    hookpoint: str
    views: list[_View]
    seeds: dict[int, SeedLatents]  # those that have a file
    missing: list[str]  # names of files

    @property
    def num_latents(self) -> int:
        return self.views[0].pair.num_latents

    @property
    def num_snippets(self) -> int:
        """Snippets of each latent."""
        return next((s.context_tokens_NCW.shape[1] for s in self.seeds.values()), 0)

    @property
    def first_seed(self) -> int:
        return self.views[0].pair.seeds[0]


def latent_browser(
    run: Run,
    pairs: Sequence[Pair],
    *,
    interp: Interp | None = None,
    budget_bytes: int = BUDGET_BYTES,
) -> Browser:
    """Packs the matchings of some pairs, and what `latents/` says of their latents.

    Files that are missing leave their part of the browser empty, and a note names them. What
    does not fit in the budget is left out alike for all latents: snippets of lower rank first;
    then descriptions of all but the first latents of the first seed and their partners.

    Args:
      run: The run.
      pairs: At most one for each hook point and two seeds.
      interp: Explanations of some latents, all of which are shown.
      budget_bytes: Most that snippets, logit-lens tokens, neighbours and plans may take. Lists
        of partners, cosines and firing rates come on top, about 20 bytes a latent and pair.

    Raises:
      InputError: For a broken matching or file of latents, naming it.
    """
    grouped: dict[str, list[Pair]] = {}
    for pair in pairs:
        grouped.setdefault(pair.hookpoint, []).append(pair)
    blocks: dict[str, Block] = {}

    def add(block: Block) -> str:
        name = f"block-{len(blocks)}"
        blocks[name] = block
        return name

    notes = []
    places, views = [], []
    with Progress("latent browser", total=2 * len(pairs), unit="pairs") as progress:
        found = [_read_place(run, group, progress) for group in grouped.values()]
        if files := [file for place in found for file in place.missing]:
            notes.append(wording.missing_latents(files, run.path.resolve().name))
        seeds = [latents for place in found for latents in place.seeds.values()]
        tokens, why = number_tokens(seeds, run.config.lm.source)
        if why is not None:
            notes.append(f"Tokens are shown by their numbers, for want of the tokenizer: {why}.")
        for place in found:
            record, of_pairs, note = _describe(place, tokens, budget_bytes // len(found), add)
            views += [view | {"place": len(places)} for view in of_pairs]
            explained = {}
            if interp is not None and interp.record["hookpoint"] == place.hookpoint:
                explained = interp.latents
            places.append(record | {"explained": explained})
            notes += [note] if note else []
            progress.advance(len(of_pairs))
    manifest = {
        "tokens": add(pack(tokens.text)),
        "planes": tokens.num_planes,
        "places": places,
        "views": views,
        "blocks": {name: block.layout for name, block in blocks.items()},
    }
    return Browser(manifest, {name: block.text for name, block in blocks.items()}, tuple(notes))


def _read_place(run: Run, pairs: list[Pair], progress: Progress) -> _Place:
    hookpoint, num_latents = pairs[0].hookpoint, pairs[0].num_latents
    folder = run.path / "latents" / hookpoint
    views, seeds, missing = [], {}, []
    for seed in dict.fromkeys(seed for pair in pairs for seed in pair.seeds):
        latents = read_seed(folder / f"seed{seed}.npz", num_latents)
        if latents is None:
            missing.append(f"latents/{hookpoint}/seed{seed}.npz")
        else:
            seeds[seed] = latents
    shapes = {latents.context_tokens_NCW.shape for latents in seeds.values()}
    if len(shapes) > 1:
        raise InputError(f"{folder}: contexts of shapes {shapes} in one folder: make it again")
    for pair in pairs:
        name = f"seed{pair.seeds[0]}-seed{pair.seeds[1]}.npz"
        latents = read_pair(folder / name, num_latents)
        if latents is None:
            missing.append(f"latents/{hookpoint}/{name}")
        comparison = load_comparison(run.path, pair)
        views.append(_View(pair, comparison, _soft(run, pair, comparison), latents))
        progress.advance()
    return _Place(hookpoint, views, seeds, missing)


def _soft(run: Run, pair: Pair, comparison: Comparison) -> Soft | None:
    """What an entropic plan of the same decoders says, whichever method the pair is of."""
    if comparison.decoder.soft is not None:
        return comparison.decoder.soft
    wanted = (pair.hookpoint, "sinkhorn", pair.seeds)
    if wanted not in [(other.hookpoint, other.method, other.seeds) for other in run.pairs]:
        return None
    path = RunDir(run.path).matching(pair.hookpoint, pair.seeds, "sinkhorn")
    return Matching.load(path, "decoder").soft


def _describe(
    place: _Place, tokens: Tokens, budget: int, add: Callable[[Block], str]
) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
    """The manifest of a hook point, those of its pairs, and what was left out."""
    seeds = place.seeds
    num = place.num_latents
    while True:
        rows = _described(place, num)
        details = [
            pack(browser_blocks.pair_details(view.soft, view.latents, rows[view.pair.seeds[0]]))
            for view in place.views
        ]
        lenses = [pack(browser_blocks.lens(seeds[s], rows[s], tokens)) for s in seeds]
        known: dict[bytes, int] = {}
        ranks = [pack(browser_blocks.snippets(seeds, rows, 0, tokens, known))] if seeds else []
        size = sum(len(block.text) for block in [*details, *lenses, *ranks])
        if size <= budget or num == 1:
            break
        # Small blocks compress a little worse.
        num = max(1, int(0.95 * num * budget / size))
    for rank in range(1, place.num_snippets):
        block = pack(browser_blocks.snippets(seeds, rows, rank, tokens, known))
        size += len(block.text)
        if size > budget:
            break
        ranks.append(block)
    note = described = None
    if num < place.num_latents or len(ranks) < place.num_snippets:
        note = wording.left_out(
            place.hookpoint,
            budget=budget,
            snippets=(len(ranks), place.num_snippets),
            latents=(num, place.num_latents),
            first_seed=place.first_seed,
        )
    if num < place.num_latents:
        arrays = {f"seed{seed}": rows_n.astype(np.int32) for seed, rows_n in rows.items()}
        described = add(pack(arrays))
    record = {
        "hookpoint": place.hookpoint,
        "num_latents": place.num_latents,
        "described": described,
        "snippets": [add(block) for block in ranks],
        "seeds": {
            seed: {
                "num_tokens": int(latents.num_tokens),
                "core": add(pack(browser_blocks.seed_core(latents))),
                "lens": add(block),
            }
            for (seed, latents), block in zip(seeds.items(), lenses, strict=True)
        },
    }
    views = [
        {
            "seeds": view.pair.seeds,
            "method": view.pair.method,
            "threshold": view.pair.threshold,
            "epsilon": None if view.soft is None else view.soft.epsilon,
            "core": add(
                pack(browser_blocks.pair_core(view.comparison, view.pair.threshold, view.latents))
            ),
            "details": add(block),
        }
        for view, block in zip(place.views, details, strict=True)
    ]
    return record, views, note


def _described(place: _Place, num: int) -> dict[int, np.ndarray]:
    """The first latents of the first seed, and their partners in the others, rising.

    Numbers of latents mean nothing, so these are a fair sample, and both sides of their pairs
    are in the page.
    """
    rows = {seed: np.arange(num) for view in place.views for seed in view.pair.seeds}
    for view in place.views:
        if view.pair.seeds[0] == place.first_seed:
            target_n = view.comparison.decoder.target[:num]
            rows[view.pair.seeds[1]] = np.sort(target_n[target_n >= 0])
    return rows
