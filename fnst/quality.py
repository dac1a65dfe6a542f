"""What is wrong with a stylized picture, and what it kept: numbers that need no eye.

Artefacts (grid, border, clipped, flat) are told from the picture alone; structure and texture are
compared with the photograph and with the painting. Pictures are sRGB in [0, 1], (1, 3, h, w).

Letters in shapes: ``c`` channels, ``h`` x ``w`` positions, ``k`` frequencies.

References:
    [O16] Odena, Dumoulin, Olah. Deconvolution and Checkerboard Artifacts. Distill, 2016.
    [W04] Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to
          Structural Similarity. 2004.
    [Z18] Zhang, Isola, Efros, Shechtman, Wang. The Unreasonable Effectiveness of Deep Features as a
          Perceptual Metric. 2018. https://arxiv.org/abs/1801.03924
    [H17] Heusel et al. GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
          Equilibrium. 2017. https://arxiv.org/abs/1706.08500
    [S19] Shaham, Dekel, Michaeli. SinGAN. 2019. https://arxiv.org/abs/1905.01164
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Image = Float[Tensor, "1 3 h w"]  # sRGB in [0, 1]
Maps = Float[Tensor, "1 c h w"]

# Weights of red, green and blue in luma: ITU-R BT.601, as [W04]'s own grey pictures are made.
LUMA = (0.299, 0.587, 0.114)

# A network that halves twice can leave a grid of these periods, in pixels, and of no others.
PERIODS = (2, 4)

# The neighbourhood of a peak, as shares of the spectrum's length: from beyond the window's own
# width to an eighth of an octave around; chosen by us.
NEAR, FAR = 1 / 64, 1 / 16

# The outer pixels in which a border shows, and how far the photograph is extended to tell it. What
# paints extends it further, so that these pixels then lie far inside of all that a network sees.
# More would change the statistics that the network normalizes by, and hide the error. Chosen by us.
OUTER, EXTENSION = 16, 32

# A difference that nobody sees, a hundredth of a grey level: keeps 0 / 0 at 1.
UNSEEN = 0.01 / 255

# An area is flat where no channel of a square of this side varies by more than two levels; chosen
# by us.
TILE, LEVELS = 8, 2 / 255

# The layers of [Z18]; VGG16 and VGG19 both have them.
PERCEPTUAL = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")

# Where texture is compared: just before the second pooling, as in [S19].
TEXTURE = "relu2_2"


# --- artefacts ------------------------------------------------------------------------------------


def grid(image: Image) -> float:
    """How far a grid of period 2 or 4 sticks out of the spectrum; about 1 where there is none.

    The largest of four ratios: along rows and along columns, the power of luma at that period over
    the median power of its neighbourhood. Strided and transposed convolutions leave such peaks
    ([O16]).
    """
    plane = luma(image)[0, 0]
    return max(_peak(lines, period) for lines in (plane, plane.T) for period in PERIODS)


def luma(image: Image) -> Float[Tensor, "1 1 h w"]:
    """The grey picture that carries the structure, in [0, 1]."""
    weights = torch.tensor(LUMA, device=image.device).view(1, 3, 1, 1)
    grey: Tensor = (image * weights).sum(1, keepdim=True)
    return grey


def _peak(lines: Float[Tensor, "h w"], period: int) -> float:
    power = _spectrum(lines)
    size = 2 * (len(power) - 1)
    peak = size // period
    near, far = max(2, round(size * NEAR)), max(4, round(size * FAR))
    around = torch.cat((power[peak - far : peak - near], power[peak + near + 1 : peak + far + 1]))
    return (power[peak] / around.median()).item()


def _spectrum(lines: Float[Tensor, "h w"]) -> Float[Tensor, " k"]:
    """The mean power of the lines, cut to a multiple of 4, so that both periods have a bin.

    On top comes what rounding to 8 bits adds to every frequency, so that nothing sticks out of a
    picture that is all one colour.
    """
    even = lines[:, : lines.shape[1] // 4 * 4].cpu().double()
    # Without a window, the jump from one end to the other would cover the neighbourhood.
    window = torch.hann_window(even.shape[1], dtype=even.dtype)
    waves: Tensor = torch.fft.rfft((even - even.mean(1, keepdim=True)) * window)
    rounding = window.square().sum() / (12 * 255**2)
    return waves.abs().square().mean(0) + rounding


def border(paint: Callable[[Image], Image], photo: Image, stylized: Image) -> float:
    """How much more the outer 16 pixels are in error than the rest; 1 where no border shows.

    What the picture would be there is told by painting the photograph once more, extended by its
    own reflection. Both differ everywhere a little, as the extension changes the statistics that
    the network normalizes by.
    """
    extent = min(EXTENSION, (min(photo.shape[2:]) - 1) // 4 * 4)  # the network halves twice
    wide = paint(F.pad(photo, [extent] * 4, mode="reflect"))
    _, _, h, w = photo.shape
    error = (wide[..., extent : extent + h, extent : extent + w] - stylized).abs().mean(1)[0]
    inner = torch.zeros_like(error, dtype=torch.bool)
    inner[OUTER:-OUTER, OUTER:-OUTER] = True
    return ((error[~inner].mean() + UNSEEN) / (error[inner].mean() + UNSEEN)).item()


def clipped(image: Image) -> float:
    """The share of pixels in which no channel has anything left: each is 0 or 255 when written."""
    levels = image.mul(255).round()
    return ((levels <= 0) | (levels >= 255)).all(1).float().mean().item()


def flat(image: Image) -> float:
    """The share of the area, in squares of 8 pixels, in which nothing happens in any channel."""
    highest = F.max_pool2d(image, TILE)
    lowest = -F.max_pool2d(-image, TILE)
    return (highest - lowest <= LEVELS).all(1).float().mean().item()


# --- structure ------------------------------------------------------------------------------------


def ssim(image: Image, photo: Image) -> float:
    """Structural similarity of luma ([W04], eq. 13): 1 for the same picture, 0 for nothing alike.

    Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, as there.
    """
    x, y = luma(image), luma(photo)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    alike = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    at_most = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (alike / at_most).mean().item()


def _blur(plane: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 _ _"]:
    offsets = torch.arange(-5, 6, device=plane.device, dtype=plane.dtype)
    weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(plane, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))


def perceptual(maps: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> float:
    """Distance of two pictures' features ([Z18], eq. 1), the mean over their layers.

    Features have unit length at each position, so that it lies between 0 and 2. This differs from
    [Z18]: channels count alike, where theirs are weighted to agree with people, and layers are
    averaged, where theirs are added up.
    """
    each = [
        (F.normalize(maps[layer]) - F.normalize(target[layer])).square().sum(1).mean()
        for layer in PERCEPTUAL
    ]
    return torch.stack(each).mean().item()


# --- texture --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texture:
    """How the features of one picture are distributed over its positions, as a Gaussian."""

    mean: Float[Tensor, " c"]
    covariance: Float[Tensor, "c c"]

    @staticmethod
    def of(maps: Maps) -> "Texture":
        """The distribution of these features, in double precision on the CPU."""
        rows = maps[0].flatten(1).cpu().double()
        return Texture(rows.mean(1), torch.cov(rows, correction=0))

    @property
    def energy(self) -> float:
        """The mean squared length of its features."""
        return float(self.mean.square().sum() + self.covariance.trace())


def texture_distance(texture: Texture, target: Texture) -> float:
    """Frechet distance of two pictures' features ([S19]'s single-image FID; [H17], eq. 6).

    Zero for the same distribution. This differs from [S19]: the features are those of the loss
    network, and the distance is in units of the target's energy, so that a black picture's is 1.
    Of a picture that is no numbers, it is none either.
    """
    if not texture.covariance.isfinite().all():
        return math.nan
    root = _root(target.covariance)
    mixed = torch.linalg.eigvalsh(root @ texture.covariance @ root).clamp_min(0).sqrt().sum()
    spread = texture.covariance.trace() + target.covariance.trace() - 2 * mixed
    moved = (texture.mean - target.mean).square().sum()
    return max(0.0, float(moved + spread)) / target.energy


def _root(matrix: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
