"""One file over HTTP, by several connections at once; what has arrived is not asked for again.

The file fills in pieces, in no particular order. Beside it lies its ledger, ``<file>.json``: which
version of the file it is, and which spans are missing; and a log, ``<file>.log``: what has arrived
since the ledger was saved. A `Ledger` is arithmetic on spans, a `_Log` is what a kill leaves; a
`_Filling` is the file, both of these and the threads that fill it; `download` starts over when the
file on the server has changed.
"""

import contextlib
import glob
import hashlib
import os
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fnst.errors import AssetError
from fnst.files import read_json, write_json
from fnst.web import (
    TRIES,
    Answer,
    BeyondError,
    BrokenOffError,
    Crew,
    NoRangesError,
    Report,
    Span,
    ask,
    require_room,
)

# Chosen by us: enough to fill a line whose single connections are slow, few enough to be polite.
CONNECTIONS = 8
PIECE = 16 << 20  # bytes asked for at once, at most
# Bytes: up to this a file is one request, and to this the last pieces shrink, to end together.
SMALLEST = 1 << 20
SAVE_SECONDS = 1.0  # how much of a download a power cut may cost; where not Linux, a kill too
ENDLESS = 1 << 62  # where a file ends as long as nobody has told

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # another one whenever Linux starts
RECORD = struct.Struct("<QQ")  # of a log: a span

_sync = getattr(os, "fdatasync", os.fsync)  # Windows has only the latter


class _ChangedError(Exception):
    """The file on the server is not the one whose bytes are here."""


class _TooLongError(AssetError):
    """More came than can be right, so that nothing that came is worth keeping."""


# --- the ledger -----------------------------------------------------------------------------------


@dataclass
class Ledger:
    """Which bytes of a file are here, which are missing, and which of these are being fetched."""

    validator: str | None = None
    total: int | None = None
    missing: list[Span] = field(default_factory=lambda: [(0, ENDLESS)])
    """In order, without overlap."""
    taken: list[Span] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many bytes are here."""
        return (ENDLESS if self.total is None else self.total) - _length(self.missing)

    @property
    def reach(self) -> int:
        """Where the last byte that is here ends."""
        end = ENDLESS if self.total is None else self.total
        return self.missing[-1][0] if self.missing and self.missing[-1][1] == end else end

    @property
    def free(self) -> list[Span]:
        """What is missing and not being fetched."""
        spans = self.missing
        for span in self.taken:
            spans = _without(spans, span)
        return spans

    def take(self) -> Span | None:
        """Give out the next piece, or None if nothing is free."""
        if not (free := self.free):
            return None
        first, end = free[0]
        # the first request only has to learn the length: the others wait for its answer
        fair = 0 if self.total is None else _length(free) // CONNECTIONS
        span = (first, min(end, first + min(PIECE, max(SMALLEST, fair))))
        self.taken.append(span)
        return span

    def release(self, span: Span) -> None:
        """Take back a piece; what did not arrive of it is free again."""
        if span in self.taken:
            self.taken.remove(span)

    def arrived(self, span: Span) -> None:
        """Note that these bytes are here."""
        self.missing = _without(self.missing, span)

    def ends_at(self, total: int) -> None:
        """Note the length of the file."""
        self.total = total
        self.missing = _without(self.missing, (total, ENDLESS))

    def fits(self, validator: str | None, total: int | None) -> bool:
        """Whether bytes of this version may lie beside those that are here."""
        return all(
            None in (known, told) or known == told
            for known, told in ((self.validator, validator), (self.total, total))
        )


def _length(spans: Iterable[Span]) -> int:
    return sum(end - first for first, end in spans)


def _without(spans: Iterable[Span], hole: Span) -> list[Span]:
    """Cut a hole into spans."""
    cut = [
        part
        for first, end in spans
        for part in ((first, min(end, hole[0])), (max(first, hole[1]), end))
    ]
    return [(first, end) for first, end in cut if first < end]


# --- the log --------------------------------------------------------------------------------------


class _Log:
    """The spans that arrived since the ledger was saved, written without waiting for the disk.

    When this process is killed, the kernel still has them, as it has the bytes that they stand for.
    A power cut may take either: so a log counts only until the machine starts anew, and only beside
    the ledger that names its `tie`.
    """

    def __init__(self, path: Path) -> None:
        self.tie = os.urandom(16).hex()
        self.end = 0
        _log(path).touch()
        self.file = _log(path).open("r+b", buffering=0)

    def begin(self, spans: Iterable[Span] = ()) -> None:
        """Forget all but these spans."""
        self.file.truncate(0)
        self.file.seek(0)
        self.end = self.file.write(_mark(self.tie))
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        """Note that the bytes of a span are in the file."""
        self.file.seek(self.end)
        if self.file.write(RECORD.pack(*span)) == RECORD.size:  # the next goes over half a record
            self.end += RECORD.size


def _mark(tie: str) -> bytes:
    """What a log begins with: another one for every tie, and whenever the machine starts."""
    try:
        boot = BOOT_ID.read_text()
    except OSError:  # not Linux: then no log is ever believed
        boot = os.urandom(16).hex()
    return hashlib.sha256(f"{boot} {tie}".encode()).digest()


def _logged(path: Path, tie: str) -> list[Span]:
    """The spans that a file's log adds to the ledger of that tie."""
    told, mark = _log(path).read_bytes() if _log(path).exists() else b"", _mark(tie)
    records = told[len(mark) :] if told.startswith(mark) else b""
    whole = len(records) // RECORD.size * RECORD.size  # a kill may have cut off the last
    return list(RECORD.iter_unpack(records[:whole]))


