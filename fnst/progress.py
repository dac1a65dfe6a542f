"""Progress that people like to watch: a bar in a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Where nobody watches, in a log or under CI, a line this often says that work goes on.
LINE_SECONDS = 15.0


class Update(Protocol):
    """Tells how far the work is, and what else is worth seeing."""

    def __call__(self, done: int, note: str = "") -> None: ...


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
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=total, note="")

        def update(done: int, note: str = "") -> None:
            bar.update(task, completed=done, note=note)

        yield update


@contextmanager
def _lines(console: Console, title: str, total: int | None) -> Iterator[Update]:
    began = last = time.monotonic()
    first: int | None = None

    def update(done: int, note: str = "") -> None:
        nonlocal last, first
        first = done if first is None else first  # a resumed work does not begin at zero
        now = time.monotonic()
        if now - last < LINE_SECONDS and done != total:
            return
        last = now
        of = f" of {total}" if total else ""
        left = _left(done - first, now - began, (total - done) if total else None)
        line = ", ".join(filter(None, (f"{title}: {done}{of}", note, left)))
        console.print(line, highlight=False, soft_wrap=True)

    yield update


def _left(done: int, seconds: float, remaining: int | None) -> str:
    if not done or not remaining:
        return ""
    return f"{seconds / done * remaining:.0f} s left"
