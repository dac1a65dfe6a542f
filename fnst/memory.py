"""The memory of this process: how much it took, how much it may take, and what it does with it."""

import ctypes
import errno
import math
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fnst.errors import ParamsError

if TYPE_CHECKING:
    import torch

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST = 2**31 - 1

# The share of what is free that work may take unasked; chosen by us: the rest is for what the
# picture's decoder and other programs take meanwhile.
SHARE = 0.75

# How people write sizes. A letter alone means the smaller unit, so that a limit holds either way.
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}

# Of the two generations of Linux's control groups: where they are, and the files that say how much
# a group may take, how much it has, and how much of that would be given back.
CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


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


def budget(device: "torch.device") -> int:
    """How many bytes work on this device may take when nobody says how many."""
    return int(SHARE * (_free_on_gpu(device) if device.type == "cuda" else free()))


def free(root: Path = Path("/")) -> int:
    """How many bytes this process could take now: of the machine's, and of its control group's.

    Args:
        root: where sys/ and proc/ are.
    """
    import psutil

    return int(min(psutil.virtual_memory().available, *_left_to_groups(root), math.inf))


def _free_on_gpu(device: "torch.device") -> int:
    """What the GPU has, and what PyTorch holds there without using it."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _left_to_groups(root: Path) -> Iterator[float]:
    """How much the control group of this process may still take, and each group around it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for place, *names in CGROUPS:
            if ("memory" in controllers.split(",")) == place.endswith("memory"):
                home = root / place
                group = home / path.strip("/")
                # A container may see only its own group, in the place of the root.
                for each in (group, *group.parents):
                    if each.is_relative_to(home):
                        yield _left_to_group(each, *names)


def _left_to_group(group: Path, limit: str, used: str, cache: str) -> float:
    try:
        most = (group / limit).read_text().strip()
        taken = int((group / used).read_text())
        statistics = (group / "memory.stat").read_text().split()
    except OSError:  # the root has no limit, and a container does not see those around it
        return math.inf
    given_back = dict(zip(statistics[::2], statistics[1::2], strict=True)).get(cache, "0")
    return math.inf if most == "max" else float(max(0, int(most) - taken + int(given_back)))


def is_lacking(error: BaseException) -> bool:
    """Whether this is what Python, PyTorch or CUDA say when there is not enough memory."""
    import torch

    said = str(error).lower()
    words = (
        *("can't allocate memory", "not enough memory", "out of memory", "status_alloc_failed"),
        # of cuDNN, where no way to convolve fits
        *("unable to find an engine to execute", "unable to find a valid cudnn algorithm"),
    )
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    is_told = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return is_told or any(word in said for word in words)


def parse(text: str) -> int:
    """The number of bytes that people mean by ``2GB``, ``512MiB``, ``1.5G`` or ``800000``.

    Raises:
        ParamsError: when they mean none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", text.strip().lower())
    units = BINARY_UNITS if found and found[3] else UNITS
    if not found or found[2] not in units or not (size := int(float(found[1]) * units[found[2]])):
        raise ParamsError(f"expected a size such as 2GB or 512MiB, got {text!r}.")
    return size


def is_in_memory(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether what is written there takes memory, as on many systems in /tmp."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:  # not Linux
        return False
    found = [line.split()[1:3] for line in lines]
    around = [
        (len(Path(place).parts), kind)
        for place, kind in found
        if folder.resolve().is_relative_to(place)
    ]
    # The innermost; of several at one place, what was mounted last hides the others.
    depth = max((depth for depth, _ in around), default=0)
    kinds = [kind for each, kind in around if each == depth]
    return bool(kinds) and kinds[-1] in ("tmpfs", "ramfs")
