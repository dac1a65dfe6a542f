"""Which pictures are to be painted, where their results go, and what is done already.

A photograph is named, or found: in a folder, with all that lie below it, or by a pattern, which may
be the shell's. One that is named alone is painted. Of many, results of earlier runs are not painted
again, what is done is not done twice, and so an interrupted batch goes on where it stopped.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from fnst import images
from fnst.errors import HugeError, ImageError

PIPE = "-"  # as a photo, what is piped in; as the output, what is piped out
PIPED = "standard input"
MOST_PIPED = 2**31  # bytes; chosen by us: more than any picture, less than a mistake takes

# How names of results go on after the photograph's: a style and its version, and perhaps more.
RESULT = re.compile(r"-[a-z0-9]+(-[a-z0-9]+)*-v[0-9]+(-|$)")

# What a photograph becomes that keeps no format of its own: small where it was small.
CONVERTED = {".heic": ".jpg", ".heif": ".jpg", ".hif": ".jpg"}


class OutputError(ImageError):
    """What was asked for as the output cannot hold the results of these photographs."""


@dataclass(frozen=True)
class Job:
    """One photograph, and the file that its result becomes."""

    photo: Path | bytes
    """A file, or what came through a pipe."""
    target: Path | None
    """A file; None is a pipe."""
    ending: str
    """Of the result's format, such as ``.png``."""
    is_converted: bool = False
    """Unasked, because its own format cannot be written."""

    @property
    def name(self) -> str:
        """What people call the photograph."""
        return str(self.photo) if isinstance(self.photo, Path) else PIPED


@dataclass(frozen=True)
class Plan:
    """What is to be done, and what is not."""

    jobs: Sequence[Job]
    done: int = 0
    """So many results are there already."""
    earlier: Sequence[Path] = ()
    """Results of earlier runs that lie among the photographs, and are none."""


@dataclass(frozen=True)
class Words:
    """What people named, told apart."""

    photos: Sequence[str]
    """For ``plan``."""
    clips: Sequence[Path]
    """Named, or matched by a pattern."""
    below: Mapping[Path, Path]
    """Where each clip lies in what is fixed of its pattern's folder, for ``video.targets``."""
    earlier: Sequence[Path]
    """Results of earlier runs that lie among the clips, and are none."""
    left_out: int
    """So many other clips lie in the folders."""
    are_many: bool
    """Whether there may be more than one, now or another time."""


@dataclass(frozen=True)
class _Photo:
    path: Path
    below: Path = Path()
    """Where it lies in the folder that was named, or in what is fixed of the pattern's, so that
    results can lie alike."""


def told_apart(
    words: Sequence[str], is_clip: Callable[[Path], bool], output: str | None = None
) -> Words:
    """Which words name pictures, and which clips; those in folders are left out.

    A folder of photographs is painted in minutes, and a clip that lies there may take a day.

    Args:
        words: files, folders, patterns, or ``-``.
        is_clip: whether a file is one.
        output: where results go, as for ``plan``.
    """
    photos: list[str] = []
    moving: list[_Photo] = []
    within: list[_Photo] = []
    for word in words:
        path = Path(word)
        if path.is_dir():
            within += _walk(path, Path(), output, is_clip)
            photos.append(word)
        elif _is_pattern(word):
            matches = _matches(word, output)
            found = [photo for photo in matches if is_clip(photo.path)]
            moving += found
            if len(found) < len(matches) or not found:
                photos.append(word)
        elif is_clip(path):
            moving.append(_Photo(path))
        else:
            photos.append(word)
    clips, earlier = _without_results(_once(moving))
    left_out = _places(_without_results(within)[0]).keys() - _places(clips).keys()
    return Words(
        photos,
        [clip.path for clip in clips],
        {clip.path: clip.below for clip in clips},
        earlier,
        len(left_out),
        not _is_one(words),
    )


