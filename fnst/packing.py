"""Photographs decoded once, into a packed set: a folder of shards that training maps into memory.

    00000.npy   uint8 (n, size, size, 3), sRGB: what was kept of the first 1024 photographs
    00000.json  which these are, what was left out and why, and the shard's fingerprint
    00001.npy   ...
    set.json    last of all: size, number of photographs, the shards in their order

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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import PIL
from jaxtyping import UInt8

from fnst import colours, files, images
from fnst.collection import Entry
from fnst.errors import ImageError
from fnst.files import readable

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

# Photographs that each worker may be ahead of the one that is written; chosen by us: enough that
# nobody waits for one that takes four times as long as others.
AHEAD = 4

# What decides how a photograph becomes a square.
CODE = (Path(__file__), Path(images.__file__), Path(colours.__file__))

# Whatever a call may have written, whole or unfinished.
OURS = re.compile(r"\.?(\d{5}\.npy|\d{5}\.json|set\.json)(\..*)?")

_one_large_file = Lock()


@dataclass
class Report:
    """What a packed set holds, and what was left out and why."""

    kept: list[dict[str, str]] = field(default_factory=list)  # name, sha256 of the file
    left_out: list[dict[str, str]] = field(default_factory=list)  # name, reason

    @property
    def hashes(self) -> set[str]:
        return {photo["sha256"] for photo in self.kept}

    def extend(self, other: "Report") -> None:
        """Add what another report says."""
        self.kept.extend(other.kept)
        self.left_out.extend(other.left_out)


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

    name: str
    digest: bytes  # SHA-256 of the file; empty when it cannot be read
    square: Square | str  # or the reason why there is none


class _Seen:
    """Which files are in this set, or in the one that must have no photograph in common with it."""

    def __init__(self, without: Iterable[str]) -> None:
        self.held_out = frozenset(map(bytes.fromhex, without))
        self.names: dict[bytes, str] = {}

    def reason(self, digest: bytes) -> str | None:
        """Why this file may not be kept."""
        if digest in self.held_out:
            return "it is held out for evaluation"
        if digest in self.names:
            return f"it is the same file as {self.names[digest]}"
        return None

    def remember(self, report: Report) -> None:
        """What a report says was kept may not be kept again."""
        self.names |= {bytes.fromhex(photo["sha256"]): photo["name"] for photo in report.kept}


def needed(count: int, size: int) -> int:
    """Bytes that a packed set of so many photographs takes on disk, at most."""
    return count * size * size * 3


def pack(
    found: Sequence[Entry],
    folder: Path,
    *,
    size: int,
    without: Iterable[str] = (),
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
        without: SHA-256 of files that must not be in this set, because another set holds them.
        progress: called with the number of photographs looked at.

    Raises:
        ImageError: when not one photograph could be used, or the set cannot be written.
    """
    held_out = sorted(set(without))
    shards = _planned(found, folder, size, held_out)
    done = {s.pixels: kept for s in shards if (kept := _done(s, size)) is not None}
    todo = [shard for shard in shards if shard.pixels not in done]
    if todo or not _is_complete(folder, size, shards, done):
        try:
            _make_room(folder, done, needed(sum(len(s.entries) for s in todo), size))
            _write_all(shards, done, size, _Seen(held_out), progress)
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
    found: Sequence[Entry], folder: Path, size: int, held_out: Sequence[str]
) -> list[_Shard]:
    """The shards of this set; nothing is read but the program."""
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in CODE]
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
        report = Report(notes["kept"], notes["left_out"])
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
    return {"size": size, "photographs": sum(counts.values()), "shards": counts}


