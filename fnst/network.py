"""The image transformation network: a photograph goes in, the stylized picture comes out.

Letters in shapes: ``b`` images in the batch, ``c`` channels, ``h`` x ``w`` positions.

References:
    [J16] Johnson, Alahi, Fei-Fei. Perceptual Losses for Real-Time Style Transfer and
          Super-Resolution. 2016. https://arxiv.org/abs/1603.08155, and its supplement
    [U16] Ulyanov, Vedaldi, Lempitsky. Instance Normalization. 2016. https://arxiv.org/abs/1607.08022
    [C83] Chan, Golub, LeVeque. Algorithms for Computing the Sample Variance. The American
          Statistician, 1983.
    [O16] Odena, Dumoulin, Olah. Deconvolution and Checkerboard Artifacts. Distill, 2016.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst import fused
from fnst.fused import EPSILON, Box, Finish

Image = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]
Maps = Float[Tensor, "b c h w"]

# Height and width of the input must be multiples of this: the network halves them twice.
STRIDE = 4

# Above this many positions the one-pass variance of the native kernel loses digits: a photograph of
# 522x531 comes out a tenth of a grey level off when it is used up to 512x512.
ONE_PASS_POSITIONS = 128 * 128
STRIP_POSITIONS = 128 * 128

# How far a value is spread when the resolution is doubled. Nearest neighbours turn a slope into
# stairs of two pixels; the bilinear filter leaves it a slope.
NEAREST = (1.0, 1.0)
BILINEAR = (0.25, 0.75, 0.75, 0.25)


@dataclass(frozen=True)
class Region:
    """Where a picture lies in the larger one that a network sees, the rest being its reflection.

    Attributes:
        margin: rows above it, and columns before it; a multiple of 4.
        height: its own, pixels.
        width: likewise.
        seen: the height of the larger one.
    """

    margin: int
    height: int
    width: int
    seen: int

    def box(self, scale: int) -> Box:
        """Where it lies in maps of a resolution lower by ``scale``."""
        return Box(self.margin // scale, -(-self.height // scale), -(-self.width // scale))

    def box_in(self, maps: Maps) -> Box:
        """Where it lies in these maps of the larger picture."""
        return self.box(self.seen // maps.shape[2])


class TransformerNetwork(nn.Module):
    """Johnson et al.'s network: 9x9 convolution, two halvings, residual blocks, two doublings, 9x9.

    This differs from Johnson et al.: instance instead of batch normalization ([U16]), reflection
    padding at every convolution instead of once, up-sampling without overlaps ([O16]), and a
    sigmoid instead of a scaled tanh, so that colours stay in [0, 1].

    Args:
        width: channels at full resolution (32 in [J16]); doubled by each halving.
        blocks: residual blocks at a quarter of the resolution (5 in [J16]).
        downsampling: ``stride`` as in [J16]; ``max_pool``, a convolution and then pooling.
        upsampling: ``bilinear``, that filter and then a convolution; ``folded``, nearest
            neighbour and then a convolution; ``transposed`` as in [J16].
    """

    def __init__(
        self,
        *,
        width: int = 32,
        blocks: int = 5,
        downsampling: Literal["stride", "max_pool"] = "stride",
        upsampling: Literal["bilinear", "folded", "transposed"] = "bilinear",
    ) -> None:
        super().__init__()
        down = {"stride": _strided, "max_pool": _pooled}[downsampling]
        up = {"bilinear": _bilinear, "folded": _nearest, "transposed": _transposed}[upsampling]
        deep = 4 * width
        self.architecture = {
            "width": width,
            "blocks": blocks,
            "downsampling": downsampling,
            "upsampling": upsampling,
        }
        self.layers = Layers(
            Reflected(3, width, 9),
            InstanceNorm(width),
            nn.ReLU(inplace=True),
            down(width, 2 * width),
            InstanceNorm(2 * width),
            nn.ReLU(inplace=True),
            down(2 * width, deep),
            InstanceNorm(deep),
            nn.ReLU(inplace=True),
            *(Residual(deep) for _ in range(blocks)),
            up(deep, 2 * width),
            InstanceNorm(2 * width),
            nn.ReLU(inplace=True),
            up(2 * width, width),
            InstanceNorm(width),
            nn.ReLU(inplace=True),
            ByRows(width, 3, 9),
        )

    def forward(self, photos: Image, region: Region | None = None) -> Image:
        """Stylize photos whose height and width are multiples of 4 and at least 16.

        Args:
            photos: what the network sees.
            region: the part that norms take their statistics of; all of it if None. With it,
                nothing can be learnt.
        """
        maps = self.layers(photos, region)
        return torch.sigmoid(maps.to(torch.promote_types(maps.dtype, torch.float32)))


class Regional(nn.Module):
    """What contains a norm, and so has to know where the picture lies."""

    def forward(self, maps: Tensor, region: Region | None = None) -> Tensor:
        """Apply it."""
        raise NotImplementedError


class Layers(Regional, nn.Sequential):
    """Layers one after the other; on a GPU, what follows a convolution is done at once."""

    def forward(self, maps: Tensor, region: Region | None = None) -> Tensor:
        """Apply them."""
        if fused.serves(maps.device, _computed_in(self, maps.device)):
            return _at_once(list(_sections(self)), maps, region)
        return _one_by_one(self, maps, region)


class Residual(Regional):
    """Two 3x3 convolutions around which the input is carried ([J16], supplement)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Reflected(channels, channels, 3),
            InstanceNorm(channels),
            nn.ReLU(inplace=True),
            Reflected(channels, channels, 3),
            InstanceNorm(channels),
        )

    def forward(self, maps: Maps, region: Region | None = None) -> Maps:
        return _one_by_one(self.layers, maps, region) + maps


