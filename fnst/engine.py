"""A trained network made ready to stylize fast: on one device, in one precision.

What the network computes stays the same. Where a CPU has a quicker way to a layer's sums, another
layer takes it (``rewrites``); on a GPU, the kernels for pictures of one size are recorded and
launched whole (``graphs``). Chosen by measurement: `python -m benchmarks stylize`.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fnst import memory, passage, strips
from fnst.devices import has_bf16, keep_digits
from fnst.graphs import Graphed
from fnst.network import (
    ByRows,
    FoldedUpsampling,
    InstanceNorm,
    Layers,
    Region,
    Residual,
    TransformerNetwork,
)
from fnst.passage import Progress
from fnst.rewrites import Blocks, Folded, Winograd, doubling
from fnst.stylize import Image, stylize

# Picture after picture, memory that is kept comes to lie in pieces, and more of it is taken than a
# single pass needs: at 1080p a fifth more, the most of nine runs.
PIECES = 1.25

Layer = TypeVar("Layer", bound=nn.Module)

Precision = Literal["auto", "fp32", "bf16"]


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of convolutions, where ``auto`` is bfloat16 on a GPU that computes it.

    On a CPU it is float32, so that a picture is the same on every machine that has no GPU.
    """
    fast = precision == "bf16" or (
        precision == "auto" and device.type != "cpu" and has_bf16(device)
    )
    return torch.bfloat16 if fast else torch.float32


class Engine:
    """Stylizes one picture after the other, of any size: ``engine(image)`` is a ``Paint``.

    Pictures for which memory does not suffice pass in strips, in float32. On a GPU, one thread at a
    time may call it.

    Args:
        network: trained; it is copied.
        device: where to compute.
        precision: of the convolutions; statistics and the result are float32 in any case. fp32
            draws what ``fnst.stylize.stylize`` draws, to a fraction of a grey level; bf16 looks the
            same, and is some tens of levels off in single pixels.
        max_memory: bytes of the device that a picture may take; a share of what is free if nothing
            is said.
        progress: told of pictures that pass in strips how much is done, and of how much.
    """

    def __init__(
        self,
        network: TransformerNetwork,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        max_memory: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.dtype = choose_dtype(precision, self.device)
        self.max_memory, self.progress = max_memory, progress
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.fast = _exchanged(copy.deepcopy(self.network), self.device, self.dtype)
        # numbers a core that no pass in strips keeps
        self.room = max((layer.room() for layer in _each(self.fast, Winograd)), default=0)
        self.recorded = list(_each(self.fast, Recorded))
        self.widest = passage.widest(self.network)
        memory.hold()
        keep_digits()

    def __call__(self, image: Image) -> Image:
        """Stylize a picture; the result has its size and dtype and is where it is."""
        most = self.max_memory or memory.budget(self.device)
        needs = PIECES * strips.whole_needs(image, self.widest, self.dtype)
        needs += torch.get_num_threads() * self.room * self.dtype.itemsize
        if needs <= most:
            try:
                return stylize(self.fast, image)
            except (MemoryError, RuntimeError) as error:  # others may have taken it meanwhile
                if not memory.is_lacking(error):
                    raise
        for recorded in self.recorded:
            recorded.forget()  # what it holds, strips may need
        return strips.stylize(self.network, image, max_memory=most, progress=self.progress)


def _exchanged(
    network: TransformerNetwork, device: torch.device, dtype: torch.dtype
) -> TransformerNetwork:
    """The network, with other layers that compute the same."""
    if device.type == "cpu":
        _exchange(network, FoldedUpsampling, doubling)
        _exchange(network, ByRows, Blocks)
        if dtype == torch.float32:
            for block in network.layers:
                if isinstance(block, Residual):
                    _exchange(block, nn.Conv2d, Winograd)
    if dtype != torch.float32:
        _exchange(network, FoldedUpsampling, Folded)
        _round(network, dtype)
    if device.type == "cuda":
        network.layers = Recorded(*network.layers)
    return network


def _each(network: nn.Module, kind: type[Layer]) -> Iterator[Layer]:
    return (layer for layer in network.modules() if isinstance(layer, kind))


def _exchange(
    parent: TransformerNetwork | Residual, kind: type[Layer], made: Callable[[Layer], nn.Module]
) -> None:
    for index, layer in enumerate(parent.layers):
        if isinstance(layer, kind):
            parent.layers[index] = made(layer)


def _round(network: TransformerNetwork, dtype: torch.dtype) -> None:
    """Let convolutions compute in this dtype; norms take their statistics in float32."""
    for layer in network.modules():
        if not isinstance(layer, InstanceNorm) and not list(layer.children()):
            layer.to(dtype)
    network.layers.insert(0, Rounded(dtype))


class Rounded(nn.Module):
    """What comes in, in another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, photos: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return photos.to(self.dtype)


class Recorded(Layers):
    """Layers on a GPU; when a fourth picture of one size comes in a row, kernels are recorded."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.forget()

    def forget(self) -> None:
        """Begin anew, and hold nothing."""
        self.size, self.graphed = torch.Size(), Graphed(self._work)
        self.region: Region | None = None
        self.stylized = torch.empty(0)

    def forward(
        self, photos: Float[Tensor, "b 3 h w"], region: Region | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """What the layers draw; the next call overwrites it."""
        if (photos.shape, region) != (self.size, self.region):
            self.forget()
            self.size, self.region = photos.shape, region
        self.graphed(photos)
        return self.stylized

    def _work(self, photos: Float[Tensor, "b 3 h w"]) -> None:
        self.stylized = super().forward(photos, self.region)
