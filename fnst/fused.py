"""What follows a convolution, all at once: norm, ReLU, what is added, and the next one's padding.

On a GPU that Triton has a compiler for, ``kernels`` does it. That it works elsewhere proves
nothing: it is tried on small maps first, and where it does not compile, or computes something else
than PyTorch does, it is not used.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Maps = Float[Tensor, "b c _ _"]
PerChannel = Float[Tensor, " c"]

EPSILON = 1e-5  # added to the variance, as torch.nn.InstanceNorm2d does

# By so much results of about 1 may differ when the kernels are tried; chosen by us, some digits of
# what each dtype has.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}

# The kernels are tried on maps of this shape, and on what is added to them.
TRIED = (2, 64, 9, 12), (2, 64, 13, 16)


class Finish(NamedTuple):
    """What is done to maps after their norm.

    Attributes:
        relu: whether negative numbers become zero.
        around: by so many positions the maps are padded,
        border: with their reflection or their edge: ``reflect`` or ``replicate``.
        added_around: by so many positions the maps are padded that are added.
    """

    relu: bool
    around: int
    border: str
    added_around: int = 0


class Box(NamedTuple):
    """A part of maps.

    Attributes:
        first: rows above it, and columns before it.
        height: its rows.
        width: its columns.
    """

    first: int
    height: int
    width: int

    def of(self, maps: Maps) -> Maps:
        """That part, a view."""
        down = slice(self.first, self.first + self.height)
        across = slice(self.first, self.first + self.width)
        return maps[:, :, down, across]

    def of_strip(self, strip: Maps, top: int) -> Maps:
        """What of it is in a strip of the maps, whose first row is that number; may be empty."""
        first, end = max(0, self.first - top), max(0, self.first + self.height - top)
        return strip[:, :, first:end, self.first : self.first + self.width]


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether ``finished`` is of use: on a GPU whose kernels do what they shall in this dtype."""
    return device.type == "cuda" and dtype in TOLERANCES and _works(device, dtype)


def finished(
    maps: Maps,
    weight: PerChannel,
    bias: PerChannel,
    finish: Finish,
    added: Maps | None = None,
    box: Box | None = None,
) -> Float[Tensor, "b c _ _"]:
    """Maps normalized, passed through a ReLU or not, added to and padded; channels_last.

    Args:
        maps: of each channel of each image, the norm takes mean and variance.
        weight: what the normalized channels are multiplied by.
        bias: what is added to them then.
        finish: what comes after.
        added: maps that are added, or nothing.
        box: the part of the maps whose mean and variance are taken; all of them if None. With it,
            there is no way back.
    """
    result: Tensor = _Finished.apply(maps, weight, bias, finish, added, box)
    return result


def plain(
    maps: Maps,
    weight: PerChannel,
    bias: PerChannel,
    finish: Finish,
    added: Maps | None = None,
    box: Box | None = None,
) -> Float[Tensor, "b c _ _"]:
    """The same by PyTorch's own kernels, one after the other."""
    if box is None:
        maps = F.instance_norm(maps, weight=weight, bias=bias, eps=EPSILON)
    else:
        variance, mean = torch.var_mean(box.of(maps), (2, 3), correction=0, keepdim=True)
        normal = (maps - mean) * torch.rsqrt(variance + EPSILON)
        maps = normal * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)
    if finish.relu:
        maps = F.relu(maps)
    if added is not None:
        maps = maps + F.pad(added, [-finish.added_around] * 4)
    return F.pad(maps, [finish.around] * 4, mode=finish.border) if finish.around else maps


class _Finished(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        finish: Finish,
        added: Tensor | None,
        box: Box | None,
    ) -> Tensor:
        from fnst import kernels

        maps = maps.contiguous(memory_format=torch.channels_last)
        if added is not None:
            added = added.to(maps.dtype, memory_format=torch.channels_last)
        result, mean, scale = kernels.forward(
            maps, weight, bias, added, box=box, epsilon=EPSILON, **finish._asdict()
        )
        ctx.save_for_backward(maps, weight, bias, mean, scale)
        ctx.finish, ctx.is_added, ctx.is_part = finish, added is not None, box is not None
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from fnst import kernels

        if ctx.is_part:
            raise NotImplementedError("there is no way back through the norm of a part")
        to_maps, to_weight, to_bias, to_added = kernels.backward(
            grads[0], *ctx.saved_tensors, is_added=ctx.is_added, **ctx.finish._asdict()
        )
        return to_maps, to_weight, to_bias, None, to_added, None


@cache
def _works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels compute on this GPU what PyTorch does, there and back."""
    within = TOLERANCES[dtype]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            ours, known = _tried(finished, device, dtype), _tried(plain, device, torch.float32)
        for one, other in zip(ours, known, strict=True):
            torch.testing.assert_close(one.float(), other, rtol=within, atol=within)
    except Exception as error:  # whatever a compiler, a driver or a missing package may raise
        reason = " ".join(str(error).split())[:300]
        warnings.warn(
            f"the kernels of fnst are not used on {device}, and PyTorch's take longer: {reason}",
            stacklevel=2,
        )
        return False
    return True


def _tried(way: Callable[..., Tensor], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """What a way makes of small maps, and the gradients of all that goes in, both about 1."""
    random = torch.Generator().manual_seed(0)
    weight, bias, maps, added = (
        torch.randn(shape, generator=random) for shape in ((64,), (64,), *TRIED)
    )
    # the same numbers for both ways, which every dtype has
    maps, added = (each.bfloat16().to(device, dtype).requires_grad_() for each in (maps, added))
    weight, bias = (each.to(device).requires_grad_() for each in (weight, bias))
    first = way(maps, weight, bias, Finish(True, 1, "reflect"))
    second = way(first, weight, bias, Finish(False, 2, "replicate", added_around=1), added)
    with torch.no_grad():
        part = way(maps, weight, bias, Finish(True, 1, "reflect"), box=Box(2, 5, 7))
    # squared, so that every gradient is another
    grads = torch.autograd.grad(second.float().square().sum(), (maps, weight, bias, added))
    return [first, second, part, *(grad / grad.abs().max() for grad in grads)]