def _one_by_one(layers: Iterable[nn.Module], maps: Tensor, region: Region | None) -> Tensor:
    for layer in layers:
        maps = layer(maps, region) if isinstance(layer, Regional) else layer(maps)
    return maps


class Reflected(nn.Conv2d):
    """A convolution of maps that are continued by their reflection; without a step, the size stays.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        size: of its kernel, odd.
        stride: its step.
    """

    border = "reflect"

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1) -> None:
        around = size // 2
        super().__init__(inputs, outputs, size, stride, padding=around, padding_mode="reflect")
        self.around = around

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve."""
        return self.within(bordered(maps, self.around, self.border))

    def within(self, padded: Tensor) -> Tensor:
        """Convolve what is padded already; the padding goes."""
        return F.conv2d(padded, self.weight, self.bias, self.stride)


def bordered(maps: Tensor, around: int, border: str) -> Tensor:
    """Maps that are continued beyond their edges, in their own dtype.

    Autocast would have them padded in float32 on a CPU, and copied there and back.
    """
    with torch.autocast(maps.device.type, enabled=False):
        return F.pad(maps, [around] * 4, mode=border)


class FoldedUpsampling(nn.Module):
    """Double the resolution with a fixed filter, then convolve 3x3; the edge is replicated.

    Computed at the low resolution, the same function: each of the four places that a position has
    at the high one gets channels of its own. As one transposed convolution, whose kernel is the
    filter's taps convolved with the layer's, it would be the same sums, but on the way back they
    would take a CPU up to fifteen times as long. Nothing can overlap unevenly ([O16]).

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        taps: the filter that a value of the low resolution is spread by, such as ``BILINEAR``.
    """

    around, border = 1, "replicate"

    def __init__(self, inputs: int, outputs: int, taps: tuple[float, ...]) -> None:
        super().__init__()
        plain = nn.Conv2d(inputs, outputs, 3)
        self.weight = plain.weight
        self.bias: nn.Parameter = plain.bias  # type: ignore[assignment]
        self.taps = taps
        self.spread = nn.Buffer(_spread(taps).to(self.weight.dtype), persistent=False)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d 2*h 2*w"]:
        return self.within(bordered(maps, self.around, self.border))

    def within(self, padded: Tensor) -> Tensor:
        """Double what has a border already, of one position; that goes."""
        d, c, _, _ = self.weight.shape
        with torch.autocast(padded.device.type, enabled=False):
            each = (self.weight.flatten(2) @ self.spread).view(d, c, 4, 3, 3)
        kernels = each.permute(2, 0, 1, 3, 4).flatten(0, 1)
        return _interleaved(F.conv2d(padded, kernels, self.bias.repeat(4)))


class ByRows(Reflected):
    """A convolution to few channels, which CPUs compute at a fifth of their speed.

    There each row of the kernel becomes channels of its own, so that nine times as many are
    computed along rows, and are added up where they meet: the same sums, of which half precision
    rounds each row's by itself.
    """

    def within(self, padded: Tensor) -> Tensor:
        """Convolve what is padded already; the padding goes."""
        if padded.device.type != "cpu":
            return super().within(padded)
        rows = self.kernel_size[0]
        kernels = self.weight.permute(2, 0, 1, 3).flatten(0, 1).unsqueeze(2)
        each = F.conv2d(padded, kernels).contiguous(memory_format=torch.channels_last)
        convolved: Tensor = _RowSum.apply(each, rows)
        return convolved + self.bias.view(1, -1, 1, 1)  # type: ignore[union-attr]


class _RowSum(torch.autograd.Function):
    """The sums of what each row of a kernel gives, moved to where it belongs.

    Each number belongs to one sum, so that on the way back it is written once; autograd would add
    into places that it looks up one by one.
    """

    @staticmethod
    def forward(ctx: Any, each: Tensor, rows: int) -> Tensor:
        ctx.shape, ctx.dtype, ctx.rows = each.shape, each.dtype, rows
        return _moved(each, rows).sum(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        to_each = torch.empty(
            ctx.shape,
            dtype=ctx.dtype,
            device=grads[0].device,
            memory_format=torch.channels_last,
        ).zero_()
        _moved(to_each, ctx.rows).copy_(grads[0].unsqueeze(1))
        return to_each, None


def _moved(each: Float[Tensor, "b _ h w"], rows: int) -> Float[Tensor, "b _ _ _ w"]:
    """A view in which the rows' channels lie over each other where they meet."""
    n, channels, h, w = each.shape
    d = channels // rows
    image, channel, down, across = each.stride()
    return each.as_strided(
        (n, rows, d, h - rows + 1, w), (image, d * channel + down, channel, down, across)
    )


