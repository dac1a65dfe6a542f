"""Rows of maps that wait for their turn: in memory, in half precision, or in a scratch file.

Letters in shapes: ``c`` channels, ``h`` x ``w`` positions, ``n`` numbers.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from jaxtyping import Float
from torch import Tensor

from fnst import memory
from fnst.errors import ImageError
from fnst.files import readable

Strip = Float[Tensor, "1 c h w"]  # some rows of a picture's maps, over its whole width
Rows = Iterator[Strip]  # a picture from top to bottom, a strip at a time


class RangeError(Exception):
    """A number is larger than half precision can hold."""


class Store:
    """So many places of one size, each for one row of numbers; this one is in memory.

    Args:
        count: how many rows it holds at most.
        size: how many numbers a row has at most.
        dtype: float32 keeps numbers as they are, float16 rounds them to 11 binary digits.
        device: whose memory; not necessarily that of the rows.
    """

    def __init__(
        self, count: int, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.free = list(reversed(range(count)))  # so that what was just left is filled first
        self._rows = torch.empty(count, size, dtype=dtype, device=device)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *error: object) -> None:
        del self._rows

    def write(self, place: int, row: Float[Tensor, " n"]) -> None:
        """Keep a row in that place.

        Raises:
            RangeError: when it has a number that this store's dtype cannot hold.
        """
        if self._rows.dtype == torch.float16 and row.abs().max() > torch.finfo(torch.float16).max:
            raise RangeError
        self._rows[place, : len(row)].copy_(row)

    def read(self, place: int, row: Float[Tensor, " n"]) -> None:
        """Fill ``row`` with what is kept in that place."""
        row.copy_(self._rows[place, : len(row)])


class ScratchFile(Store):
    """The same in a file, in float32.

    The file has no name, so that nothing is left of it however this process ends. It is read and
    written, not mapped: pages of a mapped file would count as memory of this process.

    Raises:
        ImageError: here, in ``write`` and in ``read``, when the disk is full or broken.
    """

    def __init__(self, count: int, size: int, folder: Path | None = None) -> None:
        self.free = list(reversed(range(count)))
        self._stride = size * torch.float32.itemsize
        self._folder = folder or _roomy(count * self._stride)
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
        except OSError as error:
            raise self._worded(error) from error

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, place: int, row: Float[Tensor, " n"]) -> None:
        """Keep a row in that place."""
        try:
            self._file.seek(place * self._stride)
            self._file.write(row.cpu().numpy().data)
        except OSError as error:
            raise self._worded(error) from error

    def read(self, place: int, row: Float[Tensor, " n"]) -> None:
        """Fill ``row`` with what is kept in that place."""
        found = row if row.device.type == "cpu" else torch.empty_like(row, device="cpu")
        try:
            self._file.seek(place * self._stride)
            self._file.readinto(found.numpy().data)  # type: ignore[attr-defined]
        except OSError as error:
            raise self._worded(error) from error
        if found is not row:
            row.copy_(found)

    def _worded(self, error: OSError) -> ImageError:
        return ImageError(
            f"the scratch file in {self._folder} failed: {error.strerror}; allow more memory, or "
            "set TMPDIR to a folder with more room."
        )


def _roomy(size: int) -> Path:
    """A folder on a disk that has room for so many bytes.

    Raises:
        ImageError: when there is none.
    """
    places = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    disks = [place for place in places if place.is_dir() and not memory.is_in_memory(place)]
    rooms = {place: shutil.disk_usage(place).free for place in disks}
    for place, room in rooms.items():
        if room > size:
            return place
    most = max(rooms.values(), default=0)
    raise ImageError(
        f"expected {readable(size)} of free disk for a scratch file, got {readable(most)} in "
        f"{' or '.join(map(str, rooms)) or places[0]}; allow more memory, or set TMPDIR to a "
        "folder with more room."
    )


class Queue:
    """The rows of one picture's maps, in order: what was put first is taken first."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._places: deque[int] = deque()

    def put(self, strip: Strip) -> None:
        """Keep the rows of a strip after those that are there."""
        _, self._channels, _, self._width = strip.shape
        self._device = strip.device
        for row in strip[0].permute(1, 2, 0).contiguous().flatten(1):
            place = self._store.free.pop()
            self._store.write(place, row)
            self._places.append(place)

    def take(self, count: int) -> Strip:
        """The first so many rows, which leave their places to others."""
        return self._read([self._places.popleft() for _ in range(count)], forget=True)

    def rows(self, height: int, forget: bool) -> Rows:
        """All rows that are there now, in strips of ``height``; they may leave their places."""
        there = list(self._places)
        if forget:
            self._places.clear()
        for first in range(0, len(there), height):
            yield self._read(there[first : first + height], forget=forget)

    def _read(self, places: list[int], *, forget: bool) -> Strip:
        rows = torch.empty(len(places), self._width, self._channels, device=self._device)
        for place, row in zip(places, rows.flatten(1), strict=True):
            self._store.read(place, row)
        if forget:
            self._store.free.extend(places)
        return rows.permute(2, 0, 1).unsqueeze(0)
