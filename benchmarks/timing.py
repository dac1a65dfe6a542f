"""What benchmarks of the network share: a clock that waits for a GPU, and the machine's peak."""

import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from fnst import memory
from fnst.devices import device, keep_digits


def on_gpu() -> bool:
    """Whether the best device here is an NVIDIA GPU."""
    return device().type == "cuda"


def timed(work: Callable[[], object]) -> float:
    """The seconds that work takes, to the end of what a GPU does."""
    repeats = 10 if on_gpu() else 1
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - began) / repeats


def wait() -> None:
    """For what a GPU was told to do."""
    if on_gpu():
        torch.cuda.synchronize()


def peak_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of the fastest 3x3 convolution of 256 channels.

    In this precision and no less: from now on, a GPU rounds float32 no further in this process.
    """
    keep_digits()
    maps = torch.rand(8, 256, 64, 64).to(device(), dtype, memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3).to(device(), dtype, memory_format=torch.channels_last)
    with torch.no_grad():
        F.conv2d(maps, weight, padding=1)
        seconds = min(timed(lambda: F.conv2d(maps, weight, padding=1)) for _ in range(3))
    return 2 * maps.numel() * 256 * 9 / seconds


def peak_memory() -> float:
    """Bytes: of the GPU where there is one, else of this process."""
    return float(torch.cuda.max_memory_allocated()) if on_gpu() else memory.peak()