def _make_room(folder: Path, done: dict[Path, Report], bytes_needed: int) -> None:
    """Remove what is not wanted any more; refuse before that when the rest would not fit."""
    folder.mkdir(parents=True, exist_ok=True)
    keep = {name for path in done for name in (path.name, path.with_suffix(".json").name)}
    free = shutil.disk_usage(folder).free
    free += sum(path.stat().st_size for path in _ours(folder) if path.name not in keep)
    if bytes_needed > free:
        raise ImageError(
            f"the packed set needs {readable(bytes_needed)}, and {readable(free)} are free "
            f"in {folder}; free some, or set photos.size or train_count lower."
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
    looked_at, finishing = 0, deque[Future[None]]()
    # One brings a shard to the disk while the others decode the next.
    with _all_decoded(todo, size) as decoded, ThreadPoolExecutor(1) as finisher:
        for shard in shards:
            if shard.pixels in done:
                seen.remember(done[shard.pixels])
            else:
                counted = _counted(islice(decoded, len(shard.entries)), looked_at, progress)
                report = _write(_unfinished(shard), counted, size, seen)
                while finishing:
                    finishing.pop().result()
                finishing.append(finisher.submit(_finish, shard, report))
                done[shard.pixels] = report
            looked_at += len(shard.entries)
            progress(looked_at)
        while finishing:
            finishing.pop().result()


def _counted(
    decoded: Iterable[_Decoded], before: int, progress: Callable[[int], None]
) -> Iterator[_Decoded]:
    for number, photo in enumerate(decoded, start=before):
        progress(number)
        yield photo


def _write(path: Path, decoded: Iterable[_Decoded], size: int, seen: _Seen) -> Report:
    """Write what may be kept, and tell what that was."""
    report = Report()
    try:
        with path.open("wb") as file:
            _write_header(file, 0, size)
            for photo in decoded:
                _keep(photo, file, report, seen)
            _write_header(file, len(report.kept), size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return report


def _keep(photo: _Decoded, file: BinaryIO, report: Report, seen: _Seen) -> None:
    """Append the photograph, or say why not."""
    reason = seen.reason(photo.digest)
    if reason or isinstance(photo.square, str):
        report.left_out.append({"name": photo.name, "reason": reason or str(photo.square)})
        return
    file.write(photo.square.data)
    report.kept.append({"name": photo.name, "sha256": photo.digest.hex()})
    seen.names[photo.digest] = photo.name


def _unfinished(shard: _Shard) -> Path:
    return shard.pixels.with_name(f".{shard.pixels.name}.partial")


def _finish(shard: _Shard, report: Report) -> None:
    """Let the shard appear; what it holds is told last, so that nothing is believed too early."""
    with _unfinished(shard).open("rb+") as file:
        os.fsync(file.fileno())  # or a power cut leaves a renamed, empty file
    _unfinished(shard).replace(shard.pixels)
    files.write_json(shard.notes, {"fingerprint": shard.fingerprint, **vars(report)})


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
    ahead: deque[Future[_Decoded]] = deque()
    for entry in todo:
        ahead.append(pool.submit(_decode, entry, size))
        if len(ahead) > AHEAD * _workers():
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decode(entry: Entry, size: int) -> _Decoded:
    """Hash a file and make it a square, or say why there is none."""
    name = _text(entry.name)
    if entry.size > MOST_BYTES:
        return _Decoded(name, b"", f"it has {readable(entry.size)}, more than any photograph")
    with _one_large_file if entry.size > LARGE_BYTES else nullcontext():
        try:
            content = entry.read()
        except Exception as error:  # a damaged member makes its decompressor raise almost anything
            return _Decoded(name, b"", _text(f"it cannot be read ({error})"))
        return _Decoded(name, hashlib.sha256(content).digest(), _square(content, size, name))


def _square(content: bytes, size: int, name: str) -> Square | str:
    try:
        with images.opened(content, name=name) as picture:
            width, height = picture.size
            if min(width, height) < LEAST_SIDE:
                return f"it is {width}x{height}, smaller than {LEAST_SIDE} pixels"
            return images.square(picture, size)
    except ImageError as error:
        return _text(str(error))


def _text(text: str) -> str:
    """Text that can be written: names of files may be no valid Unicode."""
    return text.encode(errors="backslashreplace").decode()
