"""The photographs that a training uses: all that its sources hold, or a draw among them.

A draw costs only what it takes: of a zip on a server, the photographs that were drawn are
transferred, each as a file of its own. The same draw from the whole zip is the same photographs.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from fnst import assets, collection, remote_zip, sources
from fnst.assets import Asset, Progress
from fnst.errors import AssetError
from fnst.remote_zip import RemoteZip
from fnst.web import NoRangesError, Report

T = TypeVar("T")

# Above this share of a zip's bytes, all of them are cheaper than so many requests, and one file is
# lighter than ten thousands; chosen by us.
WHOLE_FROM = 0.5


@dataclass(frozen=True)
class Lot:
    """A file that was brought; of a zip, perhaps, only some members were drawn."""

    file: Path
    members: tuple[str, ...] | None = None  # all when None


def select(
    names: Sequence[str],
    folder: Path,
    *,
    count: int | Literal["all"],
    seed: int,
    progress: Progress | None = None,
) -> list[Lot]:
    """Bring everything that the sources hold, or ``count`` photographs drawn among it.

    Args:
        names: sources, as ``sources.bring`` knows them.
        folder: where to; nothing that is there already is removed.
        count: how many photographs, at most.
        seed: of the draw.
        progress: told about downloads.

    Raises:
        AssetError: when a source does not exist or cannot be had.
        ImageError: when a zip is none.
    """
    if count == "all":
        return [Lot(f) for name in names for f in sources.bring(name, folder, progress=progress)]
    offers = [offer for name in names for offer in _offers(name, folder, progress)]
    every = [(at, name) for at, offer in enumerate(offers) for name in offer.names]
    drawn: dict[int, list[str]] = {}
    for at, name in draw(every, count, seed):
        drawn.setdefault(at, []).append(name)
    return [lot for at, chosen in drawn.items() for lot in offers[at].take(chosen)]


def draw(items: Sequence[T], count: int, seed: int) -> list[T]:
    """``count`` of the items, drawn by the seed and kept in order; all if there are no more.

    A larger draw contains every smaller one with the same seed, so that asking for more
    photographs later fetches only those that are missing.
    """
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    return [items[i] for i in sorted(order[:count])]


def _offers(source: str, folder: Path, progress: Progress | None) -> "Sequence[_File | _Archive]":
    """What may be drawn from a source."""
    if not sources.local(source) and _is_far(asset := sources.find(source), folder):
        try:
            return [_Archive(asset, folder, progress)]
        except NoRangesError:
            pass  # then it has to come as a whole
    return [_File(file) for file in sources.bring(source, folder, progress=progress)]


def _is_far(asset: Asset, folder: Path) -> bool:
    """Whether an asset is a zip that only the web has, so that a part of it is cheaper."""
    return collection.is_zip(asset.name) and not assets.is_near(
        asset, sources.place_of(asset, folder)
    )


def parts_of(asset: Asset, folder: Path) -> Path:
    """The folder that photographs drawn from a zip on the web are put into, one file each."""
    return sources.place_of(asset, folder) / PurePosixPath(asset.name).stem


class _File:
    """A file that is here: a photograph, or a zip of them."""

    def __init__(self, file: Path) -> None:
        self.file, self.names = file, collection.names(file)

    def take(self, chosen: Sequence[str]) -> list[Lot]:
        return [Lot(self.file, tuple(chosen) if collection.is_zip(self.file.name) else None)]


class _Archive:
    """A zip on a server, which is asked for its directory and then for what was drawn."""

    def __init__(self, asset: Asset, folder: Path, progress: Progress | None) -> None:
        self.asset, self.root, self.progress = asset, folder, progress
        self.folder = sources.place_of(asset, folder)
        self.names = self._ask(self._listed)

    def take(self, chosen: Sequence[str]) -> list[Lot]:
        files = self._ask(partial(self._parts, set(chosen)))
        if files is None:
            whole = assets.get(self.asset, self.folder, progress=self.progress)
            return [Lot(whole, tuple(chosen))]
        return [Lot(file) for file in files]

    def _listed(self, archive: RemoteZip) -> list[str]:
        return sorted(m.name for m in archive.members if collection.is_picture(m.name))

    def _parts(self, chosen: set[str], archive: RemoteZip) -> list[Path] | None:
        """Bring members one by one; None when the whole zip is cheaper."""
        members = [member for member in archive.members if member.name in chosen]
        if archive.cost(members) > WHOLE_FROM * archive.total:
            return None
        return archive.bring(
            sorted(members, key=lambda m: m.name),
            parts_of(self.asset, self.root),
            progress=self._report(),
        )

    def _report(self, what: str = "") -> Report | None:
        """Tell progress about the zip, or about something of it."""
        return partial(self.progress, f"{what}{self.asset.name}") if self.progress else None

    def _check(self, archive: RemoteZip) -> None:
        """A part cannot be compared with the whole file's hash, but the size can be."""
        if self.asset.size not in (None, archive.total):
            raise AssetError(
                f"it offers {archive.total} bytes where {self.asset.size} are expected"
            )

    def _ask(self, question: Callable[[RemoteZip], T]) -> T:
        """Ask the first server that answers."""
        faults: list[AssetError] = []
        for url in assets.addresses(self.asset):
            try:
                notes = self.folder / f"{PurePosixPath(self.asset.name).name}.listing.json"
                archive = remote_zip.open_zip(url, notes, progress=self._report("listing of "))
                self._check(archive)
                return question(archive)
            except AssetError as fault:
                faults.append(fault)
            except OSError as fault:  # the disk, as no server raises one
                raise AssetError(
                    f"photographs of {self.asset.name} cannot be put into {self.folder}: "
                    f"{fault.strerror}."
                ) from fault
        if any(isinstance(fault, NoRangesError) for fault in faults):
            raise NoRangesError(f"no server sends parts of {self.asset.name}")
        told = "; ".join(dict.fromkeys(map(str, faults)))
        raise AssetError(
            f"{self.asset.name} could not be had in part ({told}). Set FNST_MIRROR to a folder or "
            f"URL that holds {self.asset.name}, or give the path of the zip."
        )
