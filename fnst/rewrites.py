"""Convolutions that compute what torch's own do, in less time on a CPU.

Each is made from a layer of a trained network and takes its place; none can learn. Letters in
shapes: ``b`` images in the batch, ``c`` channels in, ``d`` channels out, ``h`` x ``w`` positions.

References:
    [L15] Lavin, Gray. Fast Algorithms for Convolutional Neural Networks. 2015.
          https://arxiv.org/abs/1509.09308
"""

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst import cores
from fnst.network import BILINEAR, NEAREST, FoldedUpsampling, fold

# F(4x4, 3x3) of [L15], section 4.3: tiles of 6x6 positions go in, 4x4 come out.
TILE, STEP = 6, 4
INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

# So many tiles pass at a time on a core; chosen by us: their numbers stay in its own cache.
TILES = 64

# Maps of fewer positions are convolved as the layer does; measured by us on two cores: pictures of
# 256 pixels take a fifth longer otherwise, and those of 512 as long either way.
FEW_POSITIONS = 128 * 128


class Winograd(nn.Module):
    """A 3x3 convolution with reflection padding, by [L15]: a quarter of the multiplications.

    Along each axis, the four outputs of six positions take six products instead of twelve; the
    transforms between are small matrices. In float32 it is a few times less exact than torch's own:
    1e-5 of the largest number. Only what differs from a channel's mean is transformed, so that
    errors are small where maps are flat: a norm that follows would draw them as a texture. Sides
    must be at least 4.

    Args:
        layer: the one whose place it takes.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        kernel = torch.tensor(KERNEL, dtype=torch.float64)
        plain = layer.weight.detach()
        weight = torch.einsum("ia,dcab,jb->ijcd", kernel, plain.double(), kernel).flatten(0, 1)
        self.weight = nn.Buffer(weight.to(plain.dtype).contiguous())
        self.bias = nn.Buffer(_bias(layer))
        self.plain = layer
        self.sums = nn.Buffer(plain.sum((2, 3)).T.contiguous())
        self.into = nn.Buffer(_both_axes(INPUT).to(plain.dtype))
        self.out = nn.Buffer(_both_axes(OUTPUT).to(plain.dtype))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        _, _, h, w = maps.shape
        if h * w < FEW_POSITIONS:
            convolved: Tensor = self.plain(maps)
            return convolved
        return self.by_tiles(maps)

    def by_tiles(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The same, however small the maps are."""
        _, _, h, w = maps.shape
        down, across = -(-h // STEP) * STEP, -(-w // STEP) * STEP  # to whole tiles
        padded = F.pad(maps, (1, 1 + across - w, 1, 1 + down - h), mode="reflect")
        images = padded.permute(0, 2, 3, 1).contiguous()
        convolved = images.new_empty(len(images), down, across, len(self.bias))
        tiles = images.unfold(1, TILE, STEP).unfold(2, TILE, STEP).permute(0, 4, 5, 1, 2, 3)
        places = convolved.view(len(images), down // STEP, STEP, across // STEP, STEP, -1)
        places = places.permute(0, 2, 4, 1, 3, 5)
        means = images[:, ::STEP, ::STEP].mean((1, 2))  # of a sixteenth: any near value does
        biases = torch.addmm(self.bias, means, self.sums)
        parts = [
            (*part, mean, bias)
            for image, place, mean, bias in zip(tiles, places, means, biases, strict=True)
            for part in zip(_parts(image), _parts(place), strict=True)
        ]
        count = torch.get_num_threads()
        room = images.new_empty(count, 2, self.room() // 2)
        cores.each(lambda core: self._convolve(parts[core::count], *room[core]), range(count))
        return convolved[:, :h, :w].permute(0, 3, 1, 2)

    def room(self) -> int:
        """How many numbers it keeps at once on each core."""
        return 2 * TILE**2 * TILES * max(self.weight.shape[1:])

    def _convolve(self, parts: Sequence[tuple[Tensor, ...]], some: Tensor, others: Tensor) -> None:
        """Convolve tiles (6, 6, down, across, c) to their places (4, 4, down, across, d)."""
        c, d = self.weight.shape[1:]
        for tiles, places, mean, bias in parts:
            taken = torch.sub(tiles, mean, out=_shaped(some, *tiles.shape)).view(TILE**2, -1)
            turned = torch.mm(self.into, taken, out=_shaped(others, *taken.shape))
            each = turned.view(TILE**2, -1, c)
            products = torch.bmm(each, self.weight, out=_shaped(some, *each.shape[:2], d))
            columns = products.flatten(1)
            summed = torch.mm(self.out, columns, out=_shaped(others, STEP**2, columns.shape[1]))
            torch.add(summed.view(places.shape), bias, out=places)


def _parts(tiles: Float[Tensor, "_ _ down across _"]) -> Iterator[Float[Tensor, "_ _ _ _ _"]]:
    """At most so many tiles at a time; long rows are cut into pieces of equal length."""
    across = tiles.shape[3]
    for rows in torch.split(tiles, max(1, TILES // across), 2):
        yield from rows.tensor_split(-(-across // TILES), 3)


def _shaped(numbers: Float[Tensor, " n"], *shape: int) -> Tensor:
    """The first of the numbers, in this shape."""
    return numbers[: math.prod(shape)].view(shape)


def _bias(layer: nn.Conv2d | FoldedUpsampling) -> Float[Tensor, " d"]:
    weight, bias = layer.weight, layer.bias
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def _both_axes(matrix: tuple[tuple[int, ...], ...]) -> Tensor:
    """The matrix that does along two axes, taken as one, what the given one does along each."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)


class Folded(nn.Module):
    """A doubling of the resolution whose kernel is folded once, in float32, and not at each call.

    Args:
        layer: the one whose place it takes.
    """

    def __init__(self, layer: FoldedUpsampling) -> None:
        super().__init__()
        self.around, self.border = layer.around, layer.border
        self.weight = nn.Buffer(fold(layer.weight.detach(), layer.taps))
        self.padding = self.weight.shape[2] // 2 + 1  # what was padded, and what the kernel adds
        self.bias = nn.Buffer(_bias(layer))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        return self.within(F.pad(maps, [self.around] * 4, mode=self.border))

    def within(self, padded: Tensor) -> Tensor:
        """Double what is padded already; the padding goes."""
        return F.conv_transpose2d(padded, self.weight, self.bias, stride=2, padding=self.padding)


class Smoothed(nn.Module):
    """A bilinear doubling as that of nearest neighbours, and its result smoothed: half the time.

    The bilinear filter is nearest neighbours and then 1 2 1 along each axis. Smoothing each channel
    commutes with the convolution, and the kernel that is left has 4/9 of the taps.

    Args:
        layer: the one whose place it takes, bilinear.
    """

    def __init__(self, layer: FoldedUpsampling) -> None:
        super().__init__()
        weight = layer.weight.detach()
        along = weight.new_tensor([1, 2, 1]) / 4
        self.weight = nn.Buffer(fold(weight, NEAREST))
        self.bias = nn.Buffer(_bias(layer))
        self.smoothing = nn.Buffer(torch.outer(along, along).repeat(len(weight), 1, 1, 1))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        padded = F.pad(maps, (2, 2, 2, 2), mode="replicate")
        # One position more on each side, which smoothing takes off.
        doubled = F.conv_transpose2d(padded, self.weight, self.bias, stride=2, padding=4)
        return F.conv2d(doubled, self.smoothing, groups=len(self.smoothing))


def doubling(layer: FoldedUpsampling) -> nn.Module:
    """What a CPU doubles the resolution with in the least time."""
    return Smoothed(layer) if layer.taps == BILINEAR else Folded(layer)


class Blocks(nn.Module):
    """A convolution to few channels with reflection padding, for 2x2 positions at once.

    A CPU computes sixteen channels in the time of three. The kernel moves by two positions and
    lies in each of four places within a larger one: the same sums, and zeros. It is for maps with
    even sides.

    Args:
        layer: the convolution whose place it takes.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        d, c, size, _ = layer.weight.shape
        weight = layer.weight.new_zeros(d, 2, 2, c, size + 1, size + 1)
        for down in range(2):
            for across in range(2):
                place = weight[:, down, across, :, down : down + size, across : across + size]
                place.copy_(layer.weight.detach())
        self.padding = size // 2
        self.weight = nn.Buffer(weight.flatten(0, 2))
        self.bias = nn.Buffer(_bias(layer).repeat_interleave(4))

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        padded = F.pad(maps, [self.padding] * 4, mode="reflect")
        return F.pixel_shuffle(F.conv2d(padded, self.weight, self.bias, stride=2), 2)
