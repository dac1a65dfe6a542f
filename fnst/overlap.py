"""Painting a batch while the next picture is read and the last one is written.

Three loops, each in a thread of its own, with short queues between them: reading, painting and
writing. Decoders, encoders and torch release Python's lock. Whatever goes wrong with a picture
travels along the line in its place, so that results come in the order of the jobs.
"""

import contextlib
import io
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import torch

from fnst import batch, files, images, originals, results
from fnst.batch import PIPED, Job
from fnst.errors import FnstError, HugeError, ImageError
from fnst.images import Picture
from fnst.originals import Frame

T = TypeVar("T")
Photo = TypeVar("Photo")

Painter = Callable[[Picture], Picture]

# No more pixels than these are on their way at once, but for a picture that is larger alone; chosen
# by us: a gigabyte, and four pictures of a camera.
PIXELS_ON_THE_WAY = 100_000_000
FRAMES_ON_THE_WAY = 8  # in each queue; small ones would otherwise be read by the thousand

TICK_SECONDS = 0.1  # so often, whoever waits looks whether work was stopped


@dataclass(frozen=True)
class Done:
    """A job that is over: its result is there, or an error says why not."""

    job: Job
    error: FnstError | None = None
    notes: Sequence[str] = ()
    content: bytes = b""
    """The result, where it goes into a pipe."""


class Stopwatch(Generic[Photo]):
    """A painter that knows for how many seconds it has painted."""

    def __init__(self, paint: Callable[[Photo], Photo]) -> None:
        self.paint, self.seconds = paint, 0.0

    def __call__(self, photo: Photo) -> Photo:
        began = time.perf_counter()
        try:
            painted = self.paint(photo)
            if isinstance(painted, torch.Tensor) and painted.device.type != "cpu":
                torch.accelerator.synchronize(painted.device)  # it has only been told what to do
            return painted
        finally:
            self.seconds += time.perf_counter() - began


def run(
    paint: Painter,
    jobs: Sequence[Job],
    *,
    quality: int | None = None,
    allow_huge: bool = False,
    keeps_size: bool = True,
) -> Iterator[Done]:
    """Paint pictures one after the other; each job that is over, in their order.

    Closed or interrupted, it leaves whole results and nothing else.

    Args:
        paint: called in this thread.
        jobs: what is to be painted.
        quality: of lossy results, 1 to 100; visually lossless if None.
        allow_huge: whether pictures may have as many pixels and frames as they like.
        keeps_size: whether what is painted is as large as its photograph; one that is too large for
            the format of its result is then refused before it is painted, and not after.
    """
    line = _Line(jobs, quality, allow_huge=allow_huge, keeps_size=keeps_size)
    threads = [
        threading.Thread(target=_until_stopped, args=(work,), daemon=True)
        for work in (line.read_all, line.write_all)
    ]
    for thread in threads:
        thread.start()
    try:
        yield from line.paint_all(paint)
    finally:
        line.stop.set()
        for thread in threads:
            thread.join()


def _until_stopped(work: Callable[[], None]) -> None:
    with contextlib.suppress(_StoppedError):
        work()


class _StoppedError(BaseException):
    """Unwinds a thread when nobody wants its work any more; no picture's fault."""


class _Queue(Generic[T]):
    """A short queue whose users end when work is stopped."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.items: queue.Queue[T] = queue.Queue(FRAMES_ON_THE_WAY)

    def put(self, item: T) -> None:
        while not self.stop.is_set():
            try:
                return self.items.put(item, timeout=TICK_SECONDS)
            except queue.Full:
                continue
        raise _StoppedError

    def get(self) -> T:
        while not self.stop.is_set():
            try:
                return self.items.get(timeout=TICK_SECONDS)
            except queue.Empty:
                continue
        raise _StoppedError


class _Room:
    """Room for so many pixels; the reader takes it, and the writer gives it back."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop, self.used = stop, 0
        self.changed = threading.Condition()

    def take(self, pixels: int) -> None:
        with self.changed:
            while self.used and self.used + pixels > PIXELS_ON_THE_WAY:
                self.changed.wait(TICK_SECONDS)
                if self.stop.is_set():
                    raise _StoppedError
            self.used += pixels

    def give(self, pixels: int) -> None:
        with self.changed:
            self.used -= pixels
            self.changed.notify()


@dataclass(frozen=True)
class _Item:
    """A frame of a job on its way, or what went wrong with it; nothing at all is the job's end."""

    index: int
    frame: Frame | None = None
    error: Exception | None = None
    is_end: bool = False
    pixels: int = 0  # that it takes room for


