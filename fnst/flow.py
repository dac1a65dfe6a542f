"""Where things came from: the motion between two frames of a clip, at every position.

Lucas and Kanade's method, densely and from coarse to fine: around each position, the shift is
sought that makes a window of one frame fit into the other best. Windows overlap, so that their sums
are box filters.

Letters in shapes: ``h`` x ``w`` positions; ``c`` channels.

References:
    [LK81] Lucas, Kanade. An Iterative Image Registration Technique with an Application to Stereo
           Vision. 1981.
    [B01]  Bouguet. Pyramidal Implementation of the Lucas Kanade Feature Tracker. Intel, 2001.
"""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Gray = Float[Tensor, "1 1 h w"]
Motion = Float[Tensor, "1 2 h w"]  # in pixels, x before y: what is here was there
Maps = Float[Tensor, "1 c h w"]
Smaller = Float[Tensor, "1 1 _ _"]

# All chosen by us, on the clip that `python -m benchmarks video` measures.
WINDOW = 7  # pixels a side
ROUNDS = 3  # refinements on every level
COARSEST = 16  # pixels that the short side of the coarsest level has at least
FLAT = 1e-5  # added to the squared gradients, so that nothing moves where there is nothing to see
LEAP = 2.0  # pixels that one refinement moves at most


def motion(before: Gray, after: Gray) -> Motion:
    """For each pixel of ``after``: how far from there, in ``before``, is what it shows."""
    levels = [(before, after)]
    while min(levels[-1][0].shape[2:]) >= 2 * COARSEST:
        levels.append((_half(levels[-1][0]), _half(levels[-1][1])))
    found = before.new_zeros(1, 2, 1, 1)
    for coarse_before, coarse_after in reversed(levels):
        h, w = coarse_after.shape[2:]
        found = _refine(resize(found, h, w), coarse_before, coarse_after)
    return found


def carry(maps: Maps, along: Motion, *, mode: str = "bilinear") -> Maps:
    """Bring what lies in ``before`` to where it is in ``after``; beyond the frame, its edge."""
    _, _, h, w = along.shape
    places = (along + _places(h, w, along.device)).permute(0, 2, 3, 1)
    # grid_sample counts from -1 to 1
    grid = places * places.new_tensor([2 / max(1, w - 1), 2 / max(1, h - 1)]) - 1
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=True)


def inside(along: Motion) -> Float[Tensor, "1 1 h w"]:
    """1 where things came from within the frame, 0 where they came from beyond its edge."""
    _, _, h, w = along.shape
    places = along + _places(h, w, along.device)
    x, y = places[:, :1], places[:, 1:]
    return ((x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)).to(along.dtype)


def resize(along: Float[Tensor, "1 2 _ _"], h: int, w: int) -> Float[Tensor, "1 2 _ _"]:
    """The same motion in frames of another size."""
    _, _, rows, columns = along.shape
    if (rows, columns) == (h, w):
        return along
    scale = along.new_tensor([w / columns, h / rows]).view(1, 2, 1, 1)
    return F.interpolate(along, (h, w), mode="bilinear") * scale


def window(maps: Maps, size: int) -> Maps:
    """The mean over the window around each position; the frame's edge goes on beyond it.

    A sum of shifted maps: on a CPU a seventh of the time that average pooling takes.
    """
    _, _, h, w = maps.shape
    wide = F.pad(maps, [size // 2] * 4, mode="replicate")
    down = sum((wide[:, :, i : i + h] for i in range(1, size)), wide[:, :, :h])
    return sum((down[..., i : i + w] for i in range(1, size)), down[..., :w]) / size**2


def _refine(found: Motion, before: Gray, after: Gray) -> Motion:
    """Newton steps towards the shift with the least squared difference ([LK81], [B01])."""
    before, after = before - window(before, 2 * WINDOW + 1), after - window(after, 2 * WINDOW + 1)
    slopes = _slopes(after)
    dx, dy = slopes[:, :1], slopes[:, 1:]
    xx, xy, yy = window(torch.cat((dx * dx, dx * dy, dy * dy), 1), WINDOW)[0, :, None, None]
    xx, yy = xx + FLAT, yy + FLAT
    scale = (xx * yy - xy * xy).reciprocal()
    for _ in range(ROUNDS):
        off = after - carry(before, found)
        bx, by = window(slopes * off, WINDOW)[0, :, None, None]
        step = torch.cat((yy * bx - xy * by, xx * by - xy * bx), 1) * scale
        found = window(found + step.clamp_(-LEAP, LEAP), 5)
    return found


def _slopes(image: Gray) -> Motion:
    """Central differences; x before y."""
    wide = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2
    down = (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2
    return torch.cat((across, down), 1)


def _half(image: Gray) -> Smaller:
    return F.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)


@lru_cache(maxsize=16)  # the levels of one clip's pyramid
def _places(h: int, w: int, device: torch.device) -> Motion:
    y, x = torch.meshgrid(
        torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij"
    )
    return torch.stack((x, y))[None].float()