# --- one file being filled ------------------------------------------------------------------------


class _Filling:
    """A file, its ledger and log, and the threads that fill it.

    Bytes are written, and noted as arrived, under `lock`. The ledger reaches the disk under
    `saving`, and only after the bytes that it claims.
    """

    def __init__(
        self, url: str, path: Path, size: int | None, verify: bool | str, ranges: bool
    ) -> None:
        self.url, self.path, self.size, self.verify, self.ranges = url, path, size, verify, ranges
        self.ledger = _remembered(path, size, url) if ranges else Ledger()
        self.crew = Crew()
        self.shared = False  # whether more than one thread is at work
        self.saving, self.lock = threading.Lock(), threading.Lock()
        path.touch()
        self.file = path.open("r+b", buffering=0)
        self.log = _Log(path)

    def fill(self, report: Report) -> None:
        """Bring all that is missing, and remove the ledger."""
        try:
            if self.ledger.missing:
                self._watch(report)
            self.file.truncate(self.ledger.total)
            _sync(self.file.fileno())  # a full file without a ledger is taken for complete
        finally:
            with self.lock:  # a thread that hangs must not write into another file's descriptor
                self.file.close()
                self.log.file.close()
            if not self.path.stat().st_size:
                discard(self.path)
        self.path.touch()
        _forget(self.path)
        report(self.ledger.done, self.ledger.total)

    def _watch(self, report: Report) -> None:
        saved = time.monotonic()

        def look() -> None:
            nonlocal saved
            if time.monotonic() - saved >= SAVE_SECONDS:
                self._save()
                saved = time.monotonic()
            report(self.ledger.done, self.ledger.total)

        try:
            with self.crew:
                self.crew.start(self._work)
                self.crew.watch(look, lambda: bool(self.ledger.missing))
        finally:
            if self.ledger.done:
                # on a full disk the ledger of a second ago and its log still tell the truth
                with contextlib.suppress(OSError):
                    self._save()

    def _work(self) -> None:
        self.crew.repeat(self._step, lambda: self.ledger.done)

    def _step(self) -> bool:
        """Bring one piece; False when there is none left to bring."""
        with self.lock:
            span = self.ledger.take()
        if span is None:
            return False
        try:
            self._bring(span)
        except BeyondError as beyond:
            self._end(beyond.total)
        finally:
            with self.lock:
                self.ledger.release(span)
        return True

    def _bring(self, span: Span) -> None:
        wanted = span if self.ranges else None
        with (
            ask(self.url, wanted, validator=self.ledger.validator, verify=self.verify) as answer,
            self.crew.reading(answer),
        ):
            self._agree(answer)
            end = answer.end if answer.end is not None else self.ledger.total
            at = answer.first
            for piece in answer.pieces():
                at = self._put(at, piece, end)
            if end is None:
                self._end(at)
            elif at < end:
                raise BrokenOffError(f"it ends after {at} of {end} bytes")

    def _agree(self, answer: Answer) -> None:
        """Compare an answer with what is known; the first one tells what there is to know."""
        total = self.size if answer.total is None else answer.total
        self._check_size(total)
        with self.saving, self.lock:
            self._check_over()
            if not answer.ranged:
                self._check_alone(answer.validator, total)
                self.ledger = Ledger()
            if not self.ledger.fits(answer.validator, total):
                raise _ChangedError
            if not self.shared:
                self._begin(answer.validator, total)
            if answer.ranged and not self.shared:
                self._share()

    def _check_size(self, total: int | None) -> None:
        if self.size is not None and total != self.size:
            raise AssetError(f"it offers {total} bytes where {self.size} are expected")

    def _check_over(self) -> None:
        if self.crew.over.is_set():  # nobody notes any more what is written
            raise BrokenOffError("the download has ended")

    def _check_alone(self, validator: str | None, total: int | None) -> None:
        """A whole file may be taken as it comes, unless asking for pieces is the better way."""
        changed = self.ledger.done > 0 and not self.ledger.fits(validator, total)
        if self.shared or (changed and (total or 0) > PIECE):
            raise _ChangedError

    def _begin(self, validator: str | None, total: int | None) -> None:
        self.ledger.validator = validator or self.ledger.validator
        if total is not None:
            self.ledger.ends_at(total)
        if not self.ledger.done:
            self.file.truncate(0)
        require_room(_length(self.ledger.missing) if total is not None else 0, self.path.parent)
        # before the first byte: a file without a ledger is either nothing or complete
        self.log.tie = os.urandom(16).hex()  # what the log holds may be of another version
        _sync(self.file.fileno())  # the ledger claims now what was only in the log
        self._write(_as_json(self.ledger))
        self.log.begin()

    def _share(self) -> None:
        """Let more threads work on what is left, if that is more than one piece."""
        pieces = -(-_length(self.ledger.free) // min(PIECE, SMALLEST))
        self.shared = pieces > 0
        self.crew.start(self._work, min(pieces, CONNECTIONS - 1))

    def _put(self, at: int, piece: bytes, end: int | None) -> int:
        after = at + len(piece)
        if end is not None and after > end:
            raise _TooLongError(f"it sends more than the {end} bytes that are expected")
        with self.lock:
            self._check_over()
            self.file.seek(at)
            rest = memoryview(piece)
            while rest:  # a raw file may take less than it is given
                rest = rest[self.file.write(rest) :]
            self.ledger.arrived((at, after))
            self.log.add((at, after))
        return after

    def _end(self, total: int) -> None:
        """Take the server's word that the file ends where ours does."""
        self._check_size(total)
        with self.lock:
            if self.ledger.missing and self.ledger.missing[0][0] != total:
                raise _ChangedError
            self.ledger.ends_at(total)

    def _write(self, known: dict[str, object]) -> None:
        write_json(_state(self.path), {"url": _hash(self.url), "log": self.log.tie, **known})

    def _save(self) -> None:
        with self.saving:
            with self.lock:
                known, since = _as_json(self.ledger), self.ledger.missing
            _sync(self.file.fileno())
            self._write(known)
            with self.lock:
                for span in self.ledger.missing:
                    since = _without(since, span)
                self.log.begin(since)


# --- the whole ------------------------------------------------------------------------------------


def download(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    progress: Report | None = None,
    verify: bool | str = True,
) -> None:
    """Fill `path` with the bytes behind `url`, asking only for those that `path` lacks.

    Up to `CONNECTIONS` pieces come at the same time. A server that refuses so many is served by
    fewer; one that gives no parts of files sends it whole, and after a break again from the start,
    as nothing else is possible then. A file that has changed in between begins anew. Whether the
    bytes are the right ones is for the caller to verify.

    Args:
        url: An http or https address. Proxies and certificates are those of the environment.
        path: The partial file; complete when this returns.
        size: Bytes in all, if known; a server that offers another length is refused.
        progress: Called with the bytes so far and the bytes in all, by the calling thread.
        verify: As in requests: a bundle of certificates to trust, or False for any.

    Raises:
        AssetError: if the server refuses, offers another length, fails `TRIES` times without a
            new byte, or the disk has no room. What has arrived stays for a later call.
        OSError: if the disk is full or `path` cannot be written.
    """
    if _is_complete(path, size):
        return
    ranges = True
    for _ in range(TRIES):
        try:
            filling = _Filling(url, path, size, verify, ranges)
            filling.fill(progress or (lambda done, total: None))
            return
        except _ChangedError:
            discard(path)
        except NoRangesError:
            discard(path)
            ranges = False
        except _TooLongError:
            discard(path)
            raise
        except AssetError as error:
            raise AssetError(f"{error}{_kept(filling.ledger.done)}") from error
    raise AssetError("it is another file each time that it is asked for")


def discard(path: Path) -> None:
    """Remove a partial file, its ledger and its log."""
    path.unlink(missing_ok=True)
    _forget(path)


def held(path: Path) -> int:
    """How many bytes of a partial file are here and will not be asked for again."""
    if _state(path).exists():
        return _remembered(path, None, None).done
    return path.stat().st_size if path.is_file() else 0


def beside(path: Path, suffix: str) -> Path:
    """The file of that name with more behind it."""
    return path.with_name(path.name + suffix)


def _forget(path: Path) -> None:
    """Remove the ledger, its log, and what a kill in the middle of writing it has left."""
    _log(path).unlink(missing_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(_state(path).name)}.*"):
        leftover.unlink(missing_ok=True)
    _state(path).unlink(missing_ok=True)


def _is_complete(path: Path, size: int | None) -> bool:
    return path.is_file() and path.stat().st_size == size and not _state(path).exists()


def _kept(have: int) -> str:
    return f", but {have} bytes are kept and the next try goes on from there" if have else ""


def _state(path: Path) -> Path:
    return beside(path, ".json")


def _log(path: Path) -> Path:
    return beside(path, ".log")


def _as_json(ledger: Ledger) -> dict[str, object]:
    return {"validator": ledger.validator, "total": ledger.total, "missing": ledger.missing}


def _hash(url: str) -> str:
    """What a ledger knows its address by: addresses may hold passwords."""
    return hashlib.sha256(url.encode()).hexdigest()


def _remembered(path: Path, size: int | None, url: str | None) -> Ledger:
    """Return the ledger of a partial file; an empty one if there is none that can be believed.

    Another server names the same version otherwise: there, the caller's hash has to decide.
    """
    try:
        told = read_json(_state(path))
        missing = [(int(first), int(end)) for first, end in told["missing"]]
        validator = told["validator"] if url and told.get("url") == _hash(url) else None
        ledger = Ledger(validator, told["total"], missing)
        for span in _logged(path, str(told.get("log"))):
            ledger.arrived(span)
        end = ENDLESS if ledger.total is None else ledger.total
        believed = ledger.reach <= path.stat().st_size <= end and size in (None, end)
    except (OSError, ValueError, KeyError, TypeError):  # the hash has the last word anyway
        return Ledger()
    return ledger if believed else Ledger()
