"""Photographs decoded once, into a packed set: a folder of shards that training maps into memory.

    00000.npy   uint8 (n, size, size, 3), sRGB: what was kept of the first 1024 photographs
    00000.json  what became of each of them, and the shard's fingerprint
    00001.npy   ...
    set.json    last of all: size, number of photographs, the shards in their order, and which
                photographs came smaller, with the short side of each

A shard appears when it is complete, so that an interrupted work goes on at the next one. It is used
again exactly when its fingerprint is the same, which covers everything that its bytes depend on.

Photographs are files that nobody looked at: whatever is damaged, hostile or there twice is left out
and listed, and never ends the work.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import PIL
from jaxtyping import UInt8

from fnst import colours, files, images, twins
from fnst.collection import Entry
from fnst.errors import ImageError
from fnst.files import readable
from fnst.twins import Told, Twins

Square = UInt8[np.ndarray, "s s 3"]

# Photographs that are looked at for one shard; chosen by us: at 288 pixels a side 250 MB, which is
# seconds of work to lose and a hundred files for MS COCO.
SHARD = 1024

# A photograph with a shorter side than this teaches nothing about texture; chosen by us.
LEAST_SIDE = 64

# A larger file is not read, because a zip can promise terabytes in a kilobyte; chosen by us: what
# the largest picture that fnst reads takes without any compression, and a quarter more.
MOST_BYTES = images.MOST_PIXELS * 4

# Files larger than this are read one at a time, as the pictures are that they may hold.
LARGE_BYTES = images.LARGE_PIXELS * 3

# Photographs that a worker takes at once; chosen by us: handing them over one by one takes 2 % of
# the time, and of more the last worker would be left alone with as many.
RUN = 4

# Photographs that each worker may be ahead of the one that is written; chosen by us: enough that
# nobody waits for one that takes four times as long as others.
AHEAD = 2 * RUN

# Photographs after which what was written is brought to the disk; chosen by us: at 288 pixels
# 16 MB, so that at the end of a shard, and of all, there is little left to wait for.
SYNC = 64

# What decides which photographs are kept, and how they become squares.
CODE = tuple(Path(path) for path in (__file__, colours.__file__, images.__file__, twins.__file__))

# Whatever a call may have written, whole or unfinished.
OURS = re.compile(r"\.?(\d{5}\.npy|\d{5}\.json|set\.json)(\..*)?")

_one_large_file = Lock()


@dataclass
class Report:
    """What became of every photograph that was looked at."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The name of each, its size in bytes and CRC-32, and the short side of one that came smaller
    than it is kept; or the reason why it was left out."""
    entries: list[Entry] = field(default_factory=list, compare=False, repr=False)
    """The same photographs, to be read again."""

    @property
    def kept(self) -> list[dict[str, Any]]:
        """What the set holds, in its order."""
        return [row for row in self.rows if "reason" not in row]

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """What it does not hold, and why."""
        return [row for row in self.rows if "reason" in row]

    def add(self, photo: Entry, **what: int | str) -> None:
        """Tell what became of one more."""
        self.rows.append({"name": _text(photo.name), **what})
        self.entries.append(photo)

    def extend(self, other: "Report") -> None:
        """Add what another report says."""
        self.rows.extend(other.rows)
        self.entries.extend(other.entries)

    def as_json(self) -> dict[str, Any]:
        """For people, and to know photographs by."""
        known_by = ("name", "size", "crc32")
        kept = [{key: row[key] for key in known_by} for row in self.kept]
        return {"kept": kept, "left_out": self.left_out}


@dataclass(frozen=True)
class _Shard:
    """A part of the set, before it is known what it will hold."""

    pixels: Path
    notes: Path
    entries: Sequence[Entry]
    fingerprint: str


@dataclass
class _Decoded:
    """What became of one photograph."""

    photo: Entry
    told: Told
    square: Square | str  # or the reason why there is none
    side: int = 0  # the short one of the photograph that came, pixels


class _Seen:
    """Which files are in this set, or in one that must have no photograph in common with it."""

    def __init__(self, without: Iterable[Report]) -> None:
        self.twins = Twins(_digest)
        self.held_out = {photo for report in without for photo in self.remember(report)}

    def reason(self, photo: Entry, told: Told) -> str | None:
        """Why this file may not be kept; it is, when there is none."""
        same = self.twins.take(photo, told)
        if same in self.held_out:
            return "it is held out for evaluation"
        return f"it is the same file as {_text(same.name)}" if same else None

    def remember(self, report: Report) -> list[Entry]:
        """What a report says was kept may not be kept again; these photographs."""
        kept = [
            (photo, (row["size"], int(row["crc32"], 16)))
            for row, photo in zip(report.rows, report.entries, strict=True)
            if "reason" not in row
        ]
        for photo, told in kept:
            self.twins.take(photo, told)
        return [photo for photo, _ in kept]


def needed(count: int, size: int) -> int:
    """Bytes that a packed set of so many photographs takes on disk, at most."""
    return count * size * size * 3


def pack(
    found: Sequence[Entry],
    folder: Path,
    *,
    size: int,
    without: Sequence[Report] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Decode photographs to squares of ``size`` pixels and write them as one packed set.

    Broken files, files with a side below 64 pixels and duplicates are left out and listed, never
    fatal: every photograph is either kept or left out. The result does not depend on the number of
    cores. What an earlier call left in the folder is used where it is what this one would make, and
    removed where not.

    Args:
        found: photographs, see ``collection.entries``.
        folder: of the set; ``set.json`` in it appears when it is complete.
        size: side of the squares, pixels.
        without: what other sets hold, and must therefore not be in this one.
        progress: called with the number of photographs looked at.

    Raises:
        ImageError: when not one photograph could be used, or the set cannot be written.
    """
    shards = _planned(found, folder, size, without)
    done = {s.pixels: kept for s in shards if (kept := _done(s, size)) is not None}
    todo = [shard for shard in shards if shard.pixels not in done]
    if todo or not _is_complete(folder, size, shards, done):
        try:
            _make_room(folder, done, needed(sum(len(s.entries) for s in todo), size))
            _write_all(shards, done, size, _Seen(without), progress)
        except OSError as error:
            reason = error.strerror or error
            raise ImageError(f"{folder}: the packed set cannot be written: {reason}.") from error
    else:
        progress(len(found))
    report = Report()
    for shard in shards:
        report.extend(done[shard.pixels])
    if not report.kept:
        _remove(folder, keep=set())
        raise ImageError(_nothing_left(report))
    if not (folder / "set.json").exists():
        files.write_json(folder / "set.json", _summary(size, shards, done))
    return report