def fold(weight: Float[Tensor, "d c 3 3"], taps: tuple[float, ...]) -> Float[Tensor, "c d k k"]:
    """Turn the taps of a convolution after doubling into those of one transposed convolution.

    A value of the low resolution reaches its neighbours of the high one by the filter, and from
    there, in opposite order, by the convolution: along each axis one is convolved with the other.
    """
    return _fold_axis(_fold_axis(weight, 2, taps), 3, taps).transpose(0, 1)


def _spread(taps: tuple[float, ...]) -> Float[Tensor, "9 36"]:
    """What each of a kernel's nine taps adds to the kernels of the four places.

    A place of the high resolution meets every other tap of the transposed convolution's kernel, in
    opposite order, and at most three of them along an axis.
    """
    folded = fold(torch.eye(9, dtype=torch.float64).view(9, 1, 3, 3), taps)
    places = F.pad(folded, [3 - folded.shape[2] // 2] * 4).view(9, 3, 2, 3, 2).flip(1, 3)
    return places.permute(0, 2, 4, 1, 3).flatten(1)


def _interleaved(maps: Float[Tensor, "b _ h w"]) -> Float[Tensor, "b _ 2*h 2*w"]:
    """The channels of the four places, each put in its place."""
    b, channels, h, w = maps.shape
    places = maps.permute(0, 2, 3, 1).reshape(b, h, w, 2, 2, channels // 4)
    doubled = places.permute(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, channels // 4)
    return doubled.permute(0, 3, 1, 2)


def _fold_axis(weight: Tensor, axis: int, taps: tuple[float, ...]) -> Tensor:
    before = [0] * 2 * (3 - axis)  # F.pad counts axes from the last
    shifted = [
        F.pad(weight.flip(axis) * tap, [*before, place, len(taps) - 1 - place])
        for place, tap in enumerate(taps)
    ]
    return torch.stack(shifted).sum(0)


class InstanceNorm(Regional):
    """Normalize each channel of each image over its positions, then scale and shift it ([U16])."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Maps, region: Region | None = None) -> Maps:
        if region is not None:
            return _normalize_by(region, maps, self.weight, self.bias)
        result: Tensor = _InstanceNorm.apply(maps, self.weight, self.bias)
        return result


class _InstanceNorm(torch.autograd.Function):
    """Instance norm whose backward is batch norm's, image by image.

    On one image both are the same function, and batch norm's kernels are fused, know channels_last
    and half precision, and sum in float32: a tenth of the time that group norm's or plain
    operations take.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        normalized, mean, scale = _normalize(maps, weight, bias)
        ctx.save_for_backward(maps, weight, mean, scale)
        return normalized

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps, weight, mean, scale = ctx.saved_tensors
        each = [
            torch.ops.aten.native_batch_norm_backward(
                grad, one, weight, None, None, *statistics, True, EPSILON, [True] * 3
            )
            # split, because an index and a new axis would lose channels_last
            for grad, one, *statistics in zip(
                torch.split(grads[0], 1), torch.split(maps, 1), mean, scale, strict=True
            )
        ]
        to_maps, to_weight, to_bias = zip(*each, strict=True)
        return torch.cat(to_maps), torch.stack(to_weight).sum(0), torch.stack(to_bias).sum(0)


def _normalize(maps: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalized maps, and of each image and channel the mean and 1 / deviation, (b, c)."""
    n, c, h, w = maps.shape
    if maps.device.type == "cpu" and h * w <= ONE_PASS_POSITIONS:
        normalized, mean, scale = torch.native_group_norm(
            maps, weight, bias, n, c, h * w, c, EPSILON
        )
        return normalized, mean.view(n, c), scale.view(n, c)
    one_by_one = _normalize_strips if maps.device.type == "cpu" else _normalize_one
    each = [one_by_one(one, weight, bias) for one in torch.split(maps, 1)]
    images, means, scales = zip(*each, strict=True)
    return images[0] if n == 1 else torch.cat(images), torch.stack(means), torch.stack(scales)


def _normalize_one(maps: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """The same for one image, as batch norm: two fused kernels on a GPU."""
    return torch.native_batch_norm(maps, weight, bias, None, None, True, 0.0, EPSILON)


def _normalize_strips(maps: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """The same on a CPU, whose kernels add up in float32: their sums are merged in float64."""
    mean, variance = _moments(maps, weight.dtype)
    normalized = F.batch_norm(maps, mean, variance, weight, bias, eps=EPSILON)
    return normalized, mean, torch.rsqrt(variance + EPSILON)


@torch.no_grad()
def _normalize_by(region: Region, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All of the maps, by the statistics of what belongs to the region."""
    normalized = []
    for one in torch.split(maps, 1):
        inner = region.box_in(one).of(one)
        if maps.device.type == "cpu":
            mean, variance = _moments(inner, weight.dtype)
        else:
            variance, mean = torch.var_mean(inner[0].to(weight.dtype), (1, 2), correction=0)
        normalized.append(F.batch_norm(one, mean, variance, weight, bias, eps=EPSILON))
    return normalized[0] if len(normalized) == 1 else torch.cat(normalized)


def _moments(maps: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of one image, from those of its strips ([C83])."""
    _, c, h, _ = maps.shape
    unused, too = maps.new_zeros(2, c, dtype=dtype)  # their dtype becomes that of the result
    heights, each = [], []
    for strip in strips(maps):
        heights.append(strip.shape[2])
        each.append(torch.batch_norm_update_stats(strip, unused, too, 0.0))
    means, variances = (torch.stack(parts).double() for parts in zip(*each, strict=True))
    shares = torch.tensor(heights, dtype=torch.float64).unsqueeze(1) / h
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean.to(dtype), variance.to(dtype)


def strips(maps: Float[Tensor, "1 c h w"]) -> Iterator[Float[Tensor, "1 c _ w"]]:
    """Rows of maps, of so few positions that float32 adds them up; the next takes a strip's place.

    Where maps are a part of larger ones they are copied, as kernels are slow at those.
    """
    each = torch.split(maps, max(1, STRIP_POSITIONS // maps.shape[3]), 2)
    if maps.is_contiguous(memory_format=torch.channels_last):
        yield from each
        return
    room = torch.empty_like(each[0], memory_format=torch.channels_last)
    for strip in each:
        yield room[:, :, : strip.shape[2]].copy_(strip)


def _strided(inputs: int, outputs: int) -> nn.Module:
    return Reflected(inputs, outputs, 3, stride=2)


def _pooled(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(Reflected(inputs, outputs, 3), nn.MaxPool2d(2))


def _bilinear(inputs: int, outputs: int) -> nn.Module:
    return FoldedUpsampling(inputs, outputs, BILINEAR)


def _nearest(inputs: int, outputs: int) -> nn.Module:
    return FoldedUpsampling(inputs, outputs, NEAREST)


def _transposed(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


# --- on a GPU -------------------------------------------------------------------------------------


@runtime_checkable
class Bordered(Protocol):
    """A layer that wants its maps padded by ``around``, with what ``border`` says."""

    around: int
    border: str

    def within(self, padded: Tensor, /) -> Tensor: ...


@dataclass
class _Section:
    """What is done to maps until they are padded for the next convolution."""

    convolution: list[nn.Module] = field(default_factory=list)  # and pooling, which belongs to it
    norm: InstanceNorm | None = None  # the last section has none
    relu: bool = False
    opens: bool = False  # a residual block
    closes: bool = False

    @property
    def padding(self) -> tuple[int, str]:
        """By how much it wants its maps padded, and with what."""
        bordered = (layer for layer in self.convolution if isinstance(layer, Bordered))
        return next(((layer.around, layer.border) for layer in bordered), (0, "reflect"))

    def within(self, maps: Tensor) -> Tensor:
        """Convolve maps that are padded already."""
        is_padded = True
        for layer in self.convolution:
            if is_padded and isinstance(layer, Bordered):
                maps, is_padded = layer.within(maps), False
            else:
                maps = layer(maps)
        return maps


def _at_once(sections: Sequence[_Section], photos: Tensor, region: Region | None) -> Tensor:
    around, border = sections[0].padding
    maps = F.pad(photos, [around] * 4, mode=border)
    opened = maps, around  # what the last residual block began with
    for section, following in zip_longest(sections, sections[1:], fillvalue=_Section()):
        if section.opens:
            opened = maps, around
        maps, norm = section.within(maps), section.norm
        if norm is not None:
            added, added_around = opened if section.closes else (None, 0)
            around, border = following.padding
            finish = Finish(section.relu, around, border, added_around)
            box = region.box_in(maps) if region else None
            maps = fused.finished(maps, norm.weight, norm.bias, finish, added, box)
    return maps


def _computed_in(layers: nn.Module, device: torch.device) -> torch.dtype:
    """The dtype of the maps between them, which may not be that of what comes in."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return next((weight.dtype for weight in layers.parameters()), torch.float32)


def _sections(layers: Iterable[nn.Module]) -> Iterator[_Section]:
    section, is_normal = _Section(), False
    for layer in layers:
        match layer:
            case InstanceNorm():
                section.norm, is_normal = layer, True
            case nn.ReLU() if is_normal:
                section.relu = True
            case Residual():
                if section.convolution:
                    yield section
                block = list(_sections(layer.layers))
                block[0].opens = block[-1].closes = True
                yield from block
                section, is_normal = _Section(), False
            case _:
                if is_normal:
                    yield section
                    section, is_normal = _Section(), False
                section.convolution += layer if isinstance(layer, nn.Sequential) else [layer]
    if section.convolution:
        yield section
