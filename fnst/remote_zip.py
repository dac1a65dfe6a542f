"""Members of a zip that lies on a server, without the rest of it: by range requests only.

`open_zip` reads the directory at the archive's end and keeps the listing; what came of it before an
interrupt lies in a `_Part` and is not asked for again. `RemoteZip.bring` then asks for the spans of
single members and puts each in its place as a file, verified by its CRC-32.
"""

import functools
import hashlib
import io
import json
import shutil
import struct
import threading
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

from fnst import files
from fnst.errors import AssetError
from fnst.web import (
    Answer,
    BeyondError,
    BrokenOffError,
    Crew,
    NoRangesError,
    Report,
    ask,
    fetch,
    require_room,
)

# Chosen by us.
CONNECTIONS = 8
PIECE = 16 << 20  # bytes asked for at once, at most, unless one member is longer
GAP = 64 << 10  # bytes between two members that are cheaper to skip than a request of their own
LARGEST = 256 << 20  # bytes of a member, and of a directory: both are held in memory
BLOCK = 4096  # bytes that a file system gives at once, nearly everywhere
ARRIVING = ".arriving"  # the folder of members that are not complete yet

TAIL = (64 << 10) + 22  # bytes asked for at first: in these zipfile looks for the directory's end
# APPNOTE 4.3.7: signature, version, flags, method, time, date, CRC, sizes, lengths of name and more
LOCAL_HEADER = struct.Struct("<4s5H3L2H")

FRAME = struct.Struct("<QLL")  # of a piece that is kept: its span's start, its length, its CRC-32


@dataclass(frozen=True)
class Member:
    """A file in the archive."""

    name: str
    size: int
    """Bytes when unpacked."""
    crc: int
    start: int
    """Where in the archive its local header begins."""
    end: int
    """Where the next member's header, or the directory, begins."""