# --- which shards there are to be, and which there are --------------------------------------------


def _planned(
    found: Sequence[Entry], folder: Path, size: int, without: Sequence[Report]
) -> list[_Shard]:
    """The shards of this set; nothing is read but the program."""
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in CODE]
    held_out = sorted([row["size"], row["crc32"]] for report in without for row in report.kept)
    fingerprint = _hash([*code, PIL.__version__, size, held_out])
    shards: list[_Shard] = []
    for number, start in enumerate(range(0, len(found), SHARD)):
        part = found[start : start + SHARD]
        # The one before is in it, because a duplicate is left out for the sake of the first.
        fingerprint = _hash([fingerprint, [[entry.name, entry.size, entry.mark] for entry in part]])
        name = f"{number:05}"
        shards.append(_Shard(folder / f"{name}.npy", folder / f"{name}.json", part, fingerprint))
    return shards


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _done(shard: _Shard, size: int) -> Report | None:
    """What the shard holds, when it is there already and is what it would become again."""
    try:
        notes = files.read_json(shard.notes)
        report = Report(notes["photographs"], list(shard.entries))
        pixels = np.load(shard.pixels, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, KeyError):
        return None
    whole = (pixels.dtype, pixels.shape) == (np.uint8, (len(report.kept), size, size, 3))
    return report if whole and notes.get("fingerprint") == shard.fingerprint else None


def _is_complete(
    folder: Path, size: int, shards: Sequence[_Shard], done: dict[Path, Report]
) -> bool:
    try:
        return bool(files.read_json(folder / "set.json") == _summary(size, shards, done))
    except (OSError, ValueError):
        return False


