"""What a line of params.yaml means by a picture, photographs or a network, and bringing it here.

A source is a known asset's name (``great-wave``, ``coco-2017-test``), a URL that ends in
``#sha256=...``, or a path: a file, a zip, or a folder, which is taken with all below it.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import urldefrag, urlsplit

from fnst import assets, files
from fnst.assets import Asset, Progress
from fnst.errors import AssetError
from fnst.params import project_root


def bring(source: str, folder: Path, *, progress: Progress | None = None) -> list[Path]:
    """Put the files that a source names into ``folder``, verified where a hash is known.

    Local files are linked rather than copied where the disk allows it. Nothing else in the folder
    is touched.

    Args:
        source: an asset's name, a URL with its hash, or a path.
        folder: where to; it is made.
        progress: told about downloads.

    Returns:
        The files, in the order of their names.

    Raises:
        AssetError: when there is no such source, or it cannot be had.
    """
    if path := local(source):
        place = folder / _short(source) / path.name
        if path.is_file():
            return [_link(path, place)]
        return [_link(file, place / file.relative_to(path)) for file in _below(path)]
    asset = find(source)
    return [assets.get(asset, place_of(asset, folder), progress=progress)]


def keep_only(files: Iterable[Path], folder: Path) -> None:
    """Remove every other file below ``folder``, such as the picture that stood there before."""
    wanted = set(files)
    for path in folder.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def local(source: str) -> Path | None:
    """The file or folder of that path, seen from the project's root; None when there is none.

    Raises:
        AssetError: when the text is empty, which would mean the whole project.
    """
    if not source.strip():
        raise AssetError("expected the name of an asset, a URL or a path, got an empty text")
    path = project_root() / Path(source).expanduser()
    return path if path.exists() else None


def find(source: str) -> Asset:
    """The asset that a name of the catalogue, or a URL with its hash, stands for.

    Raises:
        AssetError: when it is neither; the message names the nearest.
    """
    try:
        address, fragment = urldefrag(source)
        scheme = urlsplit(address).scheme
    except ValueError as error:
        raise AssetError(
            f"{source}: expected an address, got one that is none: {error}."
        ) from error
    if scheme not in ("http", "https"):
        return _known(source)
    if not fragment.startswith("sha256="):
        raise AssetError(
            f"{source}: expected a URL that ends in #sha256= and the hash of the file, so that "
            "everybody gets the same one; got none."
        )
    name = f"{_short(source)}/{PurePosixPath(urlsplit(address).path).name}"
    digest = fragment.removeprefix("sha256=").lower()
    return Asset(name, digest, None, "unknown", (address,))


def place_of(asset: Asset, folder: Path) -> Path:
    """The folder below ``folder`` that an asset is put into."""
    return folder / PurePosixPath(asset.name).parent


def _known(source: str) -> Asset:
    try:
        return assets.find(source)
    except AssetError as error:
        raise AssetError(f"there is no file {source}, and {error}") from error


def _below(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _short(source: str) -> str:
    """Keeps sources apart whose last names are the same."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def _link(source: Path, target: Path) -> Path:
    source = source.resolve()  # a link to a link would point nowhere from its new place
    try:
        return _linked(source, target)
    except OSError as error:  # most often a disk that is full
        raise AssetError(f"{source} cannot be brought to {target}: {error.strerror}.") from error


def _linked(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return target
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        scratch = target.with_name(f".{target.name}.part")
        files.copy(source, scratch).replace(target)
    return target
