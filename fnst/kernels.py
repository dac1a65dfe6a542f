"""Instance norm, ReLU, addition and padding on a GPU, in two Triton kernels each way.

PyTorch's own take a dozen: one after the other reads and writes the maps, image by image, and a
padded copy is often laid out anew. Here the first kernel sums up parts of every image, and the
second, which merges what the first found, writes the maps as the next convolution wants them. The
way back is the same: sums, then gradients. Nothing is added up in an order that chance decides.

Maps are channels_last: rows of channels, one for each position. A program looks at a group of the
channels of an image, tile after tile of positions. Letters in shapes: ``b`` images, ``c`` channels,
``h`` x ``w`` positions; in kernels, capitals are numbers that are known when they are compiled.

References:
    [C83] Chan, Golub, LeVeque. Algorithms for Computing the Sample Variance. The American
          Statistician, 1983.
"""

from dataclasses import dataclass
from typing import Any, no_type_check

import torch
import triton
from torch import Tensor
from triton import language as tl

# Numbers of a tile, and partial sums that a program merges at once: what registers hold. Compiled
# for an H200 (sm_90), no kernel needs more of them than there are.
TILE, MERGED = 4096, 8192

# The most channels of a group; so many bfloat16 are a line of a GPU's cache.
GROUP = 64

# Programs that sum up, and that write, for all images together; an H200 has 132 processors, each of
# which runs several. All of these are chosen by us.
SUMMING, WRITING = 264, 1056

OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}

# A kernel is compiled once for all sizes of pictures.
SIZES = ["h", "w", "before", "high", "wide", "summed", "each", "parts", "around", "added_around"]


# --- there and back -------------------------------------------------------------------------------


