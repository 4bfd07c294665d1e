"""Scores of single windows in the layout of EleutherAI's delphi, written and read.

A file is a JSON list with an object for each window: str_tokens, activations, distance (the
quantile of an activating window, 0 for the largest values), activating, prediction, probability
and correct. In delphi's folders it is scores/<scorer>/<hookpoint>_latent<i>.txt. Which tokens were
marked is not in it.

References:
  eai-delphi 0.1.3, delphi/scorers/classifier/sample.py, ClassifierOutput.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saejax.errors import InputError
from saejax.files import atomic_write
from saejax.interp.example import Example
from saejax.interp.questions import Question


class Judged(NamedTuple):
    """Windows and the verdicts on them, as `saejax.interp.score.score` takes them."""

    questions: list[Question]
    verdicts: list[bool | None]


def write_delphi(
    path: Path, questions: Sequence[Question], verdicts: Sequence[bool | None]
) -> None:
    """Writes the verdicts on one latent's windows.

    Raises:
      InputError: If the file cannot be written.
    """
    rows = [
        {
            "str_tokens": list(question.example.tokens),
            "activations": [float(value) for value in question.example.values],
            "distance": question.example.quantile,
            "activating": question.example.activating,
            "prediction": verdict,
            "probability": None,
            "correct": None if verdict is None else verdict == question.example.activating,
        }
        for question, verdict in zip(questions, verdicts, strict=True)
    ]
    with atomic_write(path) as file:
        file.write(json.dumps(rows, ensure_ascii=False, allow_nan=False).encode())


def read_delphi(path: Path) -> Judged:
    """Reads a file of `write_delphi` or of delphi.

    Raises:
      InputError: If there is no such file, or it has another layout.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path} is not JSON: give a file of delphi's folder scores") from None
    if not isinstance(rows, list):
        raise InputError(f"{path} has no list of windows: give a file of delphi's folder scores")
    found = Judged([], [])
    for number, row in enumerate(rows):
        if (fault := _fault(row)) is not None:
            raise InputError(f"{path}, window {number}: {fault}; it is no score file of delphi's")
        quantile = int(row["distance"]) if row["activating"] else -1
        values = np.asarray(row["activations"], np.float32)
        found.questions.append(Question(Example(tuple(row["str_tokens"]), values, quantile)))
        found.verdicts.append(row["prediction"])
    return found


def _fault(row: Any) -> str | None:
    """What is wrong with a window's object."""
    if not isinstance(row, dict):
        return "no object"
    tokens, values = row.get("str_tokens"), row.get("activations")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return "str_tokens must be a list of strings"
    if not isinstance(values, list) or len(values) != len(tokens):
        return "activations must be a list, as long as str_tokens"
    if not all(type(x) in (int, float) and math.isfinite(x) for x in values):
        return "activations must be finite numbers"
    if not isinstance(row.get("activating"), bool):
        return "activating must be true or false"
    if row["activating"] and not (type(row.get("distance")) is int and row["distance"] >= 0):
        return f"distance={row.get('distance')} must be the quantile of an activating window"
    if not isinstance(row.get("prediction"), bool | None):
        return f"prediction={row.get('prediction')} must be true, false or null"
    return None
