"""Perceptual losses: how far a stylized picture is from its photograph and from the style.

Both terms are free of scale: multiplying any layer's features by a constant changes neither. That
is what lets content weight 1 and style weight 12 mean the same for every style and size.

Letters in shapes: ``b`` images in the batch, ``c`` channels, ``h`` x ``w`` positions.

References:
    [J16] Johnson, Alahi, Fei-Fei. Perceptual Losses for Real-Time Style Transfer and
          Super-Resolution. 2016. https://arxiv.org/abs/1603.08155
    [M19] Mroueh. Wasserstein Style Transfer. 2019. https://arxiv.org/abs/1905.12828
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Image = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]
Maps = Float[Tensor, "b c h w"]
PerImage = Float[Tensor, "b"]

# A painting that varies less than this, relative to the square of its means, is taken for flat;
# chosen by us: eleven paintings and the built-in style have 0.2 to 1.7.
FLAT = 1e-3

# A network that halves twice repeats itself every so many pixels, and so can what is wrong with it.
PERIOD = 4


@runtime_checkable
class Extractor(Protocol):
    """Answers with the activations of the named layers; ``features.VGG`` is one."""

    def __call__(self, image: Image, layers: Iterable[str], /) -> Mapping[str, Maps]: ...


@dataclass(frozen=True)
class Weights:
    """How much each term counts in the total; the defaults are the original project's."""

    content: float = 1.0
    style: float = 12.0
    variation: float = 0.0
    grid: float = 0.0


@dataclass(frozen=True)
class Terms:
    """The terms of a batch, weighted, per image."""

    content: PerImage
    style: PerImage
    variation: PerImage
    grid: PerImage

    @property
    def total(self) -> PerImage:
        return self.content + self.style + self.variation + self.grid


class Moments(NamedTuple):
    """What is left of a layer when it is forgotten where things are.

    Attributes:
        mean: of each channel over all positions.
        covariance: of every channel with every other; the Gram matrix of the centred maps.
    """

    mean: Float[Tensor, "b c"]
    covariance: Float[Tensor, "b c c"]


def moments(maps: Maps) -> Moments:
    """Mean and covariance of the channels over the positions, in float32 or wider."""
    return Moments(*_Moments.apply(maps))


class _Moments(torch.autograd.Function):
    """Both in one pass back, which uses the covariance's symmetry: one product, not two."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        rows = _rows(maps)
        mean = rows.mean(1, dtype=_wide(maps))
        # Centred before they are multiplied: afterwards the mean's square would take the digits.
        centred = rows - mean.to(maps.dtype).unsqueeze(1)
        ctx.save_for_backward(centred)
        ctx.shape = maps.shape
        # Half-precision features are multiplied as they are and summed in float32; only the sums
        # are rounded.
        covariance = (centred.transpose(1, 2) @ centred).to(mean.dtype) / rows.shape[1]
        return mean, covariance

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (centred,) = ctx.saved_tensors
        to_mean, to_covariance = grads
        b, c, h, w = ctx.shape
        symmetric = (to_covariance + to_covariance.transpose(1, 2)) / (h * w)
        to_rows = torch.baddbmm(
            (to_mean / (h * w)).to(centred.dtype).unsqueeze(1),
            centred,
            symmetric.to(centred.dtype),
        )
        to_maps: Tensor = to_rows.view(b, h, w, c).permute(0, 3, 1, 2)
        return to_maps


def _rows(maps: Tensor) -> Tensor:
    """Positions by channels, (b, h*w, c): a view where the memory is channels_last."""
    return maps.permute(0, 2, 3, 1).flatten(1, 2)


def _wide(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


def content_loss(maps: Maps, target: Maps, scale: Float[Tensor, ""]) -> PerImage:
    """Mean squared difference of features, in units of ``scale``, the style's mean square.

    This differs from [J16] (3.2), who leave it in the features' own units. Dividing by the
    photograph's energy instead would make the weight vary eightfold between photographs.
    """
    result: Tensor = _MeanSquare.apply(maps, target)
    return result / scale


class _MeanSquare(torch.autograd.Function):
    """Mean squared difference in float32, with one pass back where autograd would make three."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, target: Tensor) -> Tensor:
        difference = maps.to(_wide(maps)) - target
        ctx.save_for_backward(difference)
        ctx.dtype = maps.dtype
        # not by a norm, which adds up in one long row and loses digits
        return difference.square().mean((1, 2, 3))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        factor = 2 * grads[0] / difference[0].numel()
        return (difference * factor.view(-1, 1, 1, 1)).to(ctx.dtype), None


