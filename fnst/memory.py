"""The memory of this process: how much it took, and what becomes of what it frees."""

import ctypes
import resource
import sys
from pathlib import Path

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def hold() -> bool:
    """Keep memory that is freed for the next allocation; whether this system can be told so.

    A training step allocates and frees the same tensors over and over. glibc gives each larger than
    32 MB back to the system at once, and gets it again page by page, each filled with zeros: at 256
    pixels an eighth of a step with batch 4, and more than half of one with batch 16. Decoding
    photographs is the same in small.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))


def peak() -> float:
    """The most bytes of memory that this process has had.

    On Linux, ru_maxrss begins with what the parent of a process had, and VmHWM does not.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return float(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
