"""results/interp.json, and files of explanations and scores beside it, as delphi lays them out.

In a run's folder interp/: explanations/<hookpoint>.seed<i>_latent<j>.txt, each a string of JSON,
and scores/<scorer>/<hookpoint>.seed<i>_latent<j>.txt, see `saejax.interp.delphi_scores`, for the
scorers detection, fuzz, token_set_detection and token_set_fuzz. Cosines with an encoder are not
among them, as delphi's analysis of that folder fails on the files of its own embedding scorer.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saejax.files import atomic_write, explain_os_errors
from saejax.interp import embedding
from saejax.interp.delphi_scores import write_delphi
from saejax.interp.run import Explained
from saejax.interp.score import score
from saejax.interp.subjects import KINDS, Subject, Subjects

# As delphi calls them.
_DELPHI = {"detection": "detection", "fuzzing": "fuzz"}


def rows(
    subjects: Sequence[Subject], llm: Sequence[Explained], token_set: Sequence[Explained]
) -> list[dict[str, Any]]:
    """An object for JSON for each latent.

    Args:
      subjects: The latents.
      llm: What the language model said; empty if it said nothing.
      token_set: What the sets of tokens say.

    Returns:
      The fields of `Choice`, num_windows, and `llm` (None if it was not asked) and `token_set`,
      each with explanation, problem, by kind the record of its `Score`, and `embedding`, that of
      its `EmbeddingScore`; what was not asked is missing.
    """
    return [
        {
            **subject.choice._asdict(),
            "num_windows": subject.num_windows,
            "llm": _scored(subject, llm[n]) if llm else None,
            "token_set": _scored(subject, token_set[n]),
        }
        for n, subject in enumerate(subjects)
    ]


def too_few(subjects: Subjects) -> list[dict[str, Any]]:
    """The latents that were chosen, but have too few windows."""
    return [
        {"seed": choice.seed, "latent": choice.latent, "level": choice.level, **found._asdict()}
        for choice, found in subjects.too_few
    ]


def write_files(
    folder: Path,
    hookpoint: str,
    subjects: Sequence[Subject],
    llm: Sequence[Explained],
    token_set: Sequence[Explained],
) -> None:
    """Writes the files of explanations and scores, and deletes those of other latents.

    Raises:
      InputError: If one cannot be written.
    """
    written = set()
    for prefix, explained in (("", llm), ("token_set_", token_set)):
        # Nobody was asked: no explanations.
        for subject, each in zip(subjects, explained, strict=False):
            choice = subject.choice
            name = f"{hookpoint}.seed{choice.seed}_latent{choice.latent}.txt"
            for kind, verdicts in each.verdicts.items():
                path = folder / "scores" / f"{prefix}{_DELPHI[kind]}" / name
                write_delphi(path, subject.questions[kind], verdicts)
                written.add(path)
            if not prefix and each.explanation is not None:
                path = folder / "explanations" / name
                with atomic_write(path) as file:
                    file.write(json.dumps(each.explanation, ensure_ascii=False).encode())
                written.add(path)
    # delphi takes all files of a folder for the latents of one result.
    old = [*folder.glob("scores/*/*.txt"), *folder.glob("explanations/*.txt")]
    for path in set(old) - written:
        with explain_os_errors(path):
            path.unlink()


def _scored(subject: Subject, explained: Explained) -> dict[str, Any]:
    scores = {
        kind: score(subject.questions[kind], explained.verdicts[kind]).record()
        for kind in KINDS
        if kind in explained.verdicts
    }
    if explained.cosines is not None:
        by_cosine = embedding.score(subject.questions["detection"], explained.cosines)
        scores["embedding"] = by_cosine.record()
    return {"explanation": explained.explanation, "problem": explained.problem, **scores}
