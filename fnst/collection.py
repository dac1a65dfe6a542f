"""Which photographs there are: single files, and the members of zips.

Nothing is decoded here. A zip is read where it lies: its photographs are never unpacked.
"""

import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from fnst.errors import ImageError

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


@dataclass(frozen=True)
class Entry:
    """One photograph before it is decoded."""

    name: str
    """What people call it: the file's name, or the zip's and the member's."""
    size: int
    """How many bytes it promises to have; a hostile zip may promise anything."""
    mark: str
    """Changes, as the size does, when the bytes do: the CRC-32 in a zip, the time of a file."""
    read: Callable[[], bytes]
    """Its bytes; raises almost anything when they are damaged."""
    crc32: int | None = None
    """Of its bytes, where ``read`` makes sure of that; nobody needs to compute it again."""


def entries(path: Path, members: Iterable[str] | None = None) -> list[Entry]:
    """The photograph in a file, or those in a zip, in the order of their names.

    Args:
        path: a picture, a zip, or anything else, which holds no photographs.
        members: only these of a zip; all when None.

    Raises:
        ImageError: when a zip cannot be opened, or lacks a member.
    """
    if not is_zip(path.name):
        return [_file(path)] if is_picture(path.name) else []
    # The zip stays open as long as its entries live: its directory is long, and read only once.
    archive = _opened(path)
    found = _pictures(archive)
    wanted = sorted(found if members is None else members)
    if missing := next((name for name in wanted if name not in found), None):
        raise ImageError(f"{path.name}: expected {missing} in it; `dvc repro -f fetch` looks anew.")
    return [_member(archive, found[name]) for name in wanted]


def names(path: Path) -> list[str]:
    """What ``entries`` would find, by name: a zip's members, or the file itself.

    Raises:
        ImageError: when a zip cannot be opened.
    """
    if not is_zip(path.name):
        return [path.name] if is_picture(path.name) else []
    with _opened(path) as archive:
        return sorted(_pictures(archive))


def is_zip(name: str) -> bool:
    """Whether the name is that of a zip."""
    return PurePosixPath(name).suffix.lower() == ".zip"


def is_picture(name: str) -> bool:
    """Whether the name, perhaps of a zip's member, is that of a picture."""
    path, is_folder = PurePosixPath(name), name.endswith("/")
    # macOS puts a shadow of every file into its zips, with the same ending
    is_shadow = "__MACOSX" in path.parts
    return path.suffix.lower() in PICTURES and not is_folder and not is_shadow


def _file(path: Path) -> Entry:
    try:
        status = path.stat()
    except OSError as error:
        raise ImageError(
            f"{path} was chosen and is not there; `dvc repro -f fetch` looks anew."
        ) from error
    return Entry(path.name, status.st_size, str(status.st_mtime_ns), path.read_bytes)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise ImageError(f"{path.name} cannot be read: {error.strerror}.") from error
    # what zipfile raises on damaged directories, by their kind of damage
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise ImageError(
            f"{path.name}: expected a zip of photographs, but it is none, or damaged ({error})."
        ) from error


def _pictures(archive: zipfile.ZipFile) -> Mapping[str, zipfile.ZipInfo]:
    return {member.filename: member for member in archive.infolist() if is_picture(member.filename)}


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Entry:
    return Entry(
        f"{Path(str(archive.filename)).name}/{member.filename}",
        member.file_size,
        f"{member.CRC:08x}",
        partial(archive.read, member),
        member.CRC,
    )