class _Line:
    """The three loops, and what lies between them."""

    def __init__(
        self, jobs: Sequence[Job], quality: int | None, *, allow_huge: bool, keeps_size: bool
    ) -> None:
        self.jobs, self.quality = jobs, quality
        self.allow_huge, self.keeps_size = allow_huge, keeps_size
        self.stop = threading.Event()
        self.room = _Room(self.stop)
        self.taken = 0  # of the room, by the frame that is being decoded
        self.to_paint: _Queue[_Item] = _Queue(self.stop)
        self.to_write: _Queue[_Item] = _Queue(self.stop)
        self.done: queue.SimpleQueue[Done] = queue.SimpleQueue()
        self.over: set[int] = set()  # of these jobs, nobody wants another frame
        self.ended = -1  # the last job of which the writer has seen the end

    def read_all(self) -> None:
        for index, job in enumerate(self.jobs):
            try:
                self._read(index, job)
            except Exception as error:
                self._pass_on(_Item(index, error=error))
            self._pass_on(_Item(index, is_end=True))

    def paint_all(self, paint: Painter) -> Iterator[Done]:
        ends = over = 0
        while ends < len(self.jobs):
            item = self.to_paint.get()
            ends += item.is_end
            self._paint(paint, item)
            while not self.done.empty():
                yield self.done.get()
                over += 1
        for _ in range(len(self.jobs) - over):
            yield self.done.get()

    def write_all(self) -> None:
        for index, job in enumerate(self.jobs):
            self.done.put(self._write(index, job))

    # --- reading ----------------------------------------------------------------------------------

    def _read(self, index: int, job: Job) -> None:
        if job.target:
            batch.make_folder(job.target.parent)
            images.check_writable(job.target)
        found = originals.frames(
            job.photo, name=job.name, allow_huge=self.allow_huge, admit=self._admit
        )
        try:
            for frame in found:
                if self.keeps_size:
                    results.check_sides(frame.picture, job.ending, job.name)
                self._pass_on(_Item(index, frame))
                if index in self.over:
                    break
        except HugeError as error:
            raise HugeError(f"{str(error).rstrip('.')}, or say --allow-huge.") from error

    def _admit(self, pixels: int) -> None:
        self.room.take(pixels)
        self.taken = pixels

    def _pass_on(self, item: _Item) -> None:
        self.to_paint.put(replace(item, pixels=self.taken))
        self.taken = 0

    # --- painting ---------------------------------------------------------------------------------

    def _paint(self, paint: Painter, item: _Item) -> None:
        if item.error and not isinstance(item.error, FnstError):
            raise item.error  # our own mistake
        if item.frame and item.index not in self.over:
            item = _painted(paint, item, self.jobs[item.index].name)
        self.to_write.put(item)

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, index: int, job: Job) -> Done:
        frames = self._frames(index)
        try:
            return _written(job, frames, self.quality)
        except FnstError as error:
            return Done(job, error)
        except Exception as error:  # encoders raise almost anything
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            return Done(job, ImageError(f"{job.target or PIPED} cannot be written: {reason}."))
        finally:
            self.over.add(index)
            frames.close()
            while self.ended < index:
                self.room.give(self._next(index).pixels)

    def _frames(self, index: int) -> Generator[Frame, None, None]:
        """The painted frames of a job; what went wrong on their way is raised here."""
        while self.ended < index:
            item = self._next(index)
            try:
                if item.error:
                    raise item.error
                if item.frame:
                    yield item.frame
            finally:
                self.room.give(item.pixels)

    def _next(self, index: int) -> _Item:
        item = self.to_write.get()
        if item.is_end:
            self.ended = index
        return item


def _painted(paint: Painter, item: _Item, name: str) -> _Item:
    frame = item.frame
    assert frame
    try:
        picture = paint(frame.picture)
    except FnstError as error:
        return replace(item, frame=None, error=ImageError(f"{name}: {error}"))
    except (OSError, RuntimeError, MemoryError) as error:  # such as a lack of memory or disk
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        sentence = f"{name} could not be stylized: {reason}."
        return replace(item, frame=None, error=ImageError(sentence))
    return replace(item, frame=replace(frame, picture=picture))


def _written(job: Job, frames: Iterator[Frame], quality: int | None) -> Done:
    frames = itertools.chain([next(frames)], frames)  # no file before there is a picture
    if job.target is None:
        buffer = io.BytesIO()
        notes = results.write(buffer, job.ending, frames, quality)
        return Done(job, notes=notes, content=buffer.getvalue())
    with files.whole(job.target) as file:
        notes = results.write(file, job.ending, frames, quality)
    return Done(job, notes=notes)
