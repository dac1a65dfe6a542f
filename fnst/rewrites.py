"""Convolutions that compute what torch's own do, in less time on a CPU.

Each is made from a layer of a trained network and takes its place. Letters in shapes: ``b`` images
in the batch, ``c`` channels in, ``d`` channels out, ``h`` x ``w`` positions.

References:
    [L15] Lavin, Gray. Fast Algorithms for Convolutional Neural Networks. 2015.
          https://arxiv.org/abs/1509.09308
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst.network import FoldedUpsampling, fold

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

# So many tiles pass at a time; chosen by us: their numbers stay in the cache of a core.
TILES = 64


class Winograd(nn.Module):
    """A 3x3 convolution that keeps the size, by [L15]: a quarter of the multiplications.

    Along each axis, the four outputs of six positions take six products instead of twelve; the
    transforms between are small matrices. In float32 it is a few times less exact than torch's own:
    1e-5 of the largest number. Sides must be at least 4.

    Args:
        weight: of the convolution; where the resolution is doubled, of what becomes each of the
            2x2 positions, one after the other: ``4 * d`` channels.
        bias: of each channel that comes out.
        border: what lies around the maps, as torch.nn.functional.pad has it.
    """

    def __init__(
        self, weight: Float[Tensor, "_ c 3 3"], bias: Float[Tensor, " d"], border: str
    ) -> None:
        super().__init__()
        kernel = torch.tensor(KERNEL, dtype=torch.float64)
        turned = torch.einsum("ia,dcab,jb->ijcd", kernel, weight.double(), kernel).flatten(0, 1)
        self.weight = nn.Buffer(turned.to(weight.dtype).contiguous())
        self.bias = nn.Buffer(bias)
        self.into = nn.Buffer(_both_axes(INPUT).to(weight.dtype))
        self.out = nn.Buffer(_both_axes(OUTPUT).to(weight.dtype))
        self.border = border
        self.scale = 1 if len(weight) == len(bias) else 2

    @classmethod
    def convolution(cls, layer: nn.Conv2d) -> "Winograd":
        """In the place of a convolution with reflection padding."""
        return cls(layer.weight.detach(), _bias(layer), "reflect")

    @classmethod
    def doubling(cls, layer: FoldedUpsampling) -> "Winograd":
        """In the place of one that doubles the resolution: each of 2x2 positions has its kernel."""
        kernel = fold(layer.weight.detach(), layer.taps)
        kernel = F.pad(kernel, [(6 - kernel.shape[3]) // 2] * 4)
        # A position of the low resolution meets the taps that are two apart, in opposite order.
        c, d, _, _ = kernel.shape
        each = kernel.reshape(c, d, 3, 2, 3, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2)
        return cls(each, _bias(layer), "replicate")

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d _ _"]:
        _, _, h, w = maps.shape
        down, across = -(-h // STEP) * STEP, -(-w // STEP) * STEP  # to whole tiles
        padded = F.pad(maps, (1, 1 + across - w, 1, 1 + down - h), mode=self.border)
        images = padded.permute(0, 2, 3, 1).contiguous()
        convolved = images.new_empty(
            len(images), down * self.scale, across * self.scale, len(self.bias)
        )
        for image, result in zip(images, convolved, strict=True):
            self._convolve(image, result)
        return convolved[:, : h * self.scale, : w * self.scale].permute(0, 3, 1, 2)

    def _convolve(self, image: Float[Tensor, "_ _ c"], result: Float[Tensor, "h w d"]) -> None:
        """Fill the result, some rows of tiles at a time, in the same few buffers."""
        tiles = image.unfold(0, TILE, STEP).unfold(1, TILE, STEP).permute(3, 4, 0, 1, 2)
        _, _, down, across, c = tiles.shape
        d = self.weight.shape[2]
        rows = min(down, -(-TILES // across))
        taken, turned, summed = (
            image.new_empty(k * rows * across * n) for k, n in ((36, max(c, d)), (36, c), (16, d))
        )
        places = result.view(down, STEP, self.scale, across, STEP, self.scale, len(self.bias))
        for top in range(0, down, rows):
            part = tiles[:, :, top : top + rows]
            count = part.shape[2] * across
            numbers = taken[: 36 * count * c].view(36, -1)
            numbers.view(part.shape).copy_(part)
            into = torch.mm(self.into, numbers, out=turned[: numbers.numel()].view(36, -1))
            products = taken[: 36 * count * d].view(36, count, d)
            torch.bmm(into.view(36, count, c), self.weight, out=products)
            out = summed[: 16 * count * d].view(16, -1)
            torch.mm(self.out, products.view(36, -1), out=out)
            blocks = out.view(STEP, STEP, -1, across, self.scale, self.scale, len(self.bias))
            blocks += self.bias
            places[top : top + rows].copy_(blocks.permute(2, 0, 4, 3, 1, 5, 6))


def _bias(layer: nn.Conv2d | FoldedUpsampling) -> Float[Tensor, " d"]:
    weight, bias = layer.weight, layer.bias
    return weight.new_zeros(len(weight)) if bias is None else bias.detach()


def _both_axes(matrix: tuple[tuple[int, ...], ...]) -> Tensor:
    """The matrix that does along two axes, taken as one, what the given one does along each."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one)


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
