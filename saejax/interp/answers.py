"""Answers of a chat model on disk, so that no call is paid for twice."""

import json
from pathlib import Path

from saejax.files import atomic_write
from saejax.interp.chat import Answer


class AnswerCache:
    """A file for each answer, named by the SHA-256 of its request.

    Files are whole or not there. One that cannot be read, or holds no answer, counts as missing.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def get(self, key: str) -> Answer | None:
        """The answer to the request with that key, or None."""
        try:
            fields = json.loads(self._path(key).read_text())
            answer = Answer(**fields, cached=True)
        except (OSError, ValueError, TypeError):
            return None
        kinds = (str, int, int, bool, str)
        fits = all(isinstance(x, kind) for x, kind in zip(answer, kinds, strict=True))
        return answer if fits else None

    def put(self, key: str, answer: Answer) -> None:
        """Keeps an answer."""
        fields = answer._asdict()
        del fields["cached"]
        with atomic_write(self._path(key)) as file:
            file.write(json.dumps(fields).encode())

    def _path(self, key: str) -> Path:
        # 256 folders, so that none has too many entries to be listed.
        return self._folder / key[:2] / f"{key}.json"