def _summary(size: int, shards: Sequence[_Shard], done: dict[Path, Report]) -> dict[str, Any]:
    counts = {shard.pixels.name: len(done[shard.pixels].kept) for shard in shards}
    rows = [row for shard in shards for row in done[shard.pixels].kept]
    smaller = {str(place): row["side"] for place, row in enumerate(rows) if "side" in row}
    return {"size": size, "photographs": len(rows), "shards": counts, "smaller": smaller}


def _make_room(folder: Path, done: dict[Path, Report], bytes_needed: int) -> None:
    """Remove what is not wanted any more; refuse before that when the rest would not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    keep = {name for path in done for name in (path.name, path.with_suffix(".json").name)}
    free = shutil.disk_usage(folder).free
    free += sum(path.stat().st_size for path in _ours(folder) if path.name not in keep)
    if bytes_needed > free:
        raise ImageError(
            f"the packed set needs {readable(bytes_needed)}, and {readable(free)} are free "
            f"in {folder}; free some, or set photos.size, held_out_size or train_count lower."
        )
    _remove(folder, keep)


def _remove(folder: Path, keep: set[str]) -> None:
    # Without set.json there is no set: what is left of it cannot be mistaken for one.
    (folder / "set.json").unlink(missing_ok=True)
    for path in _ours(folder):
        if path.name not in keep:
            path.unlink()


def _ours(folder: Path) -> list[Path]:
    """Whatever a call has written, unfinished files too; and nothing else."""
    return [path for path in folder.iterdir() if OURS.fullmatch(path.name)]


def _nothing_left(report: Report) -> str:
    if not report.left_out:
        return "Expected photographs (.jpg, .png, .webp ... or a zip of them), found none."
    first = report.left_out[0]
    return (
        f"Expected at least one usable photograph, but all {len(report.left_out)} were left out; "
        f"the first, {first['name']}, because: {first['reason']}"
    )


# --- writing --------------------------------------------------------------------------------------


def _write_all(
    shards: Sequence[_Shard],
    done: dict[Path, Report],
    size: int,
    seen: _Seen,
    progress: Callable[[int], None],
) -> None:
    """Write the shards that are not ``done`` yet, and add there what they hold."""
    todo = [entry for shard in shards if shard.pixels not in done for entry in shard.entries]
    looked_at = 0
    with _all_decoded(todo, size) as decoded, _Behind() as behind:
        for shard in shards:
            if shard.pixels in done:
                seen.remember(done[shard.pixels])
            else:
                counted = _counted(islice(decoded, len(shard.entries)), looked_at, progress)
                report = _write(_unfinished(shard), counted, size, seen, behind)
                behind.wait()
                behind.do(_finish, shard, report)
                done[shard.pixels] = report
            looked_at += len(shard.entries)
            progress(looked_at)
        behind.wait()


class _Behind:
    """One thread that waits for the disk while the others decode."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.asked = deque[Future[None]]()

    def __enter__(self) -> "_Behind":
        return self

    def do(self, work: Callable[..., None], *given: Any) -> None:
        """Do this after what was asked for before."""
        self.asked.append(self.pool.submit(work, *given))

    def wait(self) -> None:
        """Until all is done that was asked for; fails where that did."""
        while self.asked:
            self.asked.popleft().result()

    def __exit__(self, *raised: object) -> None:
        self.pool.shutdown()  # a shard that is whole still appears


def _counted(
    decoded: Iterable[_Decoded], before: int, progress: Callable[[int], None]
) -> Iterator[_Decoded]:
    for number, photo in enumerate(decoded, start=before):
        progress(number)
        yield photo


