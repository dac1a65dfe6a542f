"""Picture in, picture out, the same size: a trained network applied to pictures of any size.

References:
    [J16] Johnson, Alahi, Fei-Fei. Perceptual Losses for Real-Time Style Transfer and
          Super-Resolution. 2016. https://arxiv.org/abs/1603.08155, and its supplement
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from fnst.network import STRIDE, Region, TransformerNetwork

# sRGB: in [0, 1], or 0..255, which is a quarter of the memory.
Image = Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]

# One picture in, the same size and dtype out.
Paint = Callable[[Image], Image]

# A picture is continued beyond its edges by so many pixels of its own reflection, which are cut off
# afterwards; [J16]'s supplement does so by 40. What a network draws near an edge comes from the
# padding of its convolutions, layer after layer: a dark line in calm borders. Chosen by us, as a
# multiple of 4: outer pixels differ from those of a larger picture 3.5 times as much as inner ones
# without it, up to 1.7 times with 16, as much as inner ones with 32, and hardly less with 48.
MARGIN = 32


@torch.inference_mode()
def stylize(network: TransformerNetwork, image: Image) -> Image:
    """Stylize pictures of any size, 1x1 included, in float32 on the network's own device.

    The result has the picture's dtype and is where the picture is.
    """
    _, _, h, w = image.shape
    device = next(network.parameters()).device
    extended = to_floats(extend(image.to(device))).contiguous(memory_format=torch.channels_last)
    stylized: Tensor = network(extended, region(h, w))
    middle = stylized[..., MARGIN : MARGIN + h, MARGIN : MARGIN + w]
    return from_floats(middle, image.dtype).to(image.device)


def extend(image: Image) -> Float[Tensor, "b 3 _ _"] | UInt8[Tensor, "b 3 _ _"]:
    """Reflect a picture beyond its edges, to sides that are multiples of 4."""
    rows, columns = (beyond(side).to(image.device) for side in image.shape[2:])
    return image.index_select(2, rows).index_select(3, columns)


def beyond(side: int) -> Int64[Tensor, " extended"]:
    """Of every place along an extended side, the place of the picture that is seen there."""
    period = max(1, 2 * (side - 1))  # to and fro between the first and the last
    there = torch.arange(-MARGIN, reach(side) - MARGIN) % period
    return torch.minimum(there, period - there).clamp(max=side - 1)


def region(h: int, w: int) -> Region:
    """Where a picture lies in what a network sees: norms take the statistics of the picture alone.

    Reflections have others, as borders are calmer than what they surround; and no training has
    any. What is smaller than the margin is reflected as a whole: there, all of it counts, because
    of the picture alone deep maps have few positions.
    """
    if min(h, w) < MARGIN:
        return Region(0, reach(h), reach(w), reach(h))
    return Region(MARGIN, h, w, reach(h))


def reach(side: int) -> int:
    """The side that a picture is extended to before a network sees it."""
    return -(-(side + 2 * MARGIN) // STRIDE) * STRIDE


def to_floats(image: Image) -> Float[Tensor, "b 3 h w"]:
    """The picture in [0, 1]."""
    return image if image.is_floating_point() else image.float().div_(255)


def from_floats(image: Float[Tensor, "b 3 h w"], dtype: torch.dtype) -> Image:
    """The picture in the dtype of another: the nearest of 256 levels where it is uint8."""
    return image.to(dtype) if dtype.is_floating_point else image.mul(255).round_().to(dtype)
