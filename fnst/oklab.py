"""sRGB as people see it: lightness, and two axes of colour, in which distances look alike.

Mixing two colours in OkLab gives neither the grey nor the darkness that mixing their sRGB levels
gives, and replacing the lightness leaves the hue.

References:
    [O20] Ottosson. A perceptual color space for image processing. 2020.
          https://bottosson.github.io/posts/oklab/
    [O21] Ottosson. sRGB gamut clipping. 2021. https://bottosson.github.io/posts/gamutclipping/
    [IEC] IEC 61966-2-1. Default RGB colour space: sRGB. 1999.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Rgb = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]
Lab = Float[Tensor, "b 3 h w"]  # lightness in [0, 1], green to red, blue to yellow
Matrix = Float[Tensor, "3 3"]

# [O20], from linear sRGB to the cones' responses, and from their cube roots to OkLab.
TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
FROM_CONES, FROM_LAB = torch.linalg.inv(TO_CONES), torch.linalg.inv(TO_LAB)

# Halvings of the search for the most colour that a screen can show: to 1/1000 of it, chosen by us.
HALVINGS = 10

# Linear light this far outside is rounding; chosen by us: a tenth of the darkest grey of 8 bits.
ROUNDING = 3e-5


def to_oklab(image: Rgb) -> Lab:
    """OkLab of a picture."""
    return _apply(TO_LAB, _apply(TO_CONES, _linear(image)).clamp_(min=0).pow_(1 / 3))


def to_srgb(lab: Lab) -> Rgb:
    """The picture; what no screen shows gets paler, its lightness and its hue stay ([O21]).

    Cutting off each of red, green and blue by itself would turn a dark yellow into green.
    """
    lab = torch.cat((lab[:, :1].clamp(0, 1), lab[:, 1:]), 1)
    light = _light(lab)
    outside = ~_is_shown(light)
    if outside.any():
        rows = light.permute(0, 2, 3, 1)  # a view, so that what is put into it is in the light
        rows[outside] = _paler(lab.permute(0, 2, 3, 1)[outside])
    return _encoded(light.clamp_(0, 1))


def _paler(colours: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Linear light of colours that are outside, with as much of their colour as there can be."""
    lab = colours.T[None, :, None]  # a picture of one row
    some, too_much = torch.zeros_like(lab[:, :1]), torch.ones_like(lab[:, :1])
    for _ in range(HALVINGS):
        middle = (some + too_much) / 2
        is_shown = _is_shown(_light(_with_colour(lab, middle)))[:, None]
        some, too_much = some.where(~is_shown, middle), too_much.where(is_shown, middle)
    return _light(_with_colour(lab, some))[0, :, 0].T


def _with_colour(lab: Lab, share: Float[Tensor, "b 1 h w"]) -> Lab:
    return torch.cat((lab[:, :1], lab[:, 1:] * share), 1)


def _light(lab: Lab) -> Float[Tensor, "b 3 h w"]:
    return _apply(FROM_CONES, _apply(FROM_LAB, lab).pow_(3))


def _is_shown(light: Float[Tensor, "b 3 h w"]) -> Bool[Tensor, "b h w"]:
    return (light >= -ROUNDING).all(1) & (light <= 1 + ROUNDING).all(1)


def _apply(matrix: Matrix, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    return F.conv2d(image, matrix.to(image)[:, :, None, None])


def _linear(image: Rgb) -> Float[Tensor, "b 3 h w"]:
    """Light for levels of sRGB ([IEC])."""
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055).pow_(2.4))


def _encoded(light: Float[Tensor, "b 3 h w"]) -> Rgb:
    """Levels of sRGB for light ([IEC])."""
    dark = light * 12.92
    return torch.where(light <= 0.0031308, dark, light.pow(1 / 2.4).mul_(1.055).sub_(0.055))