def style_loss(found: Moments, target: Moments) -> PerImage:
    """Squared distances of the means and of the covariances, each relative to the target's own.

    This differs from [J16] (3.2), who compare Gram matrices of maps that are not centred. There the
    mean of each channel hides what varies: a network that met a painting's average colour and edges
    had little left to gain from its rare colours and its strokes (docs/recipe.md). Means and
    covariances are what the Wasserstein distance of two Gaussians compares [M19].
    """
    size = target.mean.square().sum()
    # of a painting without any texture the covariance is nothing to measure by
    spread = target.covariance.square().sum() + (FLAT * size).square()
    mean = (found.mean - target.mean).square().sum(1) / size
    return mean + (found.covariance - target.covariance).square().sum((1, 2)) / spread


def total_variation(image: Float[Tensor, "b c h w"]) -> PerImage:
    """Mean squared difference between neighbouring pixels, down and across ([J16] 3.2)."""
    down = image[..., 1:, :] - image[..., :-1, :]
    across = image[..., :, 1:] - image[..., :, :-1]
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))


def grid_loss(image: Float[Tensor, "b c h w"]) -> PerImage:
    """How unequal the pixels' means are by their place in squares of 4, in squared grey levels.

    Doubling the resolution twice makes sixteen kinds of pixels, each computed from its neighbours
    in its own way. Where one kind is brighter than another over the whole picture, a grid shows
    that no layer of the loss network minds. Nothing that moves with the photograph counts here, so
    nothing is blurred. Chosen by us; docs/recipe.md has what it does.
    """
    h, w = (side // PERIOD * PERIOD for side in image.shape[2:])
    kinds = F.pixel_unshuffle(255 * image[..., :h, :w], PERIOD)
    means = kinds.mean((2, 3)).view(len(image), -1, PERIOD**2)
    return means.var(2, correction=0).mean(1)


class PerceptualLoss(nn.Module):
    """Scores stylized pictures against their photographs and one fixed style.

    The style's targets are computed once, here, so that a loss that exists is ready to use.

    Args:
        extract: the frozen network that looks at the pictures.
        style: the painting, (1, 3, h, w).
        content_layer: where stylized and photograph must agree.
        style_layers: where the moments must agree, and how much each layer counts.
        weights: how much each term counts.
    """

    def __init__(
        self,
        extract: Extractor,
        style: Float[Tensor, "1 3 h w"],
        *,
        content_layer: str,
        style_layers: Mapping[str, float],
        weights: Weights,
    ) -> None:
        super().__init__()
        self.extract = extract
        self.content_layer = content_layer
        self.style_layers = dict(style_layers)
        self.weights = weights
        with torch.no_grad():
            maps = extract(style, {content_layer, *style_layers})
        content = maps[content_layer].to(_wide(maps[content_layer]))
        self.register_buffer("scale", content.square().mean())
        for layer in style_layers:
            target = moments(maps[layer])
            self.register_buffer(f"mean_{layer}", target.mean)
            self.register_buffer(f"covariance_{layer}", target.covariance)

    def forward(self, stylized: Image, photos: Image) -> Terms:
        """The weighted terms of each stylized picture; gradients reach ``stylized`` only."""
        terms, _ = self.explain(stylized, photos)
        return terms

    def explain(self, stylized: Image, photos: Image) -> tuple[Terms, dict[str, PerImage]]:
        """The terms, and what they are made of: each layer's own distance, before any weight.

        Those are named ``content_relu3_1``, ``style_relu1_1`` and so on.
        """
        content, styles = self._distances(stylized, photos)
        weighted = [weight * styles[layer] for layer, weight in self.style_layers.items()]
        terms = Terms(
            content=self.weights.content * content,
            style=self.weights.style * torch.stack(weighted).sum(0),
            variation=self._variation(stylized),
            grid=self._grid(stylized),
        )
        layers = {f"style_{layer}": distance for layer, distance in styles.items()}
        return terms, {f"content_{self.content_layer}": content, **layers}

    def _distances(self, stylized: Image, photos: Image) -> tuple[PerImage, dict[str, PerImage]]:
        maps = self.extract(stylized, {self.content_layer, *self.style_layers})
        with torch.no_grad():  # the photographs need no graph, and nothing below their layer
            target = self.extract(photos, {self.content_layer})[self.content_layer]
        content = content_loss(maps[self.content_layer], target, self.get_buffer("scale"))
        styles = {
            layer: style_loss(moments(maps[layer]), self._target(layer))
            for layer in self.style_layers
        }
        return content, styles

    def _target(self, layer: str) -> Moments:
        return Moments(self.get_buffer(f"mean_{layer}"), self.get_buffer(f"covariance_{layer}"))

    def _variation(self, stylized: Image) -> PerImage:
        if self.weights.variation == 0:
            return stylized.new_zeros(len(stylized))
        return self.weights.variation * total_variation(stylized)

    def _grid(self, stylized: Image) -> PerImage:
        if self.weights.grid == 0:
            return stylized.new_zeros(len(stylized))
        return self.weights.grid * grid_loss(stylized)
