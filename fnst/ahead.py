"""Work that goes on at the same time: what will be wanted next is made while this is used."""

import contextlib
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

# So often a thread looks whether it is still wanted.
LOOK_SECONDS = 0.1


def ahead(items: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The same items; a thread of its own makes so many of them in advance, and no more.

    What goes wrong in it is raised here. Whoever stops early closes this generator, which ends the
    thread and closes the one that it draws from.
    """
    made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(what: tuple[T] | BaseException | None) -> None:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                return made.put(what, timeout=LOOK_SECONDS)
        return None

    def make() -> None:
        source = iter(items)
        try:
            for item in source:
                put((item,))
                if unwanted.is_set():
                    break
            put(None)
        except BaseException as error:
            put(error)
        finally:
            if isinstance(source, Iterator) and hasattr(source, "close"):
                source.close()

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while (got := made.get()) is not None:
            if isinstance(got, BaseException):
                raise got
            yield got[0]
    finally:
        unwanted.set()
        thread.join()
