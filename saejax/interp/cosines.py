"""How alike explanations and windows are to a sentence encoder, whose vectors are kept on disk.

Dimension letters: U different texts, D width of the embedding.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from saejax.files import atomic_write
from saejax.interp.encoder import Encoder
from saejax.interp.run import Explained
from saejax.interp.subjects import Subject
from saejax.progress import Progress


def with_cosines(
    encoder: Encoder,
    subjects: Sequence[Subject],
    explained: Sequence[Sequence[Explained]],
    folder: Path,
) -> list[list[Explained]]:
    """Adds the cosine of each explanation with each window of its latent, in detection's order.

    The text of a window is that of its tokens, without marks, and that of an explanation stands
    as it is. delphi's scorer (eai-delphi 0.1.3, delphi/scorers/embedding/embedding.py) puts
    "Instruct: Retrieve sentences that could be related to the explanation." before it, as models
    that are trained with instructions want it; it draws windows that overlap and that explained
    the latent too, and leaves what is made of the cosines to its user.

    Args:
      encoder: Makes the vectors.
      subjects: The latents.
      explained: By who explains, what became of each latent; empty if nobody was asked.
      folder: Where vectors of windows are kept, a file a latent. Interrupted, the same call goes on
        from there; with other windows or another encoder it makes them anew.

    Raises:
      InputError: If a file cannot be written, or a text has no token for the encoder.
    """
    texts = sorted({x.explanation for by in explained for x in by if x.explanation})
    with Progress("embed explanations", total=len(texts), unit="texts") as progress:
        vector_of = dict(zip(texts, encoder.embed(texts, progress=progress), strict=True))
    found: list[list[Explained]] = [[] for _ in explained]
    total = sum(len(subject.questions["detection"]) for subject in subjects)
    with Progress("embed windows", total=total, unit="windows") as progress:
        for n, subject in enumerate(subjects):
            windows = ["".join(q.example.tokens) for q in subject.questions["detection"]]
            # Each text once, so that equal ones tie exactly.
            row_of = {text: row for row, text in enumerate(dict.fromkeys(windows))}
            vector_UD = _vectors(encoder, list(row_of), folder, progress)
            progress.advance(len(windows) - len(row_of))
            for by, made in zip(explained, found, strict=True):
                if not by:
                    continue
                each = by[n]
                if each.explanation:
                    cosine_U = vector_UD @ vector_of[each.explanation]
                    each = each._replace(cosines=[float(cosine_U[row_of[w]]) for w in windows])
                made.append(each)
    return found


def _vectors(
    encoder: Encoder, texts: Sequence[str], folder: Path, progress: Progress
) -> Float32[np.ndarray, "U D"]:
    """Vectors of the windows of a latent: those in its file, or new ones, which go there."""
    digest = hashlib.sha256()
    for part in (encoder.fingerprint, encoder.pooling, str(encoder.max_tokens), *texts):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    path = folder / f"{digest.hexdigest()[:32]}.npy"
    shape = (len(texts), encoder.config.width)
    try:
        kept_UD = np.load(path, allow_pickle=False)
        if kept_UD.shape == shape and kept_UD.dtype == np.float32:
            progress.advance(len(texts))
            return kept_UD
    except (OSError, ValueError, EOFError):
        pass  # Missing or damaged: both are made anew.
    vector_UD = encoder.embed(texts, progress=progress)
    with atomic_write(path) as file:
        np.save(file, vector_UD)
    return vector_UD
