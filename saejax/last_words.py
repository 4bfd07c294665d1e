"""One line of ours in place of the report with which JAX's runtime aborts the process.

The client of the coordination service ends a process itself when another one is gone, or when it
cannot join: a report of many lines, a stack trace, SIGABRT. `missed_heartbeat_callback` of jaxlib
0.10.2, meant for this, ends in `std::bad_cast`. So the file descriptor 2, where C++ writes, goes
through a pipe that holds that report back, and the signal's handler tells the reason instead.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

# Starts of reports in absl's log format, and those of the coordination service among them.
_REPORT = re.compile(rb"[IWEF]\d{4} \d\d:")
_ABOUT_PROCESSES = re.compile(rb"[IWEF]\d{4} [^\]]*(coordination|distributed|client\.h|preemption)")
# Time for the pipe to be read after the last report was written to it.
_READ_SECONDS = 0.2
# Exit code of an aborted process, by convention of the shell.
_EXIT_ABORTED = 128 + signal.SIGABRT

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


class LastWords:
    """Takes over the process's stderr and its abort until `close`.

    Python's own `sys.stderr` is not changed but for its descriptor. What C++ writes is passed on,
    except for what the coordination service says.

    Args:
      explain: Called in the aborting thread with what was held back; gives the exit code after it
        has told the reason, or None if it knows none, and then all of it is written.
    """

    def __init__(self, explain: Callable[[str], int | None]):
        self._explain = explain
        self._held: list[bytes] = []
        self._real = os.dup(2)
        self._python = sys.stderr
        sys.stderr = self.stream = _text(os.dup(2))
        reads, writes = os.pipe()
        os.dup2(writes, 2)
        os.close(writes)
        self._reader = threading.Thread(target=self._pass_on, args=(reads,), daemon=True)
        self._reader.start()
        self._handler = _HANDLER(self._on_abort)
        libc = ctypes.CDLL(None)
        libc.signal.restype = ctypes.c_void_p
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        self._libc = libc
        self._before = libc.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))

    def close(self) -> None:
        """Gives both back."""
        self._libc.signal(signal.SIGABRT, self._before)
        os.dup2(self._real, 2)
        self._reader.join(timeout=1)
        sys.stderr.flush()
        sys.stderr = self._python

    def _pass_on(self, reads: int) -> None:
        is_fatal = False
        while chunk := os.read(reads, 1 << 16):
            # A report is written at once, so its later lines, which have no mark, are in its chunk.
            holds = False
            for line in chunk.splitlines(keepends=True):
                if _REPORT.match(line):
                    holds = bool(_ABOUT_PROCESSES.match(line))
                    # A stack trace follows, and the end.
                    is_fatal |= holds and line.startswith(b"F")
                if holds or is_fatal:
                    self._held.append(line)
                else:
                    os.write(self._real, line)

    def _on_abort(self, signum: int) -> None:
        del signum
        time.sleep(_READ_SECONDS)
        held = b"".join(self._held)
        code = self._explain(held.decode(errors="replace")) if held else None
        if code is None:
            os.write(self._real, held)
            os._exit(_EXIT_ABORTED)
        os._exit(code)


def _text(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", buffering=1, errors="backslashreplace")