def plan(
    photos: Sequence[str],
    output: str | None,
    label: str,
    *,
    is_clip: Callable[[Path], bool] = lambda path: False,
    is_batch: bool = False,
    overwrite: bool = False,
    piped: Callable[[], bytes] = bytes,
) -> Plan:
    """Find the photographs, name their results, and refuse what would destroy a file.

    Args:
        photos: files, folders, patterns, or ``-``.
        output: a file for one photograph, a folder for any number, ``-``, or None, which is beside
            each.
        label: what a result is called after its photograph, such as ``ink-v3``.
        is_clip: whether a file is a clip, and no picture.
        is_batch: whether clips are painted, too.
        overwrite: whether results may be replaced.
        piped: gives what is piped in; asked only if ``-`` is among the photos.

    Raises:
        OutputError: when all results would be one file.
        ImageError: when there is nothing to paint, or a photograph or a result would be lost.
    """
    found = [
        photo
        for word in photos
        if word != PIPE
        for photo in _find(word, photos, output)
        if not is_clip(photo.path)
    ]
    fresh, earlier = _without_results(_once(found))
    jobs = _jobs(fresh, output, label, is_one=_is_one(photos))
    if PIPE in photos:
        jobs.append(_piped(piped(), output, label, is_one=_is_one(photos)))
    if len(jobs) > 1 and any(job.target is None for job in jobs):
        raise OutputError(f"--output - takes one result, but there are {len(jobs)} photos")
    _check_nothing_is_lost(jobs)
    there = [] if overwrite else [job for job in jobs if job.target and job.target.exists()]
    _check_done(there, is_batch=is_batch or not _is_one(photos))
    todo = tuple(job for job in jobs if job not in there)
    # Those that this very command has made, or will make, surprise nobody: they come last.
    ours = {job.target for job in jobs}
    return Plan(todo, len(there), sorted(earlier, key=lambda path: path in ours))


def make_folder(folder: Path) -> None:
    """Make a folder for results; ImageError when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{folder}: this folder cannot be made: {error.strerror}.") from error


# --- finding photographs --------------------------------------------------------------------------


def _is_one(photos: Sequence[str]) -> bool:
    return len(photos) == 1 and not Path(photos[0]).is_dir() and not _is_pattern(photos[0])


def _is_pattern(word: str) -> bool:
    return glob.has_magic(word) and not Path(word).exists()


def _find(word: str, photos: Sequence[str], output: str | None) -> list[_Photo]:
    path = Path(word)
    if path.is_dir():
        folders = [other for other in photos if Path(other).is_dir()]
        below = Path(path.resolve().name) if len(folders) > 1 else Path()
        found = list(_walk(path, below, output))
    elif _is_pattern(word):
        found = _matches(word, output)
    else:
        return [_Photo(path)]
    if not found:
        where = "in it" if path.is_dir() else "called like that"
        raise ImageError(f"{word}: there is no picture {where}.")
    return found


def _matches(pattern: str, output: str | None) -> list[_Photo]:
    """The files that fit a pattern; none of the folder of the results if that lies among them."""
    names = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # Path takes no absolute one
    files = [Path(name) for name in names if Path(name).is_file()]
    *folders, _ = Path(pattern).parts
    fixed = Path(*takewhile(lambda part: not glob.has_magic(part), folders))
    found = [_Photo(file, file.parent.relative_to(fixed)) for file in files]
    results = _folder_of_results(output)
    if results is None or fixed.resolve() not in results.parents:
        return found
    return [each for each in found if not each.path.parent.resolve().is_relative_to(results)]


def _folder_of_results(output: str | None) -> Path | None:
    return None if output in (None, PIPE) else Path(str(output)).resolve()


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in images.READABLE


def _walk(
    folder: Path,
    below: Path,
    output: str | None,
    is_wanted: Callable[[Path], bool] = _is_readable,
) -> Iterator[_Photo]:
    """The pictures in a folder and those in it, in the order of their names; none that is hidden.

    The folder of the results may be one of them, and is left out.
    """
    results = _folder_of_results(output)
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders if name[0] != "." and (here / name).resolve() != results
        )
        for name in sorted(names):
            if name[0] != "." and is_wanted(here / name):
                yield _Photo(here / name, below / here.relative_to(folder))


def _once(photos: Iterable[_Photo]) -> list[_Photo]:
    """Each file once, as it was first named or matched."""
    return list(_places(photos).values())


def _places(photos: Iterable[_Photo]) -> dict[Path, _Photo]:
    """Where files lie, whatever way leads there; links among the files are files of their own."""
    places: dict[Path, _Photo] = {}
    for photo in photos:
        places.setdefault(photo.path.parent.resolve() / photo.path.name, photo)
    return places


def results_among(paths: Sequence[Path]) -> set[Path]:
    """What an earlier run painted from a photograph that lies beside it.

    Whether they were named does not matter: a shell names them where it expands a pattern. One that
    is named alone has no photograph beside it.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).update((path.stem, path.name))
    return {path for path in paths if _is_result(path, names[path.parent])}