def forward(
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    added: Tensor | None,
    *,
    relu: bool,
    around: int,
    border: str,
    added_around: int,
    box: tuple[int, int, int] | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The finished maps (b, c, h + 2 around, w + 2 around), and mean and 1 / deviation, (b, c).

    Args:
        maps: (b, c, h, w), channels_last.
        weight: what the normalized channels are multiplied by, (c), float32.
        bias: what is added to them then, likewise.
        added: maps that are added after the ReLU, (b, c, h + 2 added_around, w + 2 added_around),
            channels_last; their border is not looked at.
        relu: whether negative numbers become zero.
        around: by so many positions the result is padded.
        border: with its reflection, or with its edge: ``reflect`` or ``replicate``.
        added_around: by so many positions ``added`` is.
        box: the part of the maps that is summed up: its first row, which is its first column as
            well, its height and its width; all of them if None.
        epsilon: added to the variance.
    """
    b, c, h, w = maps.shape
    if border == "reflect" and around >= min(h, w):
        raise ValueError(f"maps of {h}x{w} cannot be reflected by {around}")
    result = _empty((b, c, h + 2 * around, w + 2 * around), maps)
    mean, scale = torch.empty(2, b, c, dtype=torch.float32, device=maps.device)
    first, high, wide = box or (0, h, w)
    cut = _Cut.of(maps, high * wide)
    sums = cut.sums(maps)
    with torch.cuda.device_of(maps):
        _sum_up[cut.summing](
            maps, *sums, h, w, first, high, wide, cut.each, c, **cut.known(),
        )  # fmt: skip
        _finish[cut.writing(result)](
            maps, weight, bias, added, result, *sums, mean, scale,
            h, w, high * wide, cut.each, cut.parts, c, around, added_around, epsilon,
            RELU=relu, ADDED=added is not None, REFLECT=border == "reflect",
            PARTS=cut.most, **cut.known(),
        )  # fmt: skip
    return result, mean, scale


def backward(
    pulls: Tensor,
    maps: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    scale: Tensor,
    *,
    relu: bool,
    around: int,
    border: str,
    added_around: int,
    is_added: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of maps, weight, bias and of what was added, from that of the finished maps.

    Args:
        pulls: the gradient of the finished maps.
        maps: as ``forward`` was given them, like all that has the same name.
        weight: likewise.
        bias: likewise.
        mean: as it found it.
        scale: likewise.
        relu: likewise.
        around: likewise.
        border: likewise.
        added_around: likewise.
        is_added: whether anything was added.
    """
    b, c, h, w = maps.shape
    pulls = pulls.contiguous(memory_format=torch.channels_last)
    to_maps = _empty(maps.shape, maps)
    to_added = None
    if is_added:  # into whose border nothing is written
        to_added = _empty((b, c, h + 2 * added_around, w + 2 * added_around), maps).zero_()
    cut = _Cut.of(maps, h * w)
    sums = cut.sums(maps)
    known = cut.known() | {
        "RELU": relu,
        "REFLECT": border == "reflect",
        "AROUND": around,
        "SEEN": 1 if not around else 3 if border == "reflect" else 2 * around + 1,
    }
    given = (pulls, maps, weight, bias, mean, scale)
    with torch.cuda.device_of(maps):
        _sum_up_pulls[cut.summing](*given, *sums, h, w, cut.each, c, **known)
        _pull[cut.writing(maps)](
            *given, *sums, to_maps, to_added, h, w, cut.parts, c, added_around,
            ADDED=is_added, PARTS=cut.most, **known,
        )  # fmt: skip
    to_bias, to_weight = sums.sum((1, 2))
    return to_maps, to_weight, to_bias, to_added


def _empty(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


@dataclass(frozen=True)
class _Cut:
    """How maps are shared among programs."""

    images: int
    groups: int  # of channels
    channels: int  # of a group, a power of two
    positions: int  # of a tile
    parts: int  # of an image, summed up by themselves
    each: int  # positions of a part

    @classmethod
    def of(cls, maps: Tensor, count: int) -> "_Cut":
        """Of so many positions, which are summed up."""
        b, c, _, _ = maps.shape
        channels = min(GROUP, triton.next_power_of_2(c))
        groups = triton.cdiv(c, channels)
        positions = max(1, TILE // channels)
        tiles = triton.cdiv(count, positions)
        parts = min(MERGED // channels, triton.cdiv(SUMMING, b * groups), tiles)
        each = triton.cdiv(tiles, parts) * positions
        return cls(b, groups, channels, positions, triton.cdiv(count, each), each)

    @property
    def most(self) -> int:
        """How many parts there may be."""
        return MERGED // self.channels

    @property
    def summing(self) -> tuple[int, int, int]:
        return self.parts, self.groups, self.images

    def writing(self, maps: Tensor) -> tuple[int, int, int]:
        """Programs that write such maps; the tiles go round among them."""
        tiles = triton.cdiv(maps.shape[2] * maps.shape[3], self.positions)
        most = triton.cdiv(WRITING, self.images * self.groups)
        return min(tiles, most), self.groups, self.images

    def sums(self, maps: Tensor) -> Tensor:
        """Room for two numbers for each part and channel."""
        shape = (2, self.images, self.parts, maps.shape[1])
        return torch.empty(shape, dtype=torch.float32, device=maps.device)

    def known(self) -> dict[str, Any]:
        """What kernels are compiled for, and with."""
        return {"CHANNELS": self.channels, "TILE": self.positions, **OPTIONS}


# --- kernels --------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _sum_up(
    maps, means, squares, h, w, before, high, wide, each, c,
    CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of a part of a box: the mean of each channel, and the sum of squares around it ([C83])."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel, is_channel = _group(c, CHANNELS)
    maps += image * h * w * c
    mean = tl.zeros([CHANNELS], tl.float32)
    square = tl.zeros([CHANNELS], tl.float32)
    first, end = part * each, tl.minimum(part * each + each, high * wide)
    for start in range(first, end, TILE):
        place = start + tl.arange(0, TILE)
        mask = (place < end)[:, None] & is_channel[None, :]
        offset = (before + place // wide) * w + before + place % wide
        values = tl.load(maps + offset[:, None] * c + channel[None, :], mask, 0.0).to(tl.float32)
        done, count = (start - first) * 1.0, tl.minimum(end - start, TILE) * 1.0
        here = tl.sum(values, 0) / count
        off = tl.where(mask, values - here[None, :], 0.0)
        apart, share = here - mean, count / (done + count)
        mean += apart * share
        square += tl.sum(off * off, 0) + apart * apart * (done * share)
    at = (image * tl.num_programs(0) + part) * c + channel
    tl.store(means + at, mean, is_channel)
    tl.store(squares + at, square, is_channel)


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _finish(
    maps, weight, bias, added, result, means, squares, mean_of, scale_of,
    h, w, summed, each, parts, c, around, added_around, epsilon,
    RELU: tl.constexpr, ADDED: tl.constexpr, REFLECT: tl.constexpr, PARTS: tl.constexpr,
    CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Normalize, and what comes after; tiles are those of the padded maps."""
    program, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel, is_channel = _group(c, CHANNELS)
    # the parts merged, two passes over numbers that are there already
    part, at, there = _parts(image, parts, c, channel, is_channel, PARTS)
    count = tl.minimum(each, summed - part * each) * 1.0
    count = tl.where(part < parts, count, 0.0)[:, None]
    of_parts = tl.load(means + at, there, 0.0)
    mean = tl.sum(of_parts * count, 0) / summed
    apart = of_parts - mean[None, :]
    square = tl.sum(tl.load(squares + at, there, 0.0) + count * apart * apart, 0)
    scale = 1.0 / tl.sqrt(square / summed + epsilon)
    if program == 0:
        tl.store(mean_of + image * c + channel, mean, is_channel)
        tl.store(scale_of + image * c + channel, scale, is_channel)

    factor = tl.load(weight + channel, is_channel, 0.0)
    shift = tl.load(bias + channel, is_channel, 0.0)
    high, wide = h + 2 * around, w + 2 * around
    maps += image * h * w * c
    result += image * high * wide * c
    if ADDED:
        added += image * (h + 2 * added_around) * (w + 2 * added_around) * c
    for start in range(program * TILE, high * wide, tl.num_programs(0) * TILE):
        place = start + tl.arange(0, TILE)
        mask = (place < high * wide)[:, None] & is_channel[None, :]
        y = _source(place // wide - around, h, REFLECT)
        x = _source(place % wide - around, w, REFLECT)
        offset = (y * w + x)[:, None] * c + channel[None, :]
        values = tl.load(maps + offset, mask, 0.0).to(tl.float32)
        normal = (values - mean[None, :]) * scale[None, :]
        finished = normal * factor[None, :] + shift[None, :]
        if RELU:
            finished = tl.where(finished < 0, 0.0, finished)  # what is no number stays none
        if ADDED:
            offset = _padded(y, x, w, added_around)[:, None] * c + channel[None, :]
            finished += tl.load(added + offset, mask, 0.0).to(tl.float32)
        tl.store(result + place[:, None] * c + channel[None, :], finished, mask)


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _sum_up_pulls(
    pulls, maps, weight, bias, mean_of, scale_of, sums, products, h, w, each, c,
    RELU: tl.constexpr, REFLECT: tl.constexpr, AROUND: tl.constexpr, SEEN: tl.constexpr,
    CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Of a part of an image: the sums of the gradients, and of those times the normalized maps."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel, is_channel = _group(c, CHANNELS)
    total = tl.zeros([CHANNELS], tl.float32)
    product = tl.zeros([CHANNELS], tl.float32)
    end = tl.minimum(part * each + each, h * w)
    for start in range(part * each, end, TILE):
        place = start + tl.arange(0, TILE)
        _, pull, normal = _pull_and_normal(
            pulls, maps, weight, bias, mean_of, scale_of, image, place, place < end,
            h, w, c, channel, is_channel, RELU, REFLECT, AROUND, SEEN,
        )  # fmt: skip
        total += tl.sum(pull, 0)
        product += tl.sum(pull * normal, 0)
    at = (image * tl.num_programs(0) + part) * c + channel
    tl.store(sums + at, total, is_channel)
    tl.store(products + at, product, is_channel)


@triton.jit(do_not_specialize=SIZES)
@no_type_check
def _pull(
    pulls, maps, weight, bias, mean_of, scale_of, sums, products, to_maps, to_added,
    h, w, parts, c, added_around,
    ADDED: tl.constexpr, PARTS: tl.constexpr,
    RELU: tl.constexpr, REFLECT: tl.constexpr, AROUND: tl.constexpr, SEEN: tl.constexpr,
    CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The gradients of the maps, and of what was added to them."""
    program, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel, is_channel = _group(c, CHANNELS)
    _, at, there = _parts(image, parts, c, channel, is_channel, PARTS)
    total = tl.sum(tl.load(sums + at, there, 0.0), 0) / (h * w)
    product = tl.sum(tl.load(products + at, there, 0.0), 0) / (h * w)

    factor = tl.load(scale_of + image * c + channel, is_channel, 0.0)
    factor *= tl.load(weight + channel, is_channel, 0.0)
    to_maps += image * h * w * c
    if ADDED:
        to_added += image * (h + 2 * added_around) * (w + 2 * added_around) * c
    for start in range(program * TILE, h * w, tl.num_programs(0) * TILE):
        place = start + tl.arange(0, TILE)
        mask = (place < h * w)[:, None] & is_channel[None, :]
        whole, pull, normal = _pull_and_normal(
            pulls, maps, weight, bias, mean_of, scale_of, image, place, place < h * w,
            h, w, c, channel, is_channel, RELU, REFLECT, AROUND, SEEN,
        )  # fmt: skip
        pulled = (pull - total[None, :] - normal * product[None, :]) * factor[None, :]
        tl.store(to_maps + place[:, None] * c + channel[None, :], pulled, mask)
        if ADDED:
            offset = _padded(place // w, place % w, w, added_around)
            tl.store(to_added + offset[:, None] * c + channel[None, :], whole, mask)


@triton.jit
@no_type_check
def _pull_and_normal(
    pulls, maps, weight, bias, mean_of, scale_of, image, place, inside,
    h, w, c, channel, is_channel,
    RELU: tl.constexpr, REFLECT: tl.constexpr, AROUND: tl.constexpr, SEEN: tl.constexpr,
):  # fmt: skip
    """The gradient before and after the ReLU let it pass, and the normalized maps."""
    mask = inside[:, None] & is_channel[None, :]
    y, x = place // w, place % w
    pulls += image * (h + 2 * AROUND) * (w + 2 * AROUND) * c
    whole = tl.zeros(mask.shape, tl.float32)
    # a position is seen at its own place, and in the padding at those of its reflections
    for down in tl.static_range(SEEN):
        row, is_row = _seen(y, h, down, REFLECT, AROUND)
        for across in tl.static_range(SEEN):
            column, is_column = _seen(x, w, across, REFLECT, AROUND)
            offset = (row * (w + 2 * AROUND) + column)[:, None] * c + channel[None, :]
            seen = mask & (is_row & is_column)[:, None]
            whole += tl.load(pulls + offset, seen, 0.0).to(tl.float32)
    mean = tl.load(mean_of + image * c + channel, is_channel, 0.0)
    scale = tl.load(scale_of + image * c + channel, is_channel, 0.0)
    offset = place[:, None] * c + channel[None, :]
    values = tl.load(maps + image * h * w * c + offset, mask, 0.0).to(tl.float32)
    normal = (values - mean[None, :]) * scale[None, :]
    passed = whole
    if RELU:
        factor = tl.load(weight + channel, is_channel, 0.0)
        shift = tl.load(bias + channel, is_channel, 0.0)
        passed = tl.where(normal * factor[None, :] + shift[None, :] > 0, whole, 0.0)
    return whole, passed, normal


@triton.jit
@no_type_check
def _group(c, CHANNELS: tl.constexpr):
    """The channels that this program looks at, and which of them there are."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return channel, channel < c


@triton.jit
@no_type_check
def _parts(image, parts, c, channel, is_channel, PARTS: tl.constexpr):
    """The numbers of an image's parts, where their sums lie, and which of them there are."""
    part = tl.arange(0, PARTS)
    at = (image * parts + part)[:, None] * c + channel[None, :]
    return part, at, (part < parts)[:, None] & is_channel[None, :]


@triton.jit
@no_type_check
def _source(place, side, REFLECT: tl.constexpr):
    """The place within a side that is seen at one that may lie beyond it."""
    if REFLECT:
        place = tl.abs(place)
        return tl.where(place < side, place, 2 * (side - 1) - place)
    return tl.minimum(tl.maximum(place, 0), side - 1)


@triton.jit
@no_type_check
def _seen(place, side, NUMBER: tl.constexpr, REFLECT: tl.constexpr, AROUND: tl.constexpr):
    """Where in a padded side a place is seen, and whether it is: its own place is number 0."""
    if NUMBER == 0:
        return place + AROUND, place >= 0
    if REFLECT:
        if NUMBER == 1:
            return AROUND - place, (place >= 1) & (place <= AROUND)
        return AROUND + 2 * (side - 1) - place, (place <= side - 2) & (place >= side - 1 - AROUND)
    if NUMBER <= AROUND:
        return place * 0 + NUMBER - 1, place == 0
    return place + NUMBER, place == side - 1


@triton.jit
@no_type_check
def _padded(y, x, w, around):
    """The position in maps that are padded by so much."""
    return (y + around) * (w + 2 * around) + x + around
