"""Memory of the process: the most that a part of a program held, and whether it is kept."""

import ctypes
import resource
import sys
from pathlib import Path

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_pages() -> None:
    """Has this process keep the memory that it frees, for what it allocates next.

    On CPUs a training step takes and frees arrays of a hundred megabytes many times. glibc gives
    them back to the system, which hands out cleared pages at the next step: more than a quarter of
    the step's time at 32,768 latents of width 768. To be called before threads allocate; does
    nothing without glibc.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class PeakMemory:
    """Most memory held since the object was made, above what was held then.

    Where /proc is absent, the peak since the start of the process takes its place, so that what
    was held before and given back is counted too.
    """

    def __init__(self):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)  # Memory freed but kept would hide what is taken next.
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._linux, self._before = True, _status_bytes("VmRSS")
        except OSError:
            self._linux, self._before = False, _peak_so_far()

    def host_bytes(self) -> int:
        """Of this process."""
        peak = _status_bytes("VmHWM") if self._linux else _peak_so_far()
        return max(peak - self._before, 0)

    def device_bytes(self) -> int:
        """On accelerators since the start; 0 on a CPU, whose arrays are the process's."""
        if (jax := sys.modules.get("jax")) is None:
            return 0
        stats = [device.memory_stats() for device in jax.local_devices()]
        return sum(s["peak_bytes_in_use"] for s in stats if s)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def _peak_so_far() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
