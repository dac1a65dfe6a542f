"""A clip through a network: every frame painted, everything else as it was.

Decoding, painting and encoding overlap, each in a thread of its own, and a few frames wait between
them: so memory is that of a few frames, however long the clip.

Frames are encoded in segments, which lie beside the target until all are there, in `TARGET.part/`,
and are then put together without encoding them again. What was interrupted goes on with the segment
that was not finished, and ends as it would have ended. Each segment is whole or not there, and with
the last one lies the frame that the next one continues.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType

import safetensors
import safetensors.torch
import torch
from rich.console import Console

from fnst import clips, files, progress, reels
from fnst.ahead import ahead
from fnst.clips import Clip, Frame
from fnst.errors import VideoError
from fnst.progress import Update
from fnst.steady import Shown, steadied
from fnst.stylize import Paint

# Frames in a segment; chosen by us: no more than two seconds of film are painted twice, and a key
# frame that often makes a file hardly larger.
SEGMENT = 48

MADE_FROM = "made-from.json"
UNFINISHED = "unfinished"  # what is written at the moment


@dataclass(frozen=True)
class Done:
    """What became of a clip."""

    frames: int
    painted: int  # of them now; the others had been before this was interrupted
    seconds: float
    notes: tuple[str, ...]  # what the reader should know


@dataclass(frozen=True)
class Painted:
    """A frame to be shown, and what the next one continues."""

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
    quality: int = reels.QUALITY,
    overwrite: bool = False,
    console: Console | None = None,
) -> Done:
    """Paint every frame of a clip; its times, sound, subtitles, chapters and colours are kept.

    Args:
        source: the clip.
        target: what it becomes; it appears whole or not at all.
        paint: what paints each frame.
        made_by: what ``paint`` is; what was interrupted goes on only if it is still the same.
        device: where frames are put before they are painted; the processor if nothing is said.
        steady: whether flicker is held down.
        quality: x264's constant rate factor; less is better and larger.
        overwrite: whether a target that is there may be replaced.
        console: where progress is shown; standard error if nothing is said.

    Raises:
        VideoError: when the clip cannot be read, or the target cannot be written.
    """
    began = time.monotonic()
    _check_place(source, target, overwrite=overwrite)
    clip = clips.read(source)
    notes = reels.check_writable(clip, target)
    wanted = {**made_by, **_identity(source), "steady": str(steady), "quality": str(quality)}
    with files.alone(target), Work(target, wanted) as work:
        _check_place(source, target, overwrite=overwrite)  # another process may have made it
        before = work.frames
        frames = _on(device or torch.device("cpu"), clip.frames(skip=before))
        painted = _steadied(frames, paint, work.shown) if steady else _alone(frames, paint)
        with (
            contextlib.closing(ahead(painted)) as ready,
            progress.watch(source.name, clip.count, console) as update,
        ):
            _encode(work, clip, quality, _counted(ready, update, before))
        work.finish(clip)
    seconds = time.monotonic() - began
    return Done(work.frames, work.frames - before, seconds, (*clip.notes, *notes))


def _check_place(source: Path, target: Path, *, overwrite: bool) -> None:
    if target.resolve() == source.resolve():
        raise VideoError(f"{target} is the clip to repaint itself; choose another --output.")
    if target.exists() and not overwrite:
        raise VideoError(f"{target} is there already; say --overwrite to replace it.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VideoError(
            f"{target.parent}: this folder cannot be made: {error.strerror}."
        ) from error
    if not os.access(target.parent, os.W_OK):
        raise VideoError(f"{target}: its folder cannot be written.")


def _identity(source: Path) -> dict[str, str]:
    state = source.stat()
    return {
        "clip": str(source.resolve()),
        "bytes": str(state.st_size),
        "changed": str(state.st_mtime_ns),
        "segment": str(SEGMENT),
    }


# --- frames on their way --------------------------------------------------------------------------


def _on(device: torch.device, frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
    """The frames where they are painted; decoded while others are."""
    with contextlib.closing(ahead(frames)) as decoded:
        for frame in decoded:
            yield replace(frame, pixels=frame.pixels.to(device))


def _alone(frames: Generator[Frame, None, None], paint: Paint) -> Generator[Painted, None, None]:
    """Each frame as if there were no other."""
    with contextlib.closing(frames):
        for frame in frames:
            painted = paint(frame.pixels)
            yield Painted(replace(frame, pixels=painted), Shown(frame.pixels, painted))


def _steadied(
    frames: Generator[Frame, None, None], paint: Paint, last: Shown | None
) -> Generator[Painted, None, None]:
    """Each frame as a continuation of the one before."""
    with contextlib.closing(frames):
        for frame in frames:
            painted = paint(frame.pixels)
            if last:
                painted = steadied(last.on(painted.device), frame.pixels, painted)
            last = Shown(frame.pixels, painted)
            yield Painted(replace(frame, pixels=painted), last)


def _counted(items: Iterable[Painted], update: Update, before: int) -> Iterator[Painted]:
    """The same frames, told to whoever watches as they come."""
    began = time.monotonic()
    update(before)
    for count, item in enumerate(items, 1):
        yield item
        update(before + count, f"{count / (time.monotonic() - began):.2g} frames/s")


def _encode(work: "Work", clip: Clip, quality: int, painted: Iterator[Painted]) -> None:
    for first in painted:
        work.add(clip, quality, chain([first], islice(painted, SEGMENT - 1)))


# --- what is to be done ---------------------------------------------------------------------------


def targets(
    sources: Sequence[Path],
    output: str | None,
    label: str,
    *,
    below: Mapping[Path, Path] = MappingProxyType({}),
    is_batch: bool = False,
    overwrite: bool = False,
) -> list[Path]:
    """What clips become: beside each, in a folder, or the one file that is named.

    One that is there already is refused, or of a batch, done.

    Args:
        sources: the clips.
        output: a file for one clip, or a folder, or None.
        label: what a result is called after its clip, such as ``ink-v3``.
        below: where in a folder results lie, for clips whose own folders are mirrored there.
        is_batch: whether other clips or pictures are painted, too.
        overwrite: whether results may be replaced.

    Raises:
        VideoError: when a clip or a result would be lost.
    """
    places = [
        _target(source, output, label, below.get(source, Path()), is_one=len(sources) == 1)
        for source in sources
    ]
    for place in places:
        if places.count(place) > 1:
            raise VideoError(f"several clips would become {place}; take different folders.")
        if place.resolve() in {each.resolve() for each in sources}:
            raise VideoError(f"{place} is a clip to repaint itself; choose another --output.")
    if not is_batch and places[0].exists() and not overwrite:
        raise VideoError(f"{places[0]} is there already; say --overwrite to replace it.")
    return places


def _target(source: Path, output: str | None, label: str, below: Path, *, is_one: bool) -> Path:
    name = f"{source.stem}-{label}{reels.ending(source)}"
    if output is None:
        return source.with_name(name)
    if output == "-":
        raise VideoError("a clip cannot be piped out; name a file or a folder as --output.")
    place = Path(output)
    if place.is_dir() or output.endswith(os.sep) or not place.suffix:
        return place / below / name
    if not is_one:
        raise VideoError(f"--output {output} is one file, but there are several clips or photos.")
    return place


# --- what is done ---------------------------------------------------------------------------------


class Work:
    """The finished segments of a clip, in a folder beside what it becomes.

    Args:
        target: what the clip becomes.
        wanted: what it is made from and how; segments of anything else are thrown away.
    """

    def __init__(self, target: Path, wanted: Mapping[str, str]) -> None:
        self.target, self.folder = target, place_of_work(target)
        self.segments: list[Path] = []
        self.frames = 0
        self.shown: Shown | None = None  # the last frame of the last segment
        if not self._was_made_from(wanted):
            self._check_ours()
            shutil.rmtree(self.folder, ignore_errors=True)
            files.write_json(self.folder / MADE_FROM, dict(wanted))
        self._take_up()

    def __enter__(self) -> "Work":
        return self

    def __exit__(self, *_: object) -> None:
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        if not self.segments:  # there is nothing to go on from
            shutil.rmtree(self.folder, ignore_errors=True)

    def _was_made_from(self, wanted: Mapping[str, str]) -> bool:
        try:
            return bool(files.read_json(self.folder / MADE_FROM) == wanted)
        except (OSError, ValueError):
            return False

    def _check_ours(self) -> None:
        """Refuse to clear away what no clip has left there."""
        folder = self.folder
        is_ours = folder.is_dir() and ((folder / MADE_FROM).is_file() or not any(folder.iterdir()))
        if folder.exists() and not is_ours:
            raise VideoError(f"{folder} is in the way, and not from fnst; move it elsewhere.")

    def _take_up(self) -> None:
        while self._segment(len(self.segments)).exists():
            self.segments.append(self._segment(len(self.segments)))
        while self.segments and self.shown is None:
            self.shown = _read_shown(self._state(len(self.segments) - 1))
            if self.shown is None:  # it was lost, or belongs to a segment that never came
                self.segments.pop()
        # All are of the same length but the last of a clip that is finished but for being joined.
        if self.segments:
            last = reels.length(self.segments[-1])
            self.frames = (len(self.segments) - 1) * SEGMENT + last

    def add(self, clip: Clip, quality: int, painted: Iterable[Painted]) -> None:
        """Encode one more segment; it is there whole or not at all."""
        number = len(self.segments)
        ended: Painted | None = None

        def frames() -> Iterator[Frame]:
            nonlocal ended
            for each in painted:
                ended = each
                self.frames += 1
                yield each.frame

        unfinished = self.folder / UNFINISHED
        reels.write(unfinished, clip, self.target, frames(), quality)
        assert ended
        _write_shown(self._state(number), ended.shown)
        files.settle(unfinished, self._segment(number))
        if number:
            self._state(number - 1).unlink(missing_ok=True)
        self.segments.append(self._segment(number))

    def finish(self, clip: Clip) -> None:
        """Make the target of all segments, and clear away what was needed for it."""
        whole = self.folder / UNFINISHED
        reels.join(whole, clip, self.target, self.segments)
        files.settle(whole, self.target)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _segment(self, number: int) -> Path:
        return self.folder / f"{number:05}.nut"

    def _state(self, number: int) -> Path:
        return self.folder / f"{number:05}.safetensors"


def place_of_work(target: Path) -> Path:
    """Where the segments of an unfinished clip lie."""
    return target.with_name(f"{target.name}.part")


def _write_shown(path: Path, shown: Shown) -> None:
    tensors = {"photo": shown.photo, "painted": shown.painted}
    content = safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()})
    files.write(path, content)


def _read_shown(path: Path) -> Shown | None:
    try:
        return Shown(**safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError, TypeError):
        return None
