"""The training step as the textbooks have it, in plain PyTorch: what ours is measured against.

Johnson et al.'s network and loss as pytorch/examples builds them: padding, convolution, nn's own
instance norm and up-sampling, each by itself; both pictures through VGG down to the deepest layer;
NCHW and float32 throughout. It computes the function that fnst computes, from the same weights, so
that the losses of both can be compared.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst.features import VGG
from fnst.losses import FLAT, Weights
from fnst.network import Region

Batch = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]
Maps = Float[Tensor, "b c h w"]


class UpsampledConvolution(nn.Conv2d):
    """Doubling by a filter of torch's interpolate, edges repeated, 3x3."""

    def __init__(self, inputs: int, outputs: int, mode: str) -> None:
        super().__init__(inputs, outputs, 3)
        self.mode = mode

    def forward(self, maps: Tensor) -> Tensor:
        doubled = F.interpolate(maps, scale_factor=2, mode=self.mode)
        padded = F.pad(doubled, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.weight, self.bias)


class Norm(nn.InstanceNorm2d):
    """nn's own, or where a region is set, by the statistics of that part."""

    region: Region | None = None

    def forward(self, maps: Maps) -> Maps:
        if self.region is None:
            return super().forward(maps)
        inner = self.region.box_in(maps).of(maps)
        variance, mean = torch.var_mean(inner, (2, 3), correction=0, keepdim=True)
        normal = (maps - mean) / (variance + self.eps).sqrt()
        return normal * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class Residual(nn.Module):
    """Two convolutions around which the input is carried."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalized(_convolution(channels, channels, 3)),
            *_normalized(_convolution(channels, channels, 3))[:2],
        )

    def forward(self, maps: Maps) -> Maps:
        """Add what the layers make of it."""
        result: Tensor = self.layers(maps) + maps
        return result


class Network(nn.Module):
    """The network of fnst's widths; its weights have the same names.

    Args:
        doubling: nearest, as in fnst's ``folded``, or bilinear.
    """

    def __init__(self, doubling: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalized(_convolution(3, 32, 9)),
            *_normalized(_convolution(32, 64, 3, stride=2)),
            *_normalized(_convolution(64, 128, 3, stride=2)),
            *(Residual(128) for _ in range(5)),
            *_normalized(UpsampledConvolution(128, 64, doubling)),
            *_normalized(UpsampledConvolution(64, 32, doubling)),
            _convolution(32, 3, 9),
        )

    def forward(self, photos: Batch, region: Region | None = None) -> Batch:
        """Stylize."""
        for layer in self.modules():
            if isinstance(layer, Norm):
                layer.region = region
        return torch.sigmoid(self.layers(photos))


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, padding_mode="reflect")


def _normalized(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, Norm(convolution.out_channels, affine=True), nn.ReLU()]


class Step:
    """A training step, with torch's Adam.

    Args:
        network: what learns.
        vgg: looks at the pictures.
        style: the painting, (1, 3, h, w).
        content_layer: where stylized and photograph must agree.
        style_layers: where means and covariances must agree, and how much each counts.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        network: Network,
        vgg: VGG,
        style: Batch,
        *,
        content_layer: str,
        style_layers: Mapping[str, float],
        learning_rate: float,
    ) -> None:
        self.network, self.vgg = network, vgg
        self.content_layer, self.style_layers = content_layer, style_layers
        self.wanted = [content_layer, *style_layers]
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        with torch.no_grad():
            maps = self._features(style)
            self.scale = maps[content_layer].square().mean()
            self.targets = {layer: _moments(maps[layer]) for layer in style_layers}

    def __call__(self, photos: Batch) -> Tensor:
        """Make one step; the content and the style loss before it, weighted."""
        self.optimizer.zero_grad()
        stylized = self.network(photos)
        ours, theirs = self._features(stylized), self._features(photos)
        weights = Weights()
        content = F.mse_loss(ours[self.content_layer], theirs[self.content_layer]) / self.scale
        distances = [
            weight * _distance(_moments(ours[layer]), self.targets[layer])
            for layer, weight in self.style_layers.items()
        ]
        style = torch.stack(distances).sum()
        losses = torch.stack([weights.content * content, weights.style * style])
        torch.autograd.backward(losses.sum())
        self.optimizer.step()
        return losses.detach()

    def _features(self, image: Batch) -> dict[str, Tensor]:
        """Activations of the layers, by plain convolutions with the VGG's weights."""
        maps, found = self.vgg.colours(image), {}
        weights = list(self.vgg.convolutions.parameters())
        for name, weight, bias in zip(self.vgg.names, weights[::2], weights[1::2], strict=True):
            if name.endswith("_1") and name != "1_1":
                maps = F.max_pool2d(maps, 2)
            maps = F.relu(F.conv2d(maps, weight, bias, padding=1))
            found[f"relu{name}"] = maps
            if name == "5_1":
                break
        return {layer: found[layer] for layer in self.wanted}


def _moments(maps: Maps) -> list[Tensor]:
    b, c, h, w = maps.shape
    flat = maps.view(b, c, h * w)
    mean = flat.mean(2, keepdim=True)
    centred = flat - mean
    return [mean, centred @ centred.transpose(1, 2) / (h * w)]


def _distance(found: list[Tensor], target: list[Tensor]) -> Tensor:
    (mean, covariance), (to_mean, to_covariance) = found, target
    size = to_mean.square().sum()
    spread = to_covariance.square().sum() + (FLAT * size).square()
    means = (mean - to_mean).square().sum((1, 2)).mean() / size
    return means + (covariance - to_covariance).square().sum((1, 2)).mean() / spread
