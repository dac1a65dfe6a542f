"""Pictures side by side: before and after, and one version beside another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from fnst import images
from fnst.images import Picture
from fnst.stylize import Image, Paint, to_floats

Floats = Float[Tensor, "1 3 _ _"]  # sRGB in [0, 1], of a size of its own

# The longest side of a picture on a sheet, in pixels; chosen by us: three of them can be looked at
# on a screen and sent by mail, whatever the photograph's size.
SIDE = 1600


def painter(paints: Mapping[str, Paint], *, before: bool) -> Callable[[Picture], Picture]:
    """What paints a photograph; on a sheet, where more than one picture is to be seen.

    Args:
        paints: what paints, by the name to write above its picture.
        before: whether the photograph itself stands in front of them.
    """
    if len(paints) == 1 and not before:
        (paint,) = paints.values()
        return partial(_repainted, paint)
    return partial(_side_by_side, dict(paints), before)


def _repainted(paint: Paint, photo: Picture) -> Picture:
    return replace(photo, rgb=paint(photo.rgb))


def _side_by_side(paints: Mapping[str, Paint], before: bool, photo: Picture) -> Picture:
    """A sheet of what each makes of the photograph, which all of them see in its full size."""
    painted = {name: _repainted(paint, photo) for name, paint in paints.items()}
    shown = {"photograph": photo, **painted} if before else painted
    return Picture(images.sheet([("", [_cell(each) for each in shown.values()])], list(shown)))


def _cell(picture: Picture) -> Floats:
    """A picture small enough, on the sheet's paper where it is transparent."""
    rgb = small(picture.rgb)
    if picture.alpha is None:
        return rgb
    paper = torch.tensor(images.PAPER).view(1, 3, 1, 1) / 255
    return paper.lerp(rgb, small(picture.alpha.expand(picture.rgb.shape)))


def small(image: Image) -> Floats:
    """A picture in [0, 1], no larger than it may be on a sheet."""
    h, w = image.shape[-2:]
    scale = min(1.0, SIDE / max(h, w))
    shape = max(1, round(h * scale)), max(1, round(w * scale))
    if shape == (h, w):
        return to_floats(image)
    resized = torch.nn.functional.interpolate(image, shape, mode="bicubic", antialias=True)
    return to_floats(resized).clamp(0, 1)
