"""A clip through a network: every frame painted, everything else as it was.

Decoding, painting and encoding overlap, each in a thread of its own, and a few frames wait between
them: so memory is that of a few frames, however long the clip.

Frames are encoded in segments, which lie beside the target until all are there, in `TARGET.part/`,
and are then put together without encoding them again. What was interrupted goes on with the segment
that was not finished, and ends as it would have ended. Each segment is whole or not there, and with
the last one lies the frame that the next one continues.
"""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import safetensors.torch
import torch
from rich.console import Console

from fnst import clips, files, progress
from fnst.clips import Clip, Frame, Pixels
from fnst.errors import VideoError
from fnst.overlap import ahead
from fnst.steady import Shown, steadied

Paint = Callable[[Pixels], Pixels]

# Frames in a segment: two seconds of film are lost at most, and a key frame every two seconds makes
# the file hardly larger.
SEGMENT = 48

MADE_FROM = "made-from.json"


@dataclass(frozen=True)
class Done:
    """What became of a clip."""

    frames: int
    painted: int  # of them in this run; the others had been painted before it was interrupted
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Painted:
    """A frame to show, and what the next one continues."""

    frame: Frame
    shown: Shown


def stylize(
    source: Path,
    target: Path,
    paint: Paint,
    *,
    made_by: Mapping[str, str],
    device: torch.device | None = None,
    steady: bool = True,
    quality: int = clips.QUALITY,
    overwrite: bool = False,
    console: Console | None = None,
) -> Done:
    """Paint every frame of a clip, and keep its sound, times, subtitles, chapters and colours.

    Args:
        source: the clip.
        target: what it becomes; it appears whole or not at all.
        paint: makes of a frame another of its size.
        made_by: what ``paint`` is: an interrupted clip goes on only if it is still the same.
        device: where ``paint`` wants its frames; the processor if nothing is said.
        steady: whether flicker is held down.
        quality: x264's constant rate factor; less is better and larger.
        overwrite: whether a target that is there already may be replaced.
        console: where progress is shown; standard error if nothing is said.

    Raises:
        VideoError: when the clip cannot be read, or the target cannot be written.
    """
    began = time.monotonic()
    clip = clips.read(source)
    clips.check_writable(clip, target)
    _check_place(source, target, overwrite)
    wanted = {**made_by, **_identity(source), "steady": str(steady), "quality": str(quality)}
    with files.alone(target), _Work(target, wanted) as work:
        before = work.painted
        frames = ahead(_on(device, clip.frames(skip=before)))
        painted = ahead(_painted(frames, paint, work.shown if steady else None, steady=steady))
        with (
            contextlib.closing(painted),
            progress.watch(source.name, clip.count, console) as update,
        ):
            counted = _counted(painted, update, before)
            for first in counted:
                segment = chain([first], islice(counted, SEGMENT - 1))
                work.add(segment, clip, quality)
        if not work.painted:
            raise VideoError(f"{source}: none of its frames can be read.")
        work.finish(clip)
    seconds = time.monotonic() - began
    return Done(work.painted, work.painted - before, seconds, tuple(dict.fromkeys(clip.notes)))


def place_of_work(target: Path) -> Path:
    """Where the segments of an unfinished clip lie."""
    return target.with_name(f"{target.name}.part")


class _Work:
    """The segments that are there already, in a folder beside the target."""

    def __init__(self, target: Path, wanted: Mapping[str, str]) -> None:
        self.target, self.folder = target, place_of_work(target)
        self.painted = 0
        self.shown: Shown | None = None
        self.segments: list[Path] = []
        self._wanted = dict(wanted)

    def __enter__(self) -> "_Work":
        try:
            made_from = files.read_json(self.folder / MADE_FROM)
        except (OSError, ValueError):
            made_from = None
        if made_from != self._wanted:
            shutil.rmtree(self.folder, ignore_errors=True)
            files.write_json(self.folder / MADE_FROM, self._wanted)
        while (path := self._segment()).exists() and self._last().exists():
            self.segments.append(path)
        if self.segments:
            self._take_up()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.segments:  # nothing is worth being kept
            shutil.rmtree(self.folder, ignore_errors=True)