def _without_results(photos: Sequence[_Photo]) -> tuple[list[_Photo], list[Path]]:
    results = results_among([photo.path for photo in photos])
    fresh = [photo for photo in photos if photo.path not in results]
    return fresh, [photo.path for photo in photos if photo.path in results]


def _is_result(path: Path, beside: set[str]) -> bool:
    dashes = [i for i, letter in enumerate(path.stem) if letter == "-"]
    return bool(RESULT.search(path.stem)) and any(path.stem[:i] in beside for i in dashes)


# --- naming results -------------------------------------------------------------------------------


def _jobs(photos: Sequence[_Photo], output: str | None, label: str, *, is_one: bool) -> list[Job]:
    jobs = [_job(photo, output, label, is_one=is_one) for photo in photos]
    kept = {job.target for job in jobs if not job.is_converted}
    return [
        _renamed(job, label) if job.is_converted and job.target in kept else job for job in jobs
    ]


def _job(photo: _Photo, output: str | None, label: str, *, is_one: bool) -> Job:
    suffix = photo.path.suffix
    keeps = suffix.lower() in images.FORMATS
    ending = suffix if keeps else CONVERTED.get(suffix.lower(), ".png")
    if output == PIPE:
        return Job(photo.path, None, ending, is_converted=not keeps)
    name = _name(photo.path.stem, label, ending)
    if output is None:
        target = photo.path.with_name(name)
    else:
        target = _target(name, output, photo.below, is_one=is_one)
    is_converted = not keeps and target.name == name
    return Job(photo.path, target, target.suffix, is_converted=is_converted)


def _name(stem: str, label: str, ending: str) -> str:
    return f"{stem}-{label}{ending}"


def _renamed(job: Job, label: str) -> Job:
    """Beside a.png, the result of a.ppm is called after its whole name."""
    target = job.target
    if target is None:
        return job
    return replace(job, target=target.with_name(_name(Path(job.name).name, label, job.ending)))


def _target(name: str, output: str, below: Path, *, is_one: bool) -> Path:
    """Where a result goes that would be called ``name`` if nobody names it."""
    place = Path(output)
    if place.is_dir() or output.endswith(os.sep) or not place.suffix:
        return place / below / name
    if is_one:
        return place
    if place.suffix.lower() in images.FORMATS:
        raise OutputError(f"--output {output} is one file, but there are many photos")
    return place / below / name


def _piped(content: bytes, output: str | None, label: str, *, is_one: bool) -> Job:
    ending = images.ending_of(content)
    if output in (None, PIPE):
        return Job(content, None, ending)
    target = _target(_name("stdin", label, ending), str(output), Path(), is_one=is_one)
    return Job(content, target, target.suffix)


# --- what must not be lost ------------------------------------------------------------------------


def _check_nothing_is_lost(jobs: Sequence[Job]) -> None:
    """Refuse, before any work, what would destroy a photograph or another result."""
    photos = {job.photo.resolve() for job in jobs if isinstance(job.photo, Path)}
    taken: dict[Path, Job] = {}
    for job in jobs:
        if job.target is None:
            continue
        place = job.target.resolve()
        if place in photos:
            raise ImageError(f"{job.target} is a photo to repaint itself; choose another --output.")
        if place in taken:
            raise ImageError(
                f"{taken[place].name} and {job.name} would both become {job.target}; "
                "stylize them into different folders."
            )
        taken[place] = job


def _check_done(there: Sequence[Job], *, is_batch: bool) -> None:
    """Results of a batch that are pictures are done; anything else is in the way."""
    wrong = [job for job in there if not (is_batch and _is_picture(job))]
    if wrong:
        others = f" (and {len(wrong) - 1} others)" if len(wrong) > 1 else ""
        raise ImageError(
            f"{wrong[0].target}{others} is there already; say --overwrite to replace it."
        )


def _is_picture(job: Job) -> bool:
    try:
        images.size_of(job.target or b"")
    except HugeError:  # known by its header
        return True
    except ImageError:
        return False
    return True
