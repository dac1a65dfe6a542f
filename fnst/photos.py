"""A packed photo set, opened: random crops of its photographs, as training needs them.

`packing` writes such a set: shards, which are plain ``.npy`` files, and ``set.json``. They are
opened as memory maps: reading a photograph costs a copy instead of a JPEG decoder, and what was
read is the kernel's to forget, so that the process does not grow with the set.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from fnst import files
from fnst.errors import ImageError, ParamsError

Batch = Float[torch.Tensor, "b 3 s s"]  # sRGB in [0, 1]


class Photos:
    """A packed set, opened: its length, its photographs, and endless random crops of them.

    Attributes:
        folder: where it lies.
        size: side of its photographs, pixels.

    Raises:
        ImageError: when there is no complete set in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            told = files.read_json(folder / "set.json")
            self.size: int = told["size"]
            self._shards = [_open(folder / n, k, self.size) for n, k in told["shards"].items()]
            # The number of the first photograph in each shard, and that of all of them.
            self._starts = list(accumulate(map(len, self._shards), initial=0))
            if told["photographs"] != len(self):
                raise ValueError("set.json contradicts itself")
        except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError) as error:
            raise ImageError(
                f"{folder}: expected a packed photo set; `dvc repro prepare` makes it."
            ) from error

    def __len__(self) -> int:
        return self._starts[-1]

    def whole(self, index: int) -> Float[torch.Tensor, "1 3 s s"]:
        """One photograph, uncropped, sRGB in [0, 1]."""
        return _to_tensor(self._pixels(index))

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
        if crop_scale * self.size < 1:
            raise ParamsError(f"train: crop_scale {crop_scale} leaves no pixel of a photograph.")
        step = start
        while True:
            rng = np.random.default_rng([seed, 1, step])
            numbers = range(step * batch_size, (step + 1) * batch_size)
            squares = [self._crop(self._nth(n, seed), crop, crop_scale, rng) for n in numbers]
            yield torch.cat(squares)
            step += 1

    def _pixels(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        shard = bisect_right(self._starts, index) - 1
        pixels: UInt8[np.ndarray, "s s 3"] = self._shards[shard][index - self._starts[shard]]
        return pixels

    def _nth(self, number: int, seed: int) -> int:
        """Which photograph comes at this place of the endless order."""
        epoch, place = divmod(number, len(self))
        return int(_permutation(seed, epoch, len(self))[place])

    def _crop(self, index: int, crop: int, scale: float, rng: np.random.Generator) -> Batch:
        whole = self.size
        side = min(whole, round(whole * scale ** rng.random()))
        top, left = rng.integers(0, whole - side + 1, 2)
        square = _to_tensor(self._pixels(index)[top : top + side, left : left + side])
        if side != crop:
            square = F.interpolate(square, (crop, crop), mode="bilinear", antialias=True)
        return square.flip(3) if rng.random() < 0.5 else square


def _open(path: Path, count: int, size: int) -> Any:
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    if (pixels.dtype, pixels.shape) != (np.uint8, (count, size, size, 3)):
        raise ValueError(f"{path} has another shape than set.json says")
    return pixels.view(np.ndarray)  # a memory map makes every slice one, which takes its time


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(seed: int, epoch: int, count: int) -> Any:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


def _to_tensor(pixels: UInt8[np.ndarray, "h w 3"]) -> Float[torch.Tensor, "1 3 h w"]:
    copied = torch.from_numpy(np.array(pixels))  # the memory map itself is read-only
    return copied.permute(2, 0, 1).unsqueeze(0).float().div_(255)
