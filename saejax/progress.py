"""Progress of long stages: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from io import TextIOBase
from typing import Self

from tqdm import tqdm

# Seconds between plain lines: frequent enough to see life, rare enough for a log file.
_LINE_SECONDS = 10.0


_hidden = False


def hide_progress() -> None:
    """Shows no progress in this process from now on: another one does."""
    global _hidden
    _hidden = True


def _format(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


class Progress:
    """Shows how far a stage is, its rate and the time left, with the latest values.

    Use as a context manager::

        with Progress("capture", total=num_tokens, unit="tokens") as progress:
            progress.advance(2048, fvu=0.41)

    On a terminal this is a tqdm bar. Elsewhere (a log file, a batch job) it prints one line
    at the start, one every ten seconds, and one at the end.

    Args:
      label: Name of the stage.
      total: Number of units of work, where the bar ends; None when it is not known.
      unit: Plural name of the unit, as in `tokens`; bytes are shown with binary prefixes.
      initial: Units done in an earlier run; they count for the position, not for the rate.
      stream: Where to write; standard error unless given.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int | None,
        unit: str,
        initial: int = 0,
        stream: TextIOBase | None = None,
    ):
        self.label, self.total, self.unit = label, total, unit
        self._done, self._initial = initial, initial
        self._stream = sys.stderr if stream is None else stream
        self._start = self._last_line = time.monotonic()
        self._values: dict[str, float | str] = {}
        self._bar = None
        if self._stream.isatty() and not _hidden:
            self._bar = tqdm(
                total=total,
                initial=initial,
                desc=label,
                unit=f" {unit}",
                unit_scale=True,
                file=self._stream,
                dynamic_ncols=True,
            )
        else:
            self._print_line()

    def advance(self, amount: int = 1, **values: float | str) -> None:
        """Adds `amount` units; `values` are shown behind the bar, as in `fvu=0.41`."""
        self._done += amount
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix({k: _format(v) for k, v in self._values.items()}, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._print_line()

    def close(self) -> None:
        """Ends the bar, leaving the last state visible."""
        if self._bar is not None:
            self._bar.close()
        else:
            self._print_line()

    @property
    def rate(self) -> float:
        """Units per second since the start of this process's share."""
        return (self._done - self._initial) / max(time.monotonic() - self._start, 1e-9)

    def _print_line(self) -> None:
        if _hidden:
            return
        self._last_line = time.monotonic()
        of_total = "" if self.total is None else f"/{self.total:,}"
        fields = [f"{self._done:,}{of_total} {self.unit}"]
        if self._done > self._initial:
            fields.append(f"{self.rate:,.0f} {self.unit}/s")
            if self.total is not None:
                left = (self.total - self._done) / max(self.rate, 1e-9)
                fields.append(f"{left:,.0f} s left")
        fields += [f"{name} {_format(value)}" for name, value in self._values.items()]
        print(f"{self.label}: " + ", ".join(fields), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
