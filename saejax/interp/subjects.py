"""The latents of a run that are explained and scored, with their windows and questions.

Dimension letters: N latents, R neighbours.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

from saejax.errors import InputError
from saejax.interp.cache import LatentCache, open_cache
from saejax.interp.choose import choose, cosine_bins
from saejax.interp.example import Example
from saejax.interp.examples import Decode, TooFew, nearest_latents, sample
from saejax.interp.judge import BATCH
from saejax.interp.questions import Question, detection, fuzzing
from saejax.interp.sharing import Sharing
from saejax.progress import Progress
from saejax.sae.sae import Sae

KINDS: tuple[Literal["detection", "fuzzing"], ...] = ("detection", "fuzzing")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many latents and windows; see `saejax.interp.examples.sample`."""

    latents: int = 100  # of the first seed; their partners come on top
    num_explain: int = 40
    num_activating: int = 100
    num_non_activating: int = 100
    # Draw the non-activating windows from those in which one of the ten latents fires that are most
    # similar to this one: a harder question (delphi's faiss and neighbour contrast).
    contrastive: bool = False
    batch: int = BATCH
    # Room in an answer for reasoning, beyond what the answer itself takes.
    reasoning_tokens: int = 0
    seed: int = 0


class Choice(NamedTuple):
    """A chosen latent and its place in the comparison of seeds.

    Attributes:
      seed: Its autoencoder.
      latent: Its number.
      level: In how many other seeds it is shared; None if that is not known.
      partner: Of a latent of the first seed that in the second, and the other way round.
      cosine: Of the two decoder rows.
      shared: Whether the two are shared.
      stratum: Level and cosine bin of the latent of the first seed.
      stratum_size: How many latents of the first seed that could be chosen are in it.
    """

    seed: int
    latent: int
    level: int | None = None
    partner: int | None = None
    cosine: float | None = None
    shared: bool | None = None
    stratum: tuple[int, int] = (0, 0)
    stratum_size: int = 0


class Subject(NamedTuple):
    """A chosen latent with what a model is asked about it.

    Attributes:
      choice: The latent.
      num_windows: In how many windows of the text it fires.
      explain: Windows for the explainer.
      questions: By kind, "detection" and "fuzzing", windows for the scorer.
    """

    choice: Choice
    num_windows: int
    explain: Sequence[Example]
    questions: Mapping[str, list[Question]]


class Subjects(NamedTuple):
    """The chosen latents.

    Attributes:
      found: Those that have windows enough.
      too_few: The others, and why.
      num_rare: Latents of the first seed that were not chosen from, as they fire too seldom.
    """

    found: list[Subject]
    too_few: list[tuple[Choice, TooFew]]
    num_rare: int


def find_subjects(
    folders: Mapping[int, Path],
    saes: Mapping[int, Sae],
    sharing: Sharing | None,
    decode: Decode,
    settings: Settings,
) -> Subjects:
    """Chooses latents of the first seed and their partners in the second, and draws their windows.

    Without `sharing` latents of the first seed are drawn uniformly, and have no partners. Latents
    that fire fewer times than windows are needed are not drawn.

    Args:
      folders: The latent cache of each seed, in the order of the run's seeds.
      saes: The autoencoder of each seed.
      sharing: How the first seed's latents are shared.
      decode: Gives the text of each token of a window.
      settings: How many of what.

    Raises:
      InputError: If a number is out of range, a cache cannot be read, or no latent fires enough.
    """
    seeds = list(folders)
    caches = {seed: open_cache(folders[seed]) for seed in (seeds if sharing else seeds[:1])[:2]}
    needed = settings.num_explain + settings.num_activating
    enough_N = caches[seeds[0]].num_firings >= needed
    if not enough_N.any():
        raise InputError(
            f"no latent of seed {seeds[0]} fires on {needed} tokens, num_explain + num_activating: "
            "read more text, or ask for fewer windows"
        )
    choices = _choices(seeds, sharing, enough_N, settings)
    near = _near(saes, choices) if settings.contrastive else {}
    found, too_few = [], []
    with Progress("draw windows", total=len(choices), unit="latents") as progress:
        for choice in choices:
            neighbours = near.get((choice.seed, choice.latent))
            drawn = _subject(caches[choice.seed], choice, decode, settings, neighbours)
            if isinstance(drawn, TooFew):
                too_few.append((choice, drawn))
            else:
                found.append(drawn)
            progress.advance()
    return Subjects(found, too_few, int((~enough_N).sum()))


def _choices(
    seeds: list[int], sharing: Sharing | None, enough_N: np.ndarray, settings: Settings
) -> list[Choice]:
    if sharing is None:
        zeros_N = np.zeros(len(enough_N), np.int64)
        drawn = choose(zeros_N, zeros_N, enough_N, settings.latents, seed=settings.seed)
        size = int(enough_N.sum())
        return [Choice(seeds[0], i, stratum_size=size) for i in drawn.tolist()]
    level_N, partner_levels_N = sharing.levels
    bin_N = cosine_bins(sharing.cosine)
    drawn = choose(level_N, bin_N, enough_N, settings.latents, seed=settings.seed)
    choices = []
    for i in drawn.tolist():
        stratum = int(level_N[i]), int(bin_N[i])
        size = int((enough_N & (level_N == stratum[0]) & (bin_N == stratum[1])).sum())
        partner = int(sharing.partner[i])
        pair = (float(sharing.cosine[i]), bool(sharing.shared[i]), stratum, size)
        if partner < 0:
            choices.append(Choice(seeds[0], i, stratum[0], None, None, False, stratum, size))
            continue
        choices.append(Choice(seeds[0], i, stratum[0], partner, *pair))
        choices.append(Choice(seeds[1], partner, int(partner_levels_N[partner]), i, *pair))
    return choices


def _near(
    saes: Mapping[int, Sae], choices: Sequence[Choice]
) -> dict[tuple[int, int], Int32[np.ndarray, " R"]]:
    """By seed and latent, the most similar latents of the same autoencoder."""
    found = {}
    for seed in {choice.seed for choice in choices}:
        latents = [choice.latent for choice in choices if choice.seed == seed]
        for latent, near_R in zip(latents, nearest_latents(saes[seed], latents), strict=True):
            found[seed, latent] = near_R
    return found


def _subject(
    cache: LatentCache,
    choice: Choice,
    decode: Decode,
    settings: Settings,
    near: Int32[np.ndarray, " R"] | None,
) -> Subject | TooFew:
    examples = sample(
        cache,
        choice.latent,
        decode,
        num_explain=settings.num_explain,
        num_activating=settings.num_activating,
        num_non_activating=settings.num_non_activating,
        seed=settings.seed,
        near=near,
    )
    if isinstance(examples, TooFew):
        return examples
    scored = (*examples.activating, *examples.non_activating)
    own = [settings.seed, choice.seed, choice.latent]
    questions = {"detection": detection(scored, seed=own), "fuzzing": fuzzing(scored, seed=own)}
    return Subject(choice, examples.num_windows, examples.explain, questions)
