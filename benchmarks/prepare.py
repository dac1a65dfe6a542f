"""How fast photographs are packed, and whether raw squares are the right thing to keep."""

import io
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Pillow

from benchmarks import Result, peak_memory
from fnst import assets, collection, images, memory, packing
from fnst.collection import Entry

Squares = UInt8[np.ndarray, "n s s 3"]

SIZE = 288  # side of the squares, pixels: params.yaml's for MS COCO
CROP = 256  # side of what a training reads of them, pixels
PHOTOGRAPHS = 500
ROUNDS = 3
ON_ONE_CORE = 200  # photographs; a core is slow, and a rate needs no more
BATCH = 16

# Photographs of the built-in sample that are large enough to cut 640x480 out of them.
SAMPLE = ("motorcycle-left", "china", "flower", "rocket", "coffee")

PACK = """
import sys
from pathlib import Path
from fnst import collection, memory, packing
memory.hold()
photographs, packed, size = sys.argv[1:]
packing.pack(collection.entries(Path(photographs)), Path(packed), size=int(size))
"""


def measure() -> Iterator[Result]:
    """Decoding 500 photographs of MS COCO's kind, out of a zip, to 288-pixel squares.

    They are those of FNST_MIRROR/coco, where there are such, else 640x480 crops of the built-in
    sample. `square` decodes and resizes on one core; its ratio is to the bare calls of Pillow that
    this takes at least, with the same filter, bicubic. `one-core` finds a photograph in the zip
    and checks its CRC as well. `all-cores` is the whole of `pack`, which writes as well;
    its ratio is to torchvision's ImageFolder in a DataLoader with one process a core, over unpacked
    files, with the same filter. `apart` is one process a core, none of which knows of the others,
    each of which does what `pack` does for its part, down to the fsync: what the cores can do at
    once. The limit of both is their share of `square` times the number of cores. All of them keep
    the memory that they free, as the stage does. Medians of three rounds in turns.

    `memory` is the peak of a whole process that packs, then that of one that packs four times as
    much; the ratio is the first to the second: 1 is flat.

    `format` compares raw squares with the same squares as JPEG (quality 95, 4:4:4) in one file:
    what a photograph takes, how fast they are written by one core from squares, and how fast one
    core reads 256-pixel crops from them as training does. Ratios are raw to JPEG.
    """
    memory.hold()
    with tempfile.TemporaryDirectory(prefix="fnst-prepare-") as scratch:
        folder = Path(scratch)
        contents = _contents()
        found = _zipped(contents, folder / "photos.zip")
        _unpack(contents, folder / "unpacked" / "all")
        yield from _rates(found, folder)
        yield from _memory(contents, folder)
        yield from _formats(folder)


# --- photographs ----------------------------------------------------------------------------------


def _contents() -> list[bytes]:
    """The photographs, as the bytes of their files."""
    mirror = Path(os.environ.get("FNST_MIRROR", "")) / "coco"
    paths = sorted(mirror.glob("*.jpg"))[:PHOTOGRAPHS] if "FNST_MIRROR" in os.environ else []
    return [path.read_bytes() for path in paths] or _crops()


def _crops() -> list[bytes]:
    """Crops of the built-in sample, no two of them the same."""
    with tempfile.TemporaryDirectory() as scratch:
        paths = [assets.get(assets.find(f"sample-{name}"), Path(scratch)) for name in SAMPLE]
        wholes = [Pillow.open(path).convert("RGB") for path in paths]
    rng = np.random.default_rng(0)
    made: list[bytes] = []
    for number in range(PHOTOGRAPHS):
        whole = wholes[number % len(wholes)]
        width = min(whole.width, whole.height * 4 / 3) * rng.uniform(0.7, 1)
        height = width * 3 / 4
        left, top = (whole.width - width) * rng.random(), (whole.height - height) * rng.random()
        box = (left, top, left + width, top + height)
        buffer = io.BytesIO()
        whole.resize((640, 480), Pillow.Resampling.BICUBIC, box).save(buffer, "JPEG", quality=90)
        made.append(buffer.getvalue())
    return made


