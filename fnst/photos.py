"""The packed photo set: photographs decoded once, then cropped at random as training needs them.

A set is one ``.npy`` file, uint8, (n, size, size, 3), sRGB 0-255, opened as a memory map: reading a
photograph costs a copy instead of a JPEG decoder, and memory does not grow with the set.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from fnst import images
from fnst.errors import ImageError, ParamsError

Batch = Float[torch.Tensor, "b 3 s s"]  # sRGB in [0, 1]

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}

# A photograph with a shorter side than this teaches nothing about texture; chosen by us.
LEAST_SIDE = 64


@dataclass(frozen=True)
class Entry:
    """One photograph before it is decoded: its name, and how to read its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass
class Report:
    """What a packed set holds, and what was left out and why."""

    kept: list[dict[str, str]] = field(default_factory=list)  # name, sha256 of the file
    left_out: list[dict[str, str]] = field(default_factory=list)  # name, reason

    @property
    def hashes(self) -> set[str]:
        return {photo["sha256"] for photo in self.kept}


def entries(paths: Iterable[Path]) -> list[Entry]:
    """Every photograph among the files, and inside the zips among them, in their order.

    Raises:
        ImageError: when a zip cannot be opened.
    """
    found: list[Entry] = []
    for path in paths:
        if path.suffix.lower() in PICTURES:
            found.append(Entry(path.name, path.read_bytes))
        elif path.suffix.lower() == ".zip":
            found.extend(_members(path, path.name))
    return found


def _members(path: Path, name: str) -> list[Entry]:
    try:
        # Stays open as long as its entries live: its directory is long, and read only once.
        archive = zipfile.ZipFile(path)
        members = sorted(m.filename for m in archive.infolist() if not m.is_dir())
    except (zipfile.BadZipFile, OSError) as error:
        raise ImageError(f"{name}: expected a zip of photographs, got {error}.") from error
    wanted = [m for m in members if Path(m).suffix.lower() in PICTURES and "__MACOSX" not in m]
    return [Entry(f"{name}/{m}", partial(archive.read, m)) for m in wanted]


def draw(found: list[Entry], count: int | None, seed: int) -> list[Entry]:
    """``count`` of the entries (all when None), drawn by the seed and kept in order."""
    if count is None or count >= len(found):
        return found
    chosen = np.random.default_rng(seed).choice(len(found), count, replace=False)
    return [found[i] for i in sorted(chosen)]


