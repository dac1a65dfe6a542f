"""Less flicker: what was painted once stays, as long as it can be followed through the clip.

A network paints every frame anew, and noise that nobody sees in the photographs makes it put other
strokes. Here the frame before, as it was shown, is brought to where its things are now, and the new
one is blended into it, wherever the photographs say that it is the same thing still. Where they
differ, after a cut, behind what moved away, where something comes into the picture, the frame is
shown as it was painted. So there is nothing to lag behind.

This differs from [R18], who train the network for it: any style will do as it is. Smoothing or
locking the statistics of the instance norms, which would be cheaper still, was tried and gains
nothing: a warping error of 24.3 grey levels without it, 24.3 and 24.4 with it.

Letters in shapes: ``h`` x ``w`` positions.

References:
    [R18] Ruder, Dosovitskiy, Brox. Artistic Style Transfer for Videos and Spherical Images. 2018.
          https://arxiv.org/abs/1708.04538
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fnst import flow
from fnst.stylize import from_floats, to_floats

Pixels = UInt8[Tensor, "1 3 h w"]  # sRGB, 0..255
Image = Float[Tensor, "1 3 h w"]  # sRGB in [0, 1]
Share = Float[Tensor, "1 1 h w"]  # from 0 to 1

# All chosen by us, on the clip that `python -m benchmarks video` measures, by looking at it too.
KEPT = 0.85  # of the frame before, where it is trusted wholly
NOISE = 5 / 255  # by so much the same thing may differ between two frames everywhere,
TEXTURE = 0.1  # and by this share of the variance around it where there is texture
BLOCK = 32  # pixels a side: what grows lighter or darker over so many at once
SHADE = 8  # counts so many times, because the painting would lag behind it
AROUND = 7  # pixels a side of the window that is compared
SAME_SCENE = 0.3  # of the frame is trusted at least, or this is a cut
FOLLOWED = 540  # motion is sought in frames of about so many pixels on the short side, for speed

LUMA = (0.2126, 0.7152, 0.0722)  # ITU-R BT.709


@dataclass(frozen=True)
class Shown:
    """A frame as it was photographed, and as it was shown."""

    photo: Pixels
    painted: Pixels

    def on(self, device: torch.device) -> "Shown":
        """The same on that device."""
        return Shown(self.photo.to(device), self.painted.to(device))


@torch.inference_mode()
def steadied(last: Shown, photo: Pixels, painted: Pixels) -> Pixels:
    """The painted frame, continuing the last one where that can be followed."""
    before, after = to_floats(last.photo), to_floats(photo)
    along = motion(before, after)
    share = trust(before, after, along)
    if share.mean() < SAME_SCENE:
        return painted
    # Bilinear interpolation, frame after frame, would halve the sharpness.
    carried = flow.carry(to_floats(last.painted), along, mode="bicubic")
    blended = torch.lerp(to_floats(painted), carried, KEPT * share).clamp_(0, 1)
    return from_floats(blended, painted.dtype)


def motion(before: Image, after: Image) -> flow.Motion:
    """For each pixel of ``after``: how far from there, in ``before``, is what it shows."""
    _, _, h, w = after.shape
    scale = max(1, round(min(h, w) / FOLLOWED))
    found = flow.motion(_gray(before, scale), _gray(after, scale))
    return flow.resize(found, h, w)


def trust(before: Image, after: Image, along: flow.Motion) -> Share:
    """How far ``after`` shows what ``before`` did: 1 where it does, 0 where it does not."""
    change = flow.carry(before, along) - after
    off = flow.window(change.square(), AROUND) + SHADE * _broadly(change).square()
    mean = flow.window(after, AROUND)
    variance = (flow.window(after.square(), AROUND) - mean.square()).mean(1, keepdim=True)
    allowed = NOISE**2 + TEXTURE * variance.clamp_(min=0)
    return (1.5 - off.mean(1, keepdim=True) / allowed).clamp_(0, 1) * flow.inside(along)


def _broadly(change: Image) -> Image:
    """The change without what is smaller than a block: a shade that is cast, a fade."""
    _, _, h, w = change.shape
    blocks = F.adaptive_avg_pool2d(change, (-(-h // BLOCK), -(-w // BLOCK)))
    return F.interpolate(blocks, (h, w), mode="bilinear")


def _gray(image: Image, scale: int) -> flow.Smaller:
    gray = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if scale == 1:
        return gray
    _, _, h, w = gray.shape
    return F.interpolate(gray, (h // scale, w // scale), mode="bilinear", antialias=True)
