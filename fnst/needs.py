"""What a recipe needs: what is here, what has to be transferred, and whether the disk holds it.

An estimate made without asking any server: the catalogue knows sizes and counts. The exact check
follows where the bytes are written.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urlsplit

from fnst import assets, collection, selection, sources
from fnst.assets import Asset
from fnst.errors import AssetError
from fnst.files import readable
from fnst.params import Params


@dataclass(frozen=True)
class Need:
    """One source, and what having it costs."""

    use: str
    """What for, such as ``train`` or ``style great-wave``."""
    source: str
    """As params.yaml names it."""
    whence: str
    """Where it is, or where it would come from."""
    photographs: int | None
    """How many of its photographs will be used, about; None for other files and where unknown."""
    transfer: int | None
    """Bytes that are still to come over the network, about; None where unknown."""


@dataclass(frozen=True)
class Needs:
    """All needs of a recipe, and the room that they take."""

    photographs: Sequence[Need]
    others: Sequence[Need]
    packed: int
    """Bytes that the packed photographs will take, as far as their number is known."""
    free: int
    """Bytes that are free where the data will lie."""

    @property
    def each(self) -> Sequence[Need]:
        """All of them."""
        return [*self.photographs, *self.others]

    @property
    def transfer(self) -> int:
        """Bytes still to come over the network, as far as known."""
        return sum(need.transfer or 0 for need in self.each)

    @property
    def summary(self) -> str:
        """What it comes to, in one line."""
        known = all(need.transfer is not None for need in self.each)
        counted = all(need.photographs is not None for need in self.photographs)
        transfer, packed = _at_least(self.transfer, known), _at_least(self.packed, counted)
        return f"{transfer} to transfer, then {packed} to pack; {readable(self.free)} are free"

    @property
    def is_enough(self) -> bool:
        """Whether everything fits on the disk."""
        return self.transfer + self.packed <= self.free


def needs(wanted: Params, data: Path) -> Needs:
    """Look at what the chosen recipe names, and at what is in the folder ``data`` already.

    Raises:
        AssetError: when a source is neither a path, nor a known asset, nor a URL with its hash.
        ImageError: when a local zip is none.
    """
    photos, raw = wanted.chosen.photos, data / "raw"
    train = _photographs("train", photos.train, photos.train_count, raw / "photos")
    held_out = _photographs("held out", photos.held_out, photos.held_out_count, raw / "photos")
    others = [
        *(_file(f"style {n}", s.image, raw / "styles" / n) for n, s in wanted.styles.items()),
        _file("loss network", wanted.loss.network, raw / "network"),
    ]
    packed = sum(
        (need.photographs or 0) * size**2 * 3
        for lot, size in ((train, photos.size), (held_out, photos.held_out_size))
        for need in lot
    )
    there = sum(f.stat().st_size for f in (data / "photos").rglob("*.npy"))
    free = shutil.disk_usage(_existing(data)).free
    return Needs([*train, *held_out], others, max(0, packed - there), free)


def check_room(needs: Needs, data: Path) -> None:
    """Raise AssetError when the disk cannot hold what a recipe needs."""
    if not needs.is_enough:
        raise AssetError(
            f"expected room for {readable(needs.transfer)} to transfer and "
            f"{readable(needs.packed)} of packed photographs, got {readable(needs.free)} free "
            f"in {_existing(data)}; free some, or set photos.train_count or photos.size lower."
        )


def _at_least(count: int, is_all: bool) -> str:
    if is_all:
        return readable(count)
    return f"at least {readable(count)}" if count else "an unknown amount"


def _photographs(
    use: str, names: Sequence[str], count: int | Literal["all"], folder: Path
) -> list[Need]:
    """The needs of several sources among which one draw is made."""
    offered = [_offered(name) for name in names]
    known = sum(number or 0 for number in offered)
    share = min(1.0, count / known) if count != "all" and known else 1.0
    return [
        _need(use, name, number and round(number * share), share, folder)
        for name, number in zip(names, offered, strict=True)
    ]


def _file(use: str, source: str, folder: Path) -> Need:
    return _need(use, source, None, 1.0, folder)


def _offered(source: str) -> int | None:
    """How many photographs a source holds, if that can be told without transferring it."""
    path = sources.local(source)
    if path is None:
        asset = sources.find(source)
        return asset.photographs if collection.is_zip(asset.name) else 1
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(len(collection.names(file)) for file in files)


def _need(use: str, source: str, photographs: int | None, share: float, folder: Path) -> Need:
    if sources.local(source):
        return Need(use, source, "a local path", photographs, 0)
    asset = sources.find(source)
    place = sources.place_of(asset, folder)
    if assets.is_near(asset, place):
        is_here = (place / PurePosixPath(asset.name).name).is_file()
        return Need(use, source, "here" if is_here else "on this machine", photographs, 0)
    return Need(use, source, _whence(asset), photographs, _transfer(asset, share, folder))


def _transfer(asset: Asset, share: float, folder: Path) -> int | None:
    """The bytes of an asset, or of a share of it, without those that have come already."""
    if asset.size is None:
        return None
    if share <= selection.WHOLE_FROM and collection.is_zip(asset.name):
        parts = selection.parts_of(asset, folder).rglob("*")
        there = sum(collection.is_picture(file.name) for file in parts)
        wanted = round((asset.photographs or there or 1) * share)
        return round(asset.size * share * (1 - min(1, there / wanted)))
    return assets.missing(asset, sources.place_of(asset, folder))


def _whence(asset: Asset) -> str:
    hosts = [urlsplit(address).hostname for address in assets.addresses(asset)]
    return next(filter(None, hosts), "the package index")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there already."""
    return next(path for path in (folder, *folder.parents) if path.exists())
