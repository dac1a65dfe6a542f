"""Video files as frames, one after the other, each with its own time.

PyAV, which does the work, is imported where it is needed: it is an extra, ``fnst[video]``.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from fnst import frames
from fnst.errors import VideoError
from fnst.frames import Colours, Filter, Pixels, Turn

# Endings of video files.
READ = (
    *(".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2ts", ".m4v", ".mkv", ".mov"),
    *(".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)

# A picture that stands still beside the sound, such as a cover (AV_DISPOSITION_*).
STILL = 0x0400 | 0x0800 | 0x100000

MICROSECOND = Fraction(1, 1_000_000)  # FFmpeg's unit for times of a whole file

# Seconds; whoever steps back further has begun anew. Chosen by us: files that jitter do by frames.
ANEW = 1


def is_clip(path: Path) -> bool:
    """Whether the ending is that of a video file, and it is no folder."""
    return path.suffix.lower() in READ and not path.is_dir()


@dataclass
class Clock:
    """Times made to rise, whatever a stream says.

    In files that were joined, as broadcasts and DVDs are, they begin anew: these go on where the
    last ones were. Smaller steps back become the smallest step forward.
    """

    unit: Fraction  # of time, in seconds
    least: int = 1  # the smallest step
    last: int | None = None
    shift: int = 0
    before: int = 0  # the shift before this one; stray times go back to it

    def __call__(self, time: int, step: int) -> int:
        """The time as it should be; ``step`` is how far from the last one a new beginning is."""
        if self.last is None:
            self.last = time
            return time
        far = ANEW / self.unit
        if abs(time + self.shift - self.last) > far >= abs(time + self.before - self.last):
            self.shift, self.before = self.before, self.shift
        elif time + self.shift < self.last - far:
            self.shift, self.before = self.last + step - time, self.shift
        self.last = max(time + self.shift, self.last + self.least)
        return self.last

    def next(self, step: int) -> int:
        """The time of what does not say it."""
        self.last = 0 if self.last is None else self.last + step
        return self.last


@dataclass(frozen=True)
class Frame:
    """One frame, upright, and when it is shown, in the clip's own unit of time."""

    pixels: Pixels
    time: int
    duration: int


@dataclass(frozen=True)
class Clip:
    """A video file, and what of it has to be kept."""

    path: Path
    width: int  # upright
    height: int
    unit: Fraction  # of time, in seconds
    rate: Fraction  # frames a second, on average
    aspect: Fraction  # of a pixel, width to height
    count: int | None  # frames, as far as the file says
    colours: Colours
    turn: Turn
    filters: tuple[Filter, ...]
    notes: list[str] = field(default_factory=list)  # what the reader should know

    @property
    def step(self) -> int:
        """The time from frame to frame, on average."""
        return max(1, round(1 / (self.rate * self.unit)))

    def frames(self, skip: int = 0) -> Generator[Frame, None, None]:
        """All frames but the first so many; those that are damaged beyond reading are left out.

        Raises:
            VideoError: when the file is gone, or no longer what it was.
        """
        width, height = self.width, self.height
        stored = (height, width) if self.turn.is_across else (width, height)
        with opened(self.path) as container:
            stream = pictures(container, self.path)
            begin, clock = start(container, stream), Clock(self.unit)
            for index, frame in enumerate(frames.filtered(self.filters, self._decoded(container))):
                time = self._time(frame, begin, clock)
                if index < skip:
                    continue
                pixels = frames.to_pixels(frame, self.colours, self.turn, stored)
                yield Frame(pixels, time, self._duration(frame))

    def _decoded(self, container: Any) -> Iterator[Any]:
        count = refused = 0
        for packet in packets(container, [pictures(container, self.path)]):
            try:
                found = packet.decode() if packet else []
            except frames.pyav().FFmpegError:
                found = []
                refused += 1
            refused += packet is None
            count += len(found)
            yield from found
        if refused:
            self.notes.append(f"it is damaged; {count} of its frames could be read")

    def _time(self, frame: Any, begin: int, clock: Clock) -> int:
        """When a frame is shown. Some files do not say, or show two at once, or go back."""
        if frame.pts is None:
            return clock.next(self.step)
        return clock(round(frame.pts * frame.time_base / self.unit) - begin, self.step)

    def _duration(self, frame: Any) -> int:
        return round((frame.duration or 0) * frame.time_base / self.unit) or self.step


def read(path: Path) -> Clip:
    """Open a video file, and look at its first frame.

    Raises:
        VideoError: when it is missing, damaged or no video, or PyAV is not installed.
    """
    with opened(path) as container:
        stream = pictures(container, path)
        frame = _first(container, stream, path)
        turn = frames.turn(frame)
        filters, notes = frames.filters(frame)
        sides, aspect = (frame.width, frame.height), stream.sample_aspect_ratio or Fraction(1)
        if turn.is_across:
            sides, aspect = sides[::-1], 1 / aspect
        return Clip(
            path,
            *sides,
            unit=stream.time_base,
            rate=_rate(stream),
            aspect=aspect,
            count=_count(container, stream),
            colours=frames.colours(frame),
            turn=turn,
            filters=tuple(filters),
            notes=notes,
        )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file to read in a ``with`` block; whatever is wrong with it comes out as a VideoError."""
    av = frames.pyav()
    try:
        # absolute, or what stands before a colon would be taken for a protocol
        with av.open(str(path.absolute())) as container:
            yield container
    except FileNotFoundError as error:
        raise VideoError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise VideoError(f"{path}: expected a video, got a folder.") from error
    except PermissionError as error:
        raise VideoError(f"{path}: this file may not be read by you.") from error
    except av.FFmpegError as error:
        raise VideoError(f"{path}: this is not a video that can be read.") from error


def pictures(container: Any, path: Path) -> Any:
    """The first stream of pictures that move."""
    for stream in container.streams.video:
        if not int(stream.disposition) & STILL:
            stream.thread_type = "AUTO"
            return stream
    raise VideoError(f"{path}: there are no moving pictures in this file.")


def start(container: Any, stream: Any) -> int:
    """When a file begins, in a stream's unit; broadcasts do not begin at zero."""
    begin: int = round((container.start_time or 0) * MICROSECOND / stream.time_base)
    return begin


def packets(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """What a file holds of some streams; None at the end if the rest cannot be read."""
    try:
        yield from container.demux(streams)
    except frames.pyav().FFmpegError:
        yield None


def _first(container: Any, stream: Any, path: Path) -> Any:
    for packet in packets(container, [stream]):
        try:
            for frame in packet.decode() if packet else ():
                return frame
        except frames.pyav().FFmpegError:
            continue
    raise VideoError(f"{path}: none of its frames can be read.")


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _count(container: Any, stream: Any) -> int | None:
    seconds = (container.duration or 0) * MICROSECOND
    return int(stream.frames) or round(seconds * _rate(stream)) or None
