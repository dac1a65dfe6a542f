"""The cores of the CPU, each at work by itself.

Torch lets all cores share each operation: what one core wrote, another reads, through the cache
that all of them share with whoever else is on the machine. Work that stays on one core stays in
that core's own cache.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import TypeVar

import torch

Part = TypeVar("Part")

_lock = Lock()  # ``cache`` has none: two threads that begin at once would make two pools


def each(work: Callable[[Part], None], parts: Iterable[Part]) -> None:
    """Do the work for every part, on as many cores as torch uses, in any order.

    It runs without gradients, and each of its operations on one core; it may write into tensors
    that are there already.

    Raises:
        Exception: what the work raised for the first part that failed.
    """
    cores = torch.get_num_threads()
    spread = map if cores == 1 else _pool(cores).map
    for _ in spread(torch.inference_mode()(work), parts):
        pass


def _pool(cores: int) -> ThreadPoolExecutor:
    with _lock:
        return _begun(cores)


@cache
def _begun(cores: int) -> ThreadPoolExecutor:
    ready = Barrier(cores + 1)

    def begin() -> None:
        torch.set_num_threads(1)  # for this thread, and as what threads begin with
        torch.get_num_threads()  # begins: what is set later is not for this thread
        ready.wait()

    pool = ThreadPoolExecutor(cores, "core", initializer=begin)
    try:
        for _ in range(cores):
            pool.submit(int)
        ready.wait()
    except BaseException:
        ready.abort()  # so that none of them waits for ever
        raise
    finally:
        torch.set_num_threads(cores)  # for threads to come
    return pool
