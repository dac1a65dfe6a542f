"""Perceptual losses: how far a stylized picture is from its photograph and from the style.

Both terms are free of scale: multiplying any layer's features by a constant changes neither. That
is what lets content weight 1 and style weight 12 mean the same for every style, size and VGG.

Letters in shapes: ``b`` images in the batch, ``c`` channels, ``h`` x ``w`` positions.

References:
    [J16] Johnson, Alahi, Fei-Fei. Perceptual Losses for Real-Time Style Transfer and
          Super-Resolution. 2016. https://arxiv.org/abs/1603.08155
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Image = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]
Maps = Float[Tensor, "b c h w"]
PerImage = Float[Tensor, "b"]


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


@dataclass(frozen=True)
class Terms:
    """The terms of a batch, weighted, per image."""

    content: PerImage
    style: PerImage
    variation: PerImage

    @property
    def total(self) -> PerImage:
        return self.content + self.style + self.variation


def gram_matrix(maps: Maps) -> Float[Tensor, "b c c"]:
    """Correlate every channel with every other, averaged over ``c * h * w`` ([J16] 3.2)."""
    result: Tensor = _Gram.apply(maps)
    return result


class _Gram(torch.autograd.Function):
    """F F^T in float32, whose backward uses its symmetry: one product where autograd makes two."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        rows = _rows(maps)
        # Half-precision features are multiplied as they are, and summed in float32 inside.
        gram = rows.transpose(1, 2) @ rows
        return gram.to(_wide(maps)) / maps[0].numel()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        (grad,) = grads
        symmetric = (grad + grad.transpose(1, 2)) / maps[0].numel()
        to_rows = _rows(maps) @ symmetric.to(maps.dtype)
        b, c, h, w = maps.shape
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


def style_loss(gram: Float[Tensor, "b c c"], target: Float[Tensor, "1 c c"]) -> PerImage:
    """Squared Frobenius distance of two Gram matrices, relative to the target's squared norm.

    This differs from [J16] (3.2), who do not divide.
    """
    return (gram - target).square().sum((1, 2)) / target.square().sum()


def total_variation(image: Float[Tensor, "b c h w"]) -> PerImage:
    """Mean squared difference between neighbouring pixels, down and across ([J16] 3.2)."""
    down = image[..., 1:, :] - image[..., :-1, :]
    across = image[..., :, 1:] - image[..., :, :-1]
    return down.square().mean((1, 2, 3)) + across.square().mean((1, 2, 3))


class PerceptualLoss(nn.Module):
    """Scores stylized pictures against their photographs and one fixed style.

    The style's targets are computed once, here, so that a loss that exists is ready to use.

    Args:
        extract: the frozen network that looks at the pictures.
        style: the painting, (1, 3, h, w).
        content_layer: where stylized and photograph must agree.
        style_layers: where the Gram matrices must agree, and how much each layer counts.
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
        self.register_buffer("scale", maps[content_layer].float().square().mean())
        for layer in style_layers:
            self.register_buffer(f"gram_{layer}", gram_matrix(maps[layer]))

    def forward(self, stylized: Image, photos: Image) -> Terms:
        """The weighted terms of each stylized picture; gradients reach ``stylized`` only."""
        maps = self.extract(stylized, {self.content_layer, *self.style_layers})
        with torch.no_grad():  # the photographs need no graph, and nothing below their layer
            target = self.extract(photos, {self.content_layer})[self.content_layer]
        scale: Tensor = self.get_buffer("scale")
        style = [
            weight * style_loss(gram_matrix(maps[layer]), self.get_buffer(f"gram_{layer}"))
            for layer, weight in self.style_layers.items()
        ]
        variation = self._variation(stylized)
        return Terms(
            content=self.weights.content * content_loss(maps[self.content_layer], target, scale),
            style=self.weights.style * torch.stack(style).sum(0),
            variation=variation,
        )

    def by_layer(self, stylized: Image, photos: Image) -> dict[str, PerImage]:
        """Each layer's own distance, before any weight: ``content_relu3_1``, ``style_relu1_1``."""
        maps = self.extract(stylized, {self.content_layer, *self.style_layers})
        target = self.extract(photos, {self.content_layer})[self.content_layer]
        content = content_loss(maps[self.content_layer], target, self.get_buffer("scale"))
        return {f"content_{self.content_layer}": content} | {
            f"style_{layer}": style_loss(gram_matrix(maps[layer]), self.get_buffer(f"gram_{layer}"))
            for layer in self.style_layers
        }

    def _variation(self, stylized: Image) -> PerImage:
        if self.weights.variation == 0:
            return stylized.new_zeros(len(stylized))
        return self.weights.variation * total_variation(stylized)
