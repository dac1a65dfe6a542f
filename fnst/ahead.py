"""Work that goes on at the same time: what will be wanted next is made while this is used."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")

TICK_SECONDS = 0.1  # so often a thread that waits looks whether it is still wanted


def ahead(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items; a thread of its own makes so many of them in advance, and no more.

    What goes wrong in it is raised here. Whoever stops early closes this generator: that ends the
    thread, and closes the generator that it draws from.
    """
    made: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(what: tuple[T] | BaseException | None) -> bool:
        while not unwanted.is_set():
            with contextlib.suppress(queue.Full):
                made.put(what, timeout=TICK_SECONDS)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item,)):
                    break
        except BaseException as error:
            put(error)
        finally:
            if isinstance(items, Generator):
                items.close()
        put(None)

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
