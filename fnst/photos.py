"""A packed photo set, opened: random crops of its photographs, as training needs them.

`packing` writes such a set: shards, which are plain ``.npy`` files, and ``set.json``. They are
opened as memory maps: reading a photograph costs a copy instead of a JPEG decoder, and what was
read is the kernel's to forget, so that the process does not grow with the set.
"""

import copy
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from fnst import files
from fnst.errors import ImageError, ParamsError

Batch = Float[torch.Tensor, "b 3 s s"]  # sRGB in [0, 1]

# Of a GPU's free memory that a set may take; chosen by us: what a step takes is not known before it
# is made.
SHARE = 0.25


@dataclass(frozen=True)
class Cut:
    """Which square of a photograph is shown, in pixels, and whether mirrored."""

    side: int
    top: int
    left: int
    flipped: bool


class Photos:
    """A packed set, opened: its length, its photographs, and endless random crops of them.

    Attributes:
        folder: where it lies.
        size: side of its photographs, pixels.
        device: where its pictures come; see ``on``.

    Raises:
        ImageError: when there is no complete set in the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.device = torch.device("cpu")
        self._coming: list[int] = []  # shards that the device is to hold, and does not yet
        try:
            told = files.read_json(folder / "set.json")
            self.size: int = told["size"]
            self._smaller: dict[str, int] = dict(told.get("smaller", {}))
            self._shards: list[Any] = [
                _open(folder / n, k, self.size) for n, k in told["shards"].items()
            ]
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
        return self._to_tensor(self._pixels(index))

    def side(self, index: int) -> int:
        """The short side in pixels that a photograph came in, or ``size`` where it was larger.

        A set that says nothing of it, as older ones do, has photographs of its size.
        """
        return self._smaller.get(str(index), self.size)

    def on(self, device: torch.device) -> "Photos":
        """The same set, whose pictures come on this device.

        A GPU comes to hold all of it, a shard with every batch, where that takes no more than a
        quarter of the memory that is free; what it does not hold is cut out here and sent there.
        """
        moved = copy.copy(self)
        moved.device, moved._shards = device, list(self._shards)
        if device.type == "cuda" and self._fits(torch.cuda.mem_get_info(device)[0]):
            moved._coming = list(range(len(self._shards)))
        return moved

    def _bring(self) -> None:
        """Bring a shard to the device: all at once, they would keep the first step waiting."""
        if self._coming:
            shard = self._coming.pop(0)
            self._shards[shard] = torch.from_numpy(np.array(self._shards[shard])).to(self.device)

    def _fits(self, free: int) -> bool:
        """Whether a GPU with so many free bytes shall hold all of it."""
        return len(self) * self.size * self.size * 3 <= SHARE * free

    def batches(
        self,
        *,
        batch_size: int,
        crop: int,
        crop_scale: float,
        seed: int,
        start: int = 0,
        part: int = 0,
        parts: int = 1,
    ) -> Iterator[Batch]:
        """Random squares, endlessly: every photograph once before any comes again.

        Each square's side is log-uniform between ``crop_scale`` and the whole photograph; it is
        resized to ``crop`` pixels and flipped half of the time. Batch ``i`` depends on the seed
        and on ``i`` alone, so that starting at ``start`` resumes exactly; of ``parts`` equal parts
        of it, this is number ``part``.

        Raises:
            ParamsError: when the smallest square would be less than a pixel, or a batch cannot be
                shared equally.
        """
        if batch_size % parts:
            raise ParamsError(
                f"train: expected a batch_size that {parts} processes can share equally, "
                f"got {batch_size}."
            )
        if crop_scale * self.size < 1:
            raise ParamsError(f"train: crop_scale {crop_scale} leaves no pixel of a photograph.")
        share = batch_size // parts
        mine = slice(part * share, (part + 1) * share)
        for step in count(start):
            self._bring()
            rng = np.random.default_rng([seed, 1, step])
            numbers = range(step * batch_size, (step + 1) * batch_size)
            cuts = [_draw(self.size, crop_scale, rng) for _ in numbers]
            chosen = zip(numbers[mine], cuts[mine], strict=True)
            yield torch.cat([self._cut(self._nth(n, seed), cut, crop) for n, cut in chosen])

    def _pixels(self, index: int) -> Any:
        shard = bisect_right(self._starts, index) - 1
        return self._shards[shard][index - self._starts[shard]]

    def _nth(self, number: int, seed: int) -> int:
        """Which photograph comes at this place of the endless order."""
        epoch, place = divmod(number, len(self))
        return int(_permutation(seed, epoch, len(self))[place])

    def _cut(self, index: int, cut: Cut, crop: int) -> Batch:
        down, across = slice(cut.top, cut.top + cut.side), slice(cut.left, cut.left + cut.side)
        square = self._to_tensor(self._pixels(index)[down, across])
        if cut.side != crop:
            square = F.interpolate(square, (crop, crop), mode="bilinear", antialias=True)
        return square.flip(3) if cut.flipped else square

    def _to_tensor(self, pixels: Any) -> Float[torch.Tensor, "1 3 h w"]:
        if isinstance(pixels, np.ndarray):
            copied = torch.from_numpy(np.array(pixels))  # the memory map itself is read-only
            pixels = copied if self.device.type == "cpu" else self._sent(copied)
        floats: Float[torch.Tensor, "1 3 h w"] = pixels.permute(2, 0, 1).unsqueeze(0).float()
        return floats.div_(255)

    def _sent(self, pixels: UInt8[torch.Tensor, "h w 3"]) -> UInt8[torch.Tensor, "h w 3"]:
        # only pinned memory is read by a GPU without the CPU waiting for it
        pinned = pixels.pin_memory() if self.device.type == "cuda" else pixels
        return pinned.to(self.device, non_blocking=True)


def _draw(whole: int, scale: float, rng: np.random.Generator) -> Cut:
    side = min(whole, round(whole * scale ** rng.random()))
    top, left = rng.integers(0, whole - side + 1, 2).tolist()
    return Cut(side, top, left, flipped=bool(rng.random() < 0.5))


def _open(path: Path, count: int, size: int) -> Any:
    pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    if (pixels.dtype, pixels.shape) != (np.uint8, (count, size, size, 3)):
        raise ValueError(f"{path} has another shape than set.json says")
    return pixels.view(np.ndarray)  # a memory map makes every slice one, which takes its time


@lru_cache(maxsize=2)  # a batch may reach into the next epoch
def _permutation(seed: int, epoch: int, size: int) -> Any:
    return np.random.default_rng([seed, 0, epoch]).permutation(size)