def _zipped(contents: Sequence[bytes], path: Path, copies: int = 1) -> list[Entry]:
    """A zip of the photographs; each copy has some bytes behind its end, and so is no duplicate."""
    with zipfile.ZipFile(path, "w") as archive:
        for copy in range(copies):
            for number, content in enumerate(contents):
                archive.writestr(f"{copy}-{number:05}.jpg", content + bytes(copy))
    return collection.entries(path)


def _unpack(contents: Sequence[bytes], folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, content in enumerate(contents):
        (folder / f"{number:05}.jpg").write_bytes(content)


# --- how fast -------------------------------------------------------------------------------------


def _rates(found: Sequence[Entry], folder: Path) -> Iterator[Result]:
    few = found[:ON_ONE_CORE]
    contents = [entry.read() for entry in few]
    cores = packing._workers()
    apart = ProcessPoolExecutor(cores, get_context("spawn"))
    loaders = {name: _loader(folder / "unpacked", name) for name in ("bicubic", "bilinear")}
    runs: dict[str, Callable[[], float]] = {
        "square": lambda: _rate(len(few), lambda: [images.load_square(c, SIZE) for c in contents]),
        "ours": lambda: _rate(len(few), lambda: [packing._decode(entry, SIZE) for entry in few]),
        "bare": lambda: _rate(len(few), lambda: [_bare(content) for content in contents]),
        "apart": lambda: _apart(apart, folder / "photos.zip", cores),
        "pack": lambda: _packed(found, folder / "set"),
        "bicubic": lambda: _rate(len(found), lambda: sum(1 for _ in loaders["bicubic"])),
        "bilinear": lambda: _rate(len(found), lambda: sum(1 for _ in loaders["bilinear"])),
    }
    for run in runs.values():  # now files are in memory, and modules imported
        run()
    rounds = [{name: run() for name, run in runs.items()} for _ in range(ROUNDS)]
    square, ours, bare, each_apart, pack, bicubic, bilinear = (
        median(each[name] for each in rounds) for name in runs
    )
    share, share_apart = (
        median(each[name] / (cores * each["square"]) for each in rounds)
        for name in ("pack", "apart")
    )
    to_bare = median(each["square"] / each["bare"] for each in rounds)
    to_torchvision = median(each["pack"] / each["bicubic"] for each in rounds)
    yield Result(f"prepare/{SIZE}/square", square, "photographs/s", to_bare)
    yield Result(f"prepare/{SIZE}/square/bare", bare, "photographs/s")
    yield Result(f"prepare/{SIZE}/one-core", ours, "photographs/s")
    yield Result(f"prepare/{SIZE}/all-cores/apart", each_apart, "photographs/s", limit=share_apart)
    yield Result(f"prepare/{SIZE}/all-cores", pack, "photographs/s", to_torchvision, limit=share)
    yield Result(f"prepare/{SIZE}/all-cores/torchvision-bicubic", bicubic, "photographs/s")
    yield Result(f"prepare/{SIZE}/all-cores/torchvision-bilinear", bilinear, "photographs/s")


def _rate(number: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return number / (time.perf_counter() - began)


def _apart(pool: ProcessPoolExecutor, path: Path, cores: int) -> float:
    parts = range(cores)
    return _rate(
        len(_listed(path)),
        lambda: list(pool.map(_pack_some, [path] * cores, parts, [cores] * cores)),
    )


def _pack_some(path: Path, part: int, parts: int) -> None:
    torch.set_num_threads(1)
    memory.hold()
    with path.with_name(f"apart-{part}").open("wb") as file:
        for entry in _listed(path)[part::parts]:
            square = packing._decode(entry, SIZE).square
            file.write(np.ascontiguousarray(square).data)
        file.flush()
        os.fsync(file.fileno())


@lru_cache(maxsize=1)
def _listed(path: Path) -> list[Entry]:
    return collection.entries(path)


def _packed(found: Sequence[Entry], folder: Path) -> float:
    """The rate of packing into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return _rate(len(found), lambda: packing.pack(found, folder, size=SIZE))


def _bare(content: bytes) -> bytes:
    """Pillow's best way to a square: decode no more than needed, and resize once."""
    with Pillow.open(io.BytesIO(content)) as image:
        image.draft("RGB", (SIZE, SIZE))
        (width, height), side = image.size, min(image.size)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return image.resize((SIZE, SIZE), Pillow.Resampling.BICUBIC, box, 3.0).tobytes()


def _loader(folder: Path, filter_name: str) -> Iterable[object]:
    """What many would write: torchvision's folder of pictures, in as many processes as cores."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]
    from torchvision.transforms import (  # type: ignore[import-untyped]
        CenterCrop,
        Compose,
        InterpolationMode,
        PILToTensor,
        Resize,
    )

    squares = Compose(
        [Resize(SIZE, InterpolationMode(filter_name)), CenterCrop(SIZE), PILToTensor()]
    )
    pictures = ImageFolder(str(folder), squares)
    workers = packing._workers()
    return DataLoader(pictures, BATCH, num_workers=workers, persistent_workers=True)


# --- memory ---------------------------------------------------------------------------------------


def _memory(contents: Sequence[bytes], folder: Path) -> Iterator[Result]:
    peaks: list[float] = []
    for copies in (1, 4):
        _zipped(contents, folder / "copies.zip", copies)
        packed = folder / f"copies-{copies}"
        peaks.append(peak_memory(PACK, folder / "copies.zip", packed, SIZE))
    once, four = peaks
    yield Result(f"prepare/{SIZE}/memory/x1", once / 1e6, "MB")
    yield Result(f"prepare/{SIZE}/memory/x4", four / 1e6, "MB", once / four)


# --- the format -----------------------------------------------------------------------------------


class _Raw:
    """Squares as they are, in one file that is a memory map to its reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, squares: Squares) -> None:
        with self.path.open("wb") as file:
            for square in squares:
                file.write(np.ascontiguousarray(square).data)

    def read(self, order: Sequence[int]) -> None:
        squares = np.memmap(self.path, np.uint8, "r").reshape(-1, SIZE, SIZE, 3)
        for index in order:
            _crop(squares[index])


class _Jpeg:
    """Squares as JPEGs, one behind the other, and where each of them begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.starts: list[int] = []

    def write(self, squares: Squares) -> None:
        self.starts = [0]
        with self.path.open("wb") as file:
            for square in squares:
                Pillow.fromarray(square).save(file, "JPEG", quality=95, subsampling=0)
                self.starts.append(file.tell())

    def read(self, order: Sequence[int]) -> None:
        content = np.memmap(self.path, np.uint8, "r")
        for index in order:
            part = content[self.starts[index] : self.starts[index + 1]].tobytes()
            with Pillow.open(io.BytesIO(part)) as image:
                _crop(np.asarray(image))


def _crop(square: UInt8[np.ndarray, "s s 3"]) -> Float[np.ndarray, "3 c c"]:
    """Part of a photograph as training takes it: at a random place, floats, colours first."""
    top, left = np.random.default_rng(0).integers(0, SIZE - CROP + 1, 2)
    part = square[top : top + CROP, left : left + CROP].transpose(2, 0, 1)
    floats: Float[np.ndarray, "3 c c"] = np.multiply(part, 1 / 255, dtype=np.float32)
    return floats


def _formats(folder: Path) -> Iterator[Result]:
    squares = np.load(folder / "set" / "00000.npy", mmap_mode="r")
    forms: dict[str, _Raw | _Jpeg] = {
        "raw": _Raw(folder / "squares.raw"),
        "jpeg": _Jpeg(folder / "squares.jpegs"),
    }
    order = np.random.default_rng(0).permutation(len(squares)).tolist()
    rounds = [
        {
            name: (
                _rate(len(squares), partial(form.write, squares)),
                _rate(len(squares), partial(form.read, order)),
            )
            for name, form in forms.items()
        }
        for _ in range(ROUNDS)
    ]
    sizes = {name: form.path.stat().st_size / len(squares) for name, form in forms.items()}
    for name, size in sizes.items():
        yield Result(f"prepare/format/{name}/size", size / 1e3, "kB/photograph")
    for place, what in enumerate(("write", "read")):
        ratio = median(each["raw"][place] / each["jpeg"][place] for each in rounds)
        for name in forms:
            rate = median(each[name][place] for each in rounds)
            shown = ratio if name == "raw" else None
            yield Result(f"prepare/format/{name}/{what}", rate, "photographs/s", shown)