def pack(
    found: Iterable[Entry],
    path: Path,
    *,
    size: int,
    without: Iterable[str] = (),
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Decode photographs to squares of ``size`` pixels and write them as one set.

    Broken files, files with a side below 64 pixels and duplicates are left out and listed, never
    fatal. The result does not depend on the number of cores.

    Args:
        found: photographs, see ``entries``.
        path: the ``.npy`` to write; it appears when it is complete.
        size: side of the squares, pixels.
        without: SHA-256 of files that must not be in this set, because another set holds them.
        progress: called with the number of photographs looked at.

    Raises:
        ImageError: when not one photograph could be used.
    """
    report, seen = Report(), dict.fromkeys(without, "it is held out for evaluation")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:
        _write_header(file, 0, size)
        for done, (entry, (digest, square)) in enumerate(_decoded(pool, found, size), start=1):
            reason = seen.get(digest) or (square if isinstance(square, str) else None)
            if reason:
                report.left_out.append({"name": entry.name, "reason": reason})
            else:
                np.asarray(square).tofile(file)
                report.kept.append({"name": entry.name, "sha256": digest})
                seen[digest] = f"it is the same file as {entry.name}"
            progress(done)
        _write_header(file, len(report.kept), size)
    if not report.kept:
        temporary.unlink()
        raise ImageError(_nothing_left(report))
    temporary.replace(path)
    return report


def _nothing_left(report: Report) -> str:
    if not report.left_out:
        return "Expected photographs (.jpg, .png, .webp ... or a zip of them), found none."
    first = report.left_out[0]
    return (
        f"Expected at least one usable photograph, but all {len(report.left_out)} were left out; "
        f"the first, {first['name']}, because: {first['reason']}"
    )


def _decoded(
    pool: ThreadPoolExecutor, found: Iterable[Entry], size: int
) -> Iterator[tuple[Entry, tuple[str, UInt8[np.ndarray, "s s 3"] | str]]]:
    """Decode on all cores, in order, never more than a few photographs ahead."""
    todo = iter(found)
    ahead = [(e, pool.submit(_decode, e, size)) for e in islice(todo, 4 * (os.cpu_count() or 1))]
    while ahead:
        entry, future = ahead.pop(0)
        yield entry, future.result()
        ahead.extend((e, pool.submit(_decode, e, size)) for e in islice(todo, 1))


def _decode(entry: Entry, size: int) -> tuple[str, UInt8[np.ndarray, "s s 3"] | str]:
    """The hash of the file, and its square or the reason why there is none."""
    try:
        content = entry.read()
    except Exception as error:  # a damaged member makes its decompressor raise almost anything
        return "", f"it cannot be read ({error})"
    digest = hashlib.sha256(content).hexdigest()
    try:
        sides = images.size_of(content, name=entry.name)
        if min(sides) < LEAST_SIDE:
            return digest, f"it is {sides[0]}x{sides[1]}, smaller than {LEAST_SIDE} pixels"
        return digest, images.load_square(content, size, name=entry.name)
    except ImageError as error:
        return digest, str(error)


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    # numpy pads its header so that the first axis may grow without moving the data.
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    position = file.tell()
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, header)
    file.seek(max(position, file.tell()))


class Photos:
    """A packed set, opened: its length, its photographs, and endless random crops of them.

    Raises:
        ImageError: when the file is missing or no packed set.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.pixels: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ImageError(
                f"{path}: expected a packed photo set; `dvc repro prepare` makes it."
            ) from error

    def __len__(self) -> int:
        return len(self.pixels)

    def whole(self, index: int) -> Float[torch.Tensor, "1 3 s s"]:
        """One photograph, uncropped, sRGB in [0, 1]."""
        return _to_tensor(self.pixels[index])

    def batches(
        self, *, batch_size: int, crop: int, crop_scale: float, seed: int, start: int = 0
    ) -> Iterator[Batch]:
        """Random squares, endlessly: every photograph once before any comes again.

        Each square's side is log-uniform between ``crop_scale`` and the whole photograph; it is
        resized to ``crop`` pixels and flipped half of the time. Batch ``i`` depends on the seed
        and on ``i`` alone, so that starting at ``start`` resumes exactly.

        Raises:
            ParamsError: when the smallest square would be less than a pixel.
        """
        if crop_scale * self.pixels.shape[1] < 1:
            raise ParamsError(f"train: crop_scale {crop_scale} leaves no pixel of a photograph.")
        step = start
        while True:
            rng = np.random.default_rng([seed, 1, step])
            numbers = range(step * batch_size, (step + 1) * batch_size)
            squares = [self._crop(self._nth(n, seed), crop, crop_scale, rng) for n in numbers]
            yield torch.cat(squares)
            step += 1

    def _nth(self, number: int, seed: int) -> int:
        """Which photograph comes at this place of the endless order."""
        epoch, place = divmod(number, len(self))
        return int(_permutation(seed, epoch, len(self))[place])

    def _crop(self, index: int, crop: int, scale: float, rng: np.random.Generator) -> Batch:
        whole = self.pixels.shape[1]
        side = min(whole, round(whole * scale ** rng.random()))
        top, left = rng.integers(0, whole - side + 1, 2)
        square = _to_tensor(self.pixels[index, top : top + side, left : left + side])
        if side != crop:
            square = F.interpolate(square, (crop, crop), mode="bilinear", antialias=True)
        return square.flip(3) if rng.random() < 0.5 else square


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(seed: int, epoch: int, count: int) -> Any:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _to_tensor(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[torch.Tensor, "1 3 h w"]:
    copied = torch.from_numpy(np.array(pixels))  # the memory map itself is read-only
    return copied.permute(2, 0, 1).unsqueeze(0).float().div_(255)
