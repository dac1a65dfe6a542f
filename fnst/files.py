"""Files that appear whole or not at all, and what identifies their contents."""

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(path: Path) -> Iterator[io.BufferedRandom]:
    """Write beside ``path`` under a temporary name while the block lasts, then rename.

    When the block fails, ``path`` is what it was before.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut leaves a renamed, empty file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write(content)


def settle(written: Path, path: Path) -> None:
    """Give a file that is written its name, once it has reached the disk."""
    with written.open("r+b") as file:
        os.fsync(file.fileno())
    written.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all.

    Names of files that are no valid Unicode come back from ``read_json`` as they were.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write(path, text.encode(errors="surrogateescape"))


def as_json(value: Any) -> str:
    """A value as indented JSON for other programs: what is no number, or infinite, is null."""
    return json.dumps(_without_nan(value), indent=2)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    return [_without_nan(each) for each in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> Any:
    """Read JSON; the errors are Python's own, for the caller to word."""
    return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV, numbers to six digits, whole or not at all.

    Names of files that are no valid Unicode come back from ``read_rows`` as they were.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys() if rows else [])
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write(path, text.getvalue().encode(errors="surrogateescape"))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by the names in its first line."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def read_numbers(path: Path) -> list[dict[str, float]]:
    """Read a CSV in which everything below the header is a number."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def readable(count: int) -> str:
    """A number of bytes as people say it: ``6.65 GB``, ``82 MB``, ``791 kB``, ``nothing``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            share = count / size
            return f"{share:.3g} {unit}" if share < 1000 else f"{share:,.0f} {unit}"
    return f"{count} bytes" if count else "nothing"


def copy(source: Path, target: Path) -> Path:
    """Copy a file's content, whole or not at all; the target."""
    try:
        return Path(shutil.copyfile(source, target))
    except BaseException:  # a full disk, most often: what came until then only takes its room
        target.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def alone(path: Path, *, patience: float = -1.0) -> Iterator[None]:
    """Hold off other processes that want to write ``path``; if this one dies, they may go on.

    Args:
        path: need not exist, but its folder must.
        patience: seconds to wait for another process; less than none is for ever.

    Raises:
        TimeoutError: when another process has it for longer.
    """
    import filelock

    lock = path.with_name(f"{path.name}.lock")
    with filelock.FileLock(lock, timeout=patience):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
