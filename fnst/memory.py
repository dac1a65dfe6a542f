"""How this process deals with memory that it has no use for at the moment."""

import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1


def hold() -> bool:
    """Keep memory that is freed for the next allocation; whether this system can be told so.

    A training step allocates and frees the same tensors over and over. glibc gives each larger than
    32 MB back to the system at once, and gets it again page by page, each filled with zeros: at 256
    pixels an eighth of a step with batch 4, and more than half of one with batch 16.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
