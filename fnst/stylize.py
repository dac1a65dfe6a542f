"""Picture in, picture out, the same size: a trained network applied to pictures of any size."""

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fnst.errors import DeviceError
from fnst.network import STRIDE, TransformerNetwork

# sRGB: in [0, 1], or 0..255, which is a quarter of the memory.
Image = Float[Tensor, "b 3 h w"] | UInt8[Tensor, "b 3 h w"]

# One picture in, the same size and dtype out.
Paint = Callable[[Image], Image]

# The smallest side that survives two halvings with room for the 9x9 convolution's reflection.
LEAST_SIDE = 16


@torch.inference_mode()
def stylize(network: TransformerNetwork, image: Image) -> Image:
    """Stylize pictures of any size, 1x1 included, in float32 on the network's own device.

    Sides that are no multiple of 4 are extended by their own edge and cut back afterwards. The
    result has the picture's dtype and is where the picture is.
    """
    _, _, h, w = image.shape
    device = next(network.parameters()).device
    padded = extend(to_floats(image.to(device)), reach(h) - h, reach(w) - w)
    stylized: Tensor = network(padded.contiguous(memory_format=torch.channels_last))
    return from_floats(stylized[..., :h, :w], image.dtype).to(image.device)


def reach(side: int) -> int:
    """The side that a picture is extended to before a network sees it."""
    return max(LEAST_SIDE, -(-side // STRIDE) * STRIDE)


def extend(image: Float[Tensor, "b 3 h w"], down: int, across: int) -> Float[Tensor, "b 3 _ _"]:
    """Repeat the last row and the last column so many times."""
    return F.pad(image, (0, across, 0, down), mode="replicate") if down or across else image


def to_floats(image: Image) -> Float[Tensor, "b 3 h w"]:
    """The picture in [0, 1]."""
    return image if image.is_floating_point() else image.float().div_(255)


def from_floats(image: Float[Tensor, "b 3 h w"], dtype: torch.dtype) -> Image:
    """The picture in the dtype of another: the nearest of 256 levels where it is uint8."""
    return image.to(dtype) if dtype.is_floating_point else image.mul(255).round_().to(dtype)


def device(name: str = "auto") -> torch.device:
    """The device of that name; ``auto`` is the best one here.

    Raises:
        DeviceError: when it is not in this machine, or no such device exists.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"expected a device such as cpu, cuda or mps, got {name!r}.") from error
    if chosen.type != "cpu" and not _present(chosen):
        raise DeviceError(f"there is no {name} in this machine; use --device cpu.")
    return chosen


def _present(chosen: torch.device) -> bool:
    found = torch.accelerator.current_accelerator(check_available=True)
    index = chosen.index or 0
    return (
        found is not None and found.type == chosen.type and index < torch.accelerator.device_count()
    )


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; without them it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )
