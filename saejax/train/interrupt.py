"""Stopping a long loop at a safe point when the user or the scheduler asks for it."""

import signal
from types import FrameType
from typing import Self


class Interrupted(Exception):
    """A loop stopped early because of a signal, with its work saved.

    Attributes:
      signum: The signal, `SIGINT` for Ctrl-C or `SIGTERM` from a scheduler.
    """

    def __init__(self, message: str, signum: int):
        super().__init__(message)
        self.signum = signum


class SignalFlag:
    """Notes SIGINT and SIGTERM instead of dying; a second Ctrl-C interrupts at once.

    Use as a context manager around the loop and look at `signum` once a step.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT and self.signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = number