def _write(
    path: Path, decoded: Iterable[_Decoded], size: int, seen: _Seen, behind: _Behind
) -> Report:
    """Write what may be kept, and tell what that was."""
    report = Report()
    try:
        with path.open("wb") as file:
            _write_header(file, 0, size)
            for number, photo in enumerate(decoded, start=1):
                _keep(photo, file, report, seen, size)
                if number % SYNC == 0:
                    behind.do(_sync, path)
            _write_header(file, len(report.kept), size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return report


def _keep(decoded: _Decoded, file: BinaryIO, report: Report, seen: _Seen, kept_at: int) -> None:
    """Append the photograph, or say why not."""
    if isinstance(decoded.square, str):
        report.add(decoded.photo, reason=decoded.square)
    elif reason := seen.reason(decoded.photo, decoded.told):
        report.add(decoded.photo, reason=reason)
    else:
        size, crc = decoded.told
        file.write(decoded.square.data)
        smaller = {"side": decoded.side} if decoded.side < kept_at else {}
        report.add(decoded.photo, size=size, crc32=f"{crc:08x}", **smaller)


def _unfinished(shard: _Shard) -> Path:
    return shard.pixels.with_name(f".{shard.pixels.name}.partial")


def _finish(shard: _Shard, report: Report) -> None:
    """Let the shard appear; what it holds is told last, so that nothing is believed too early."""
    _sync(_unfinished(shard))  # or a power cut leaves a renamed, empty file
    _unfinished(shard).replace(shard.pixels)
    files.write_json(shard.notes, {"fingerprint": shard.fingerprint, "photographs": report.rows})


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    # numpy pads its header so that the first axis may grow without moving the data.
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    position = file.tell()
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header)
    file.seek(max(position, file.tell()))


# --- decoding -------------------------------------------------------------------------------------


@contextmanager
def _all_decoded(todo: Iterable[Entry], size: int) -> Iterator[Iterator[_Decoded]]:
    """Decode on all cores while the block lasts; the results come in order."""
    with warnings.catch_warnings():  # set here, because filters are those of all threads
        warnings.simplefilter("ignore")  # Pillow warns of damage that does no harm
        pool = ThreadPoolExecutor(_workers())
        try:
            yield _in_order(pool, todo, size)
        finally:
            pool.shutdown(cancel_futures=True)


def _in_order(pool: ThreadPoolExecutor, todo: Iterable[Entry], size: int) -> Iterator[_Decoded]:
    """Never more than a few photographs ahead, so that memory does not grow with the set."""
    left, ahead = iter(todo), deque[Future[list[_Decoded]]]()
    while run := list(islice(left, RUN)):
        ahead.append(pool.submit(_decode_all, run, size))
        if len(ahead) * RUN >= AHEAD * _workers():
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decode_all(run: Sequence[Entry], size: int) -> list[_Decoded]:
    return [_decode(photo, size) for photo in run]


def _decode(photo: Entry, size: int) -> _Decoded:
    """Read a file and make it a square, or say why there is none."""
    if photo.size > MOST_BYTES:
        reason = f"it has {readable(photo.size)}, more than any photograph"
        return _Decoded(photo, (0, 0), reason)
    with _one_at_a_time(photo):
        try:
            content = photo.read()
        except Exception as error:  # a damaged member makes its decompressor raise almost anything
            return _Decoded(photo, (0, 0), _text(f"it cannot be read ({error})"))
        crc = zlib.crc32(content) if photo.crc32 is None else photo.crc32
        return _Decoded(photo, (len(content), crc), *_square(content, size, _text(photo.name)))


def _digest(photo: Entry) -> bytes:
    with _one_at_a_time(photo):
        return hashlib.sha256(photo.read()).digest()


def _one_at_a_time(photo: Entry) -> AbstractContextManager[Any]:
    """What a large file is read and held in."""
    return _one_large_file if photo.size > LARGE_BYTES else nullcontext()


def _square(content: bytes, size: int, name: str) -> tuple[Square | str, int]:
    """The square or the reason why there is none, and the short side of what came."""
    try:
        with images.opened(content, name=name) as picture:
            width, height = picture.size
            side = min(width, height)
            if side < LEAST_SIDE:
                return f"it is {width}x{height}, smaller than {LEAST_SIDE} pixels", side
            return images.square(picture, size), side
    except ImageError as error:
        return _text(str(error)), 0


def _text(text: str) -> str:
    """Text that can be written: names of files may be no valid Unicode."""
    return text.encode(errors="backslashreplace").decode()
