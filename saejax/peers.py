"""Whether the other processes of a run are alive, and one line of which of them is not.

Each process writes a counter to the key-value store of JAX's coordination service, and reads those
of the others. A process that stands still for too long is missing; one that fails says why.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import jax

# Beats of a process in the time after which it is missing: so many may be lost or late.
_BEATS = 20
# Beats that one may have missed when an exchange between devices has failed already, as it does at
# once where the machine of the missing process says that it is gone.
_BEATS_IN_DOUBT = 4
# Beats for the others to read why process 0 stops, whose end takes the service with it; and for
# this process to tell an error of its own, which another one has told before it.
_BEATS_TO_TELL = 3

_ALIVE, _ENDED = "saejax/alive", "saejax/ended"
CONTINUE = "start all processes again, with the same command, to continue from the last checkpoint"


class Peers:
    """Watches the other processes in threads, and ends this one when one of them is missing.

    Args:
      client: Of the coordination service, which lives in process 0.
      process: Number of this one.
      hosts: Names of the machines of all processes.
      seconds: Time without a beat after which a process is missing.
    """

    def __init__(self, client: Any, process: int, hosts: list[str], seconds: float):
        self._client, self._process, self._hosts = client, process, hosts
        self._seconds, self._beat_seconds = seconds, seconds / _BEATS
        now = time.monotonic()
        # Of each other process its last counter, and when it came.
        self._seen = {i: ("", now) for i in range(len(hosts)) if i != process}
        self._ended: dict[int, tuple[str, float]] = {}
        self._heard = now
        self._in_doubt, self._over = threading.Event(), threading.Event()
        self._telling = threading.Lock()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def name(self, process: int) -> str:
        """For messages: number and machine."""
        return f"process {process} ({self._hosts[process]})"

    def finish(self) -> None:
        """Says that this process has done its work, and waits until all have."""
        self._client.key_value_set(f"{_ENDED}/{self._process}", "done", allow_overwrite=True)
        while len(self._ended) < len(self._seen):
            time.sleep(min(self._beat_seconds, 0.05))
        self._over.set()
        for thread in self._threads:
            thread.join()

    def fail(self, error: BaseException, line: str | None, *, code: int = 1) -> NoReturn:
        """Ends this process, and soon the others, unless it is another one that is missing.

        Args:
          error: What this process stopped at.
          line: What to say of it; None for a traceback, after time for another cause to show.
          code: Exit code.
        """
        if line is None:
            self._in_doubt.set()
            time.sleep((_BEATS_IN_DOUBT + 2) * self._beat_seconds)
            told = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            told = line
        with self._telling:
            if line is None:
                traceback.print_exception(error)
            self.say(line or f"error: {told}")
            self._leave(code, told)

    def aborted(self, report: str) -> int:
        """The exit code after a line that explains why JAX's runtime ends this process."""
        with self._telling:
            lost = "Failed to send RPC" in report or "Socket closed" in report
            stale = [0] if lost and self._process else self._missing()
            self._tell_missing(stale or self._missing(in_doubt=True))
            return 1

    def say(self, line: str) -> None:
        """A line on stderr that names this process."""
        print(f"process {self._process}: {line}", file=sys.stderr, flush=True)

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(self._beat_seconds):
            count += 1
            try:
                self._client.key_value_set(
                    f"{_ALIVE}/{self._process}", str(count), allow_overwrite=True
                )
                now = time.monotonic()
                for i, value in self._read(_ALIVE):
                    if i in self._seen and self._seen[i][0] != value:
                        self._seen[i] = (value, now)
                for i, value in self._read(_ENDED):
                    if i != self._process:
                        self._ended.setdefault(i, (value, now))
                self._heard = now
            except jax.errors.JaxRuntimeError:
                continue  # Told by the time since `_heard`.

    def _read(self, folder: str) -> list[tuple[int, str]]:
        found = self._client.key_value_dir_get(folder)
        return [(int(key.rpartition("/")[2]), value) for key, value in found]

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(self._beat_seconds):
            now = time.monotonic()
            if now - looked > self._seconds / 2:
                # This process stood still itself, so that what it knows of the others is old.
                self._seen = {i: (value, now) for i, (value, _) in self._seen.items()}
                self._heard = now
            looked = now
            if missing := self._missing(in_doubt=self._in_doubt.is_set()):
                with self._telling:
                    self._tell_missing(missing)
                    self._leave(1, f"{self.name(missing[0])} is missing")
            for i, (value, since) in list(self._ended.items()):
                grace = _BEATS_TO_TELL * self._beat_seconds
                if value != "done" and now - since > grace:
                    with self._telling:
                        self.say(f"error: {self.name(i)} stopped: {value}")
                        self._leave(1, value)

    def _missing(self, *, in_doubt: bool = False) -> list[int]:
        """Processes that have stood still for too long."""
        limit = _BEATS_IN_DOUBT * self._beat_seconds if in_doubt else self._seconds
        now = time.monotonic()
        if self._process and now - self._heard > limit:
            return [0]  # Nothing is known of any without the service that is in it.
        return [i for i, (_, at) in self._seen.items() if now - at > limit and i not in self._ended]

    def _tell_missing(self, missing: list[int]) -> None:
        names = ", ".join(self.name(i) for i in missing) or "another process"
        self.say(f"error: {names} is missing: it died or cannot be reached; {CONTINUE}")

    def _leave(self, code: int, told: str) -> NoReturn:
        # The service is gone with process 0.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{_ENDED}/{self._process}", told, allow_overwrite=True)
        if self._process == 0:
            # The others read this in a beat, and then tell it or an error of their own.
            deadline = time.monotonic() + 2 * _BEATS_TO_TELL * self._beat_seconds
            while len(self._ended) < len(self._seen) and time.monotonic() < deadline:
                time.sleep(min(self._beat_seconds, 0.05))
        sys.stdout.flush()
        os._exit(code)