@dataclass(frozen=True)
class RemoteZip:
    """A zip on a server and its members, in the archive's order."""

    url: str
    notes: Path
    verify: bool | str
    validator: str | None
    total: int
    members: tuple[Member, ...]

    def cost(self, members: Sequence[Member]) -> int:
        """The bytes of the archive that hold these members."""
        return sum(member.end - member.start for member in members)

    def bring(
        self, members: Sequence[Member], folder: Path, *, progress: Report | None = None
    ) -> list[Path]:
        """Put members into a folder, under their names; those that are there are not asked for.

        Two processes that want this in the same folder wait for each other.

        Args:
            members: Some of `self.members`.
            folder: Made if missing.
            progress: Called with the bytes of the archive so far and in all, by this thread.

        Returns:
            The files, in the order of `members`.

        Raises:
            AssetError: if the server refuses, the archive has changed, a member is damaged or
                packed in an unknown way, or the disk has no room. Members that have arrived stay.
            OSError: if a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with files.alone(folder):
            return self._bring(members, folder, progress)

    def _bring(
        self, members: Sequence[Member], folder: Path, progress: Report | None
    ) -> list[Path]:
        shutil.rmtree(folder / ARRIVING, ignore_errors=True)  # what a killed process has left
        wanted = sorted(set(members), key=lambda member: member.start)
        missing = [member for member in wanted if not _is_there(member, folder)]
        require_room(sum(_on_disk(member.size) for member in missing), folder)
        there, total = self.cost(wanted) - self.cost(missing), self.cost(wanted)
        report = progress or (lambda done, total: None)
        if missing:
            _Bringing(self, missing, folder).run(lambda done: report(there + done, total))
        report(total, total)
        return [folder / member.name for member in members]


# --- the directory --------------------------------------------------------------------------------


def open_zip(
    url: str, notes: Path, *, progress: Report | None = None, verify: bool | str = True
) -> RemoteZip:
    """Read which members an archive has; two processes that want this wait for each other.

    Args:
        url: An http or https address.
        notes: A JSON file that keeps the listing: as long as the archive stays the same, a later
            call asks for a single byte. What has come of it before an interrupt lies beside them.
        progress: Called with the bytes of the directory so far and in all, as they come.
        verify: As in requests: a bundle of certificates to trust, or False for any.

    Raises:
        NoRangesError: if the server does not give parts of files.
        AssetError: if it refuses, or what it has is no zip, or a damaged one.
        OSError: if the notes cannot be written.
    """
    try:
        _, first = fetch(url, (0, 1), verify=verify)
    except BeyondError as empty:
        raise AssetError("it is no zip: it is empty") from empty
    total, version = first.total or 0, first.validator
    notes.parent.mkdir(parents=True, exist_ok=True)
    with files.alone(notes):
        members = _noted(notes, version, total)
        if members is None:
            part = _Part(notes.with_name(f"{notes.name}.part"), url, version, total)
            members = _listing(url, part, verify, progress or (lambda done, total: None))
            _note(notes, version, total, members)
            part.path.unlink()
    return RemoteZip(url, notes, verify, version, total, members)


def _noted(notes: Path, validator: str | None, total: int) -> tuple[Member, ...] | None:
    """The listing in the notes, if it is that of this very archive."""
    try:
        known = files.read_json(notes)
        if validator is None or (known["validator"], known["total"]) != (validator, total):
            return None
        return tuple(Member(*row) for row in known["members"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _note(notes: Path, validator: str | None, total: int, members: tuple[Member, ...]) -> None:
    listing = {"validator": validator, "total": total, "members": [astuple(m) for m in members]}
    files.write(notes, json.dumps(listing, ensure_ascii=False).encode())


def _listing(url: str, part: "_Part", verify: bool | str, report: Report) -> tuple[Member, ...]:
    try:
        with part.file, zipfile.ZipFile(_Ranges(url, part, verify, report)) as opened:
            return tuple(_members(opened))
    except DAMAGES as error:
        part.path.unlink()
        raise AssetError(f"it is no zip, or its directory is damaged ({error})") from error


def _members(opened: zipfile.ZipFile) -> Iterator[Member]:
    items = sorted(opened.infolist(), key=lambda item: item.header_offset)
    starts = [*dict.fromkeys(item.header_offset for item in items), opened.start_dir]
    ends = dict(pairwise(starts))
    for item in items:
        start = item.header_offset
        end = min(ends.get(start, 0), start + _longest(item))
        if not 0 <= start < end <= opened.start_dir:
            raise zipfile.BadZipFile(f"{item.filename} lies outside of it")
        encrypted = item.flag_bits & 1
        last = opened.NameToInfo[item.filename] is item  # of two with one name, as unzip has it
        is_small = max(item.file_size, item.compress_size) <= LARGEST
        if last and not encrypted and is_small and _is_safe(item):
            yield Member(item.filename, item.file_size, item.CRC, start, end)


def _longest(item: zipfile.ZipInfo) -> int:
    """The bytes that a member can take at most: header, data, and what may describe them behind."""
    lengths = len(item.orig_filename.encode()) + 0xFFFF  # the extra field's is known there only
    return LOCAL_HEADER.size + lengths + item.compress_size + 24  # APPNOTE 4.3.9


def _is_safe(item: zipfile.ZipInfo) -> bool:
    """Whether it is a file whose name cannot lead out of the folder that it is put into."""
    name = item.orig_filename
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.endswith("/")
        and not name.startswith("/")
        and parts[0] != ARRIVING
        and ".." not in parts
        and str(PurePosixPath(name)) == name  # or two names would be one file
        and not any(letter in name for letter in "\\:\0")
    )


class _Part:
    """The spans of an archive that have come so far, in memory and in a file that outlives us.

    Each piece has its CRC: of a file that a kill or a power cut has damaged, what lies before the
    damage is used. The first line says of which archive it is.
    """

    def __init__(self, path: Path, url: str, validator: str | None, total: int) -> None:
        self.path, self.validator, self.total = path, validator, total
        self.came: defaultdict[int, bytearray] = defaultdict(bytearray)
        address = hashlib.sha256(url.encode()).hexdigest()  # it may hold a password
        title = json.dumps([address, validator, total]).encode() + b"\n"
        path.touch()
        self.file = path.open("r+b")
        if validator is None or self.file.readline() != title:
            self.file.seek(0)
            self.file.truncate()
            self.file.write(title)
        self._read()

    def _read(self) -> None:
        end = self.file.tell()
        while len(frame := self.file.read(FRAME.size)) == FRAME.size:
            start, length, crc = FRAME.unpack(frame)
            piece = self.file.read(length)
            if len(piece) < length or zlib.crc32(piece) != crc:
                break
            self.came[start] += piece
            end = self.file.tell()
        self.file.seek(end)
        self.file.truncate()

    def add(self, start: int, piece: bytes) -> None:
        """Keep the next piece of the span that begins at `start`."""
        self.came[start] += piece
        self.file.write(FRAME.pack(start, len(piece), zlib.crc32(piece)) + piece)
        self.file.flush()


class _OutsideError(OSError):
    """Bytes are wanted that no zip has there; zipfile knows how to take an OSError."""


CHANGED = "the archive has changed while it was read; run this again"
# what zipfile raises on damaged directories, by their kind of damage
DAMAGES = (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, _OutsideError)


class _Ranges(io.RawIOBase):
    """A file on a server, as far as zipfile reads it: its tail, and the directory at once."""

    def __init__(self, url: str, part: _Part, verify: bool | str, report: Report) -> None:
        self.at, self.part, self.total, self.report = 0, part, part.total, report
        self.ask = functools.partial(fetch, url, validator=part.validator, verify=verify)
        self.begin = max(0, self.total - TAIL)
        self.tail = self._bring(self.begin, self.total, lambda done, total: None)

    def _bring(self, start: int, end: int, report: Report) -> bytes:
        came = self.part.came[start]

        def arrived(piece: bytes) -> None:
            self.part.add(start, piece)
            report(len(came), end - start)

        report(len(came), end - start)
        if start + len(came) < end:
            try:
                _, answer = self.ask((start + len(came), end), arrived=arrived)
            except BeyondError as shorter:
                raise AssetError(CHANGED) from shorter
            if (answer.validator, answer.total) != (self.part.validator, self.total):
                raise AssetError(CHANGED)
        return bytes(came[: end - start])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.total}[whence]
        if base + offset < 0:
            raise _OutsideError("it is too short")
        self.at = base + offset
        return self.at

    def read(self, size: int = -1) -> bytes:
        end = self.total if size < 0 else min(self.at + size, self.total)
        start, self.at = self.at, max(self.at, end)
        if end <= start:
            return b""
        if end - start > LARGEST:
            raise _OutsideError(f"its directory claims {end - start} bytes")
        if start >= self.begin:
            return self.tail[start - self.begin : end - self.begin]
        before = self._bring(start, min(end, self.begin), self.report)
        return before + self.tail[: max(0, end - self.begin)]


# --- members --------------------------------------------------------------------------------------


def _is_there(member: Member, folder: Path) -> bool:
    path = folder / member.name
    try:
        if path.stat().st_size != member.size:
            return False
        with path.open("rb") as stream:
            crc = functools.reduce(
                lambda so_far, piece: zlib.crc32(piece, so_far),
                iter(lambda: stream.read(1 << 20), b""),
                0,
            )
    except OSError:
        return False
    return crc == member.crc


def _runs(members: Sequence[Member]) -> list[list[Member]]:
    """Put neighbours together that one request shall bring."""
    runs: list[list[Member]] = []
    for member in members:
        run = runs[-1] if runs else None
        if run and member.start - run[-1].end <= GAP and member.end - run[0].start <= PIECE:
            run.append(member)
        else:
            runs.append([member])
    return runs


def _on_disk(size: int) -> int:
    """What a file takes: whole blocks."""
    return -(-size // BLOCK) * BLOCK


class _DamagedError(Exception):
    """The bytes that came are not those of the member."""


class _Bringing:
    """Members on their way, and the threads that bring them."""

    def __init__(self, archive: RemoteZip, missing: Sequence[Member], folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.waiting = deque(_runs(missing))
        self.suspects: set[Member] = set()
        self.done = 0
        self.lock = threading.Lock()
        self.crew = Crew()

    def run(self, report: Callable[[int], None]) -> None:
        (self.folder / ARRIVING).mkdir(exist_ok=True)
        try:
            with self.crew:
                self.crew.start(self._work, min(CONNECTIONS, len(self.waiting)))
                self.crew.watch(lambda: report(self.done), lambda: bool(self.waiting))
        finally:
            shutil.rmtree(self.folder / ARRIVING, ignore_errors=True)

    def _work(self) -> None:
        self.crew.repeat(self._step, lambda: self.done)

    def _step(self) -> bool:
        """Bring one run; what did not come of it waits again. False when none waits."""
        try:
            run = deque(self.waiting.popleft())
        except IndexError:
            return False
        try:
            self._bring(run)
        except _DamagedError as damaged:
            self._suspect(run[0], damaged)
        finally:
            if run:
                self.waiting.append(list(run))
        return True

    def _suspect(self, member: Member, damaged: _DamagedError) -> None:
        if member in self.suspects:
            raise AssetError(f"{member.name} is damaged in the archive: {damaged}") from damaged
        self.suspects.add(member)

    def _bring(self, run: deque[Member]) -> None:
        """Ask for a run and take its members out of it, one by one as they come."""
        span = (run[0].start, run[-1].end)
        archive = self.archive
        with (
            ask(archive.url, span, validator=archive.validator, verify=archive.verify) as answer,
            self.crew.reading(answer),
        ):
            self._check_same(answer)
            body, at = bytearray(), answer.first
            for piece in answer.pieces():
                body += piece
                while run and at + len(body) >= run[0].end:
                    member = run[0]
                    with memoryview(body) as came:
                        self._put(member, bytes(came[member.start - at : member.end - at]))
                    run.popleft()
                    del body[: member.end - at]
                    at = member.end
                if body and not run:
                    raise AssetError(f"it sends more than the {span[1] - span[0]} bytes asked for")
            if run:
                raise BrokenOffError("the connection broke off")

    def _check_same(self, answer: Answer) -> None:
        now = (answer.validator, answer.total)
        known = (self.archive.validator, self.archive.total)
        if now != known:
            self.archive.notes.unlink(missing_ok=True)
            raise AssetError("the archive on the server has changed; run this again")
        if not answer.ranged:
            raise NoRangesError("it sends the whole file where a part is asked for")

    def _put(self, member: Member, packed: bytes) -> None:
        content = _unpacked(member, packed)
        path = self.folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = self.folder / ARRIVING / str(member.start)
        # no fsync: after a power cut the next call sees by the CRC what the disk has not got
        arriving.write_bytes(content)
        arriving.replace(path)
        with self.lock:
            self.done += member.end - member.start


def _unpacked(member: Member, packed: bytes) -> bytes:
    """Take a member's content out of its span of the archive."""
    if len(packed) < LOCAL_HEADER.size:
        raise _DamagedError("its header is cut off")
    signature, _, flags, method, *_, name, extra = LOCAL_HEADER.unpack_from(packed)
    if signature != b"PK\x03\x04" or flags & 1:
        raise _DamagedError("its header is none")
    data = memoryview(packed)[LOCAL_HEADER.size + name + extra :]
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise AssetError(
            f"{member.name} is packed by method {method}, and only 0 (stored) and 8 (deflated) "
            "are known; fetch the whole archive and repack it"
        )
    content = (
        bytes(data[: member.size]) if method == zipfile.ZIP_STORED else _inflated(data, member)
    )
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise _DamagedError(
            f"expected {member.size} bytes with the CRC {member.crc:08x}, "
            f"got {len(content)} with {zlib.crc32(content):08x}"
        )
    return content


def _inflated(data: memoryview, member: Member) -> bytes:
    try:
        # one byte more than promised is enough to see that it is too long
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size + 1)
    except zlib.error as error:
        raise _DamagedError(f"it cannot be inflated ({error})") from error
