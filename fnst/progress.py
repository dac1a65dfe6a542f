"""Progress that people like to watch: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# Where nobody watches, in a log or under CI, a line this often says that work goes on.
LINE_SECONDS = 15.0

# The time left follows from as much of the past: steps may be longer than rich's own half a minute.
RATE_SECONDS = 600.0

# What is over sooner needs no bar.
PATIENCE_SECONDS = 3.0


@runtime_checkable
class Update(Protocol):
    """Tells how far the work is, and what else is worth seeing."""

    def __call__(self, done: int, note: str = "") -> None: ...


class Transfer(Protocol):
    """Tells how far a file is: its name, the bytes so far and, where known, the bytes in all."""

    def __call__(self, name: str, done: int, total: int | None) -> None: ...


@contextmanager
def watch(title: str, total: int | None, console: Console | None = None) -> Iterator[Update]:
    """Show progress towards ``total`` while the block lasts."""
    console = console or Console(stderr=True)
    show = _bar if console.is_terminal else _lines
    with show(console, title, total) as update:
        yield update


@contextmanager
def _bar(console: Console, title: str, total: int | None) -> Iterator[Update]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, speed_estimate_period=RATE_SECONDS) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield update


@contextmanager
def _lines(console: Console, title: str, total: int | None) -> Iterator[Update]:
    began = last = time.monotonic()
    first = latest = -1

    def update(done: int, note: str = "") -> None:
        nonlocal began, last, first, latest
        now = time.monotonic()
        if latest < 0 or done < latest:  # a resumed work does not begin at zero, and it may go back
            first, began = done, now
        latest = done
        if now - last < LINE_SECONDS and done != total:
            return
        last = now
        of = f" of {total}" if total else ""
        left = _left(done - first, now - began, (total - done) if total else None)
        line = ", ".join(filter(None, (f"{title}: {done}{of}", note, left)))
        console.print(line, highlight=False, soft_wrap=True)

    yield update


@contextmanager
def watch_if_long(
    title: str, console: Console | None = None
) -> Iterator[Callable[[int, int], None]]:
    """Show progress of work that tells how much it is, once it takes more than three seconds.

    When it is done, it may begin anew.
    """
    began: float | None = None
    with ExitStack() as shown:
        update: Update | None = None

        def tell(done: int, total: int) -> None:
            nonlocal began, update
            began = time.monotonic() if began is None else began
            if update is None and done < total and time.monotonic() - began > PATIENCE_SECONDS:
                update = shown.enter_context(watch(title, total, console))
            if update:
                update(done)
            if done >= total:
                shown.close()
                began = update = None

        yield tell


@contextmanager
def transfers(console: Console | None = None) -> Iterator[Transfer]:
    """Show files as they arrive, each with its rate and the time left, while the block lasts."""
    console = console or Console(stderr=True)
    show = _transfer_bars if console.is_terminal else _transfer_lines
    with show(console) as transfer:
        yield transfer


@contextmanager
def _transfer_bars(console: Console) -> Iterator[Transfer]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bar:

        def transfer(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield transfer


@contextmanager
def _transfer_lines(console: Console) -> Iterator[Transfer]:
    name_then, began, first, last = "", 0.0, 0, 0.0

    def transfer(name: str, done: int, total: int | None) -> None:
        nonlocal name_then, began, first, last
        now = time.monotonic()
        if name != name_then:  # the rate is that of the bytes that come now, not of those kept
            name_then, began, first, last = name, now, done, now
        if now - last < LINE_SECONDS:
            return
        last = now
        rate = (done - first) / (now - began)
        of = f" of {total / 1e6:.1f}" if total else ""
        left = _left(done - first, now - began, (total - done) if total else None)
        told = (f"{name}: {done / 1e6:.1f}{of} MB", f"{rate / 1e6:.1f} MB/s", left)
        console.print(", ".join(filter(None, told)), highlight=False, soft_wrap=True)

    yield transfer


def _left(done: int, seconds: float, remaining: int | None) -> str:
    if not done or not remaining:
        return ""
    left = round(seconds / done * remaining)
    minutes, hours = left // 60 % 60, left // 3600
    return f"{left} s left" if left < 60 else f"{hours}:{minutes:02}:{left % 60:02} left"
