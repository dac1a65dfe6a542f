"""A trained style as an ONNX file, for whatever runs those: any size in, the same size out.

The file holds everything that ``fnst stylize`` does to colours and edges: 8-bit sRGB becomes
[0, 1] and is rounded back, and the picture is continued beyond its edges and cut again. The graph
is written node by node from the network's layers, in operators that every runtime knows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fnst import files
from fnst.checkpoint import Checkpoint
from fnst.errors import CheckpointError
from fnst.fused import EPSILON
from fnst.network import STRIDE, ByRows, FoldedUpsampling, InstanceNorm, Residual, fold
from fnst.rewrites import Blocks
from fnst.stylize import MARGIN

if TYPE_CHECKING:
    import onnx

Pixels = Literal["uint8", "float"]
Layout = Literal["nhwc", "nchw"]

# Pad takes the axes to pad since 18 (December 2022); the format's version is that of the time.
OPSET, FORMAT = 18, 8

AXES: dict[str, list[str | int | None]] = {
    "nhwc": ["batch", "height", "width", 3],
    "nchw": ["batch", 3, "height", "width"],
}
RANGES = {"uint8": "0 to 255", "float": "0 to 1"}


def write(
    path: Path,
    checkpoint: Checkpoint,
    *,
    version: int | None = None,
    pixels: Pixels = "uint8",
    layout: Layout = "nhwc",
) -> None:
    """Write a style as an ONNX file, which appears whole or not at all.

    Args:
        path: the file.
        checkpoint: the trained network and its card.
        version: its number in the registry, for the file's metadata.
        pixels: uint8 from 0 to 255, as decoders give them, or float32 from 0 to 1; in and out.
        layout: nhwc, as decoders give them, or nchw; in and out.

    Raises:
        CheckpointError: when the package onnx is not installed.
    """
    model = graph(checkpoint, version=version, pixels=pixels, layout=layout)
    files.write(path, model.SerializeToString())


def graph(
    checkpoint: Checkpoint,
    *,
    version: int | None = None,
    pixels: Pixels = "uint8",
    layout: Layout = "nhwc",
) -> "onnx.ModelProto":
    """The same, not written yet; checked as far as the package onnx can.

    Raises:
        CheckpointError: when the package onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise CheckpointError("to export needs onnx: pip install 'fnst[export]'.") from error

    nodes, network = Nodes(), checkpoint.network
    photo = _to_floats(nodes, "photo", pixels, layout)
    size, begin = nodes.add("Shape", photo, start=2, end=4), nodes.numbers(MARGIN, MARGIN)
    region = _region(nodes, size)
    drawn = _layers(nodes, network.layers, _extended(nodes, photo, size), region)
    extended = nodes.add("Sigmoid", drawn)
    end = nodes.add("Add", size, begin)
    drawn = nodes.add("Slice", extended, begin, end, nodes.numbers(2, 3))
    result = _from_floats(nodes, drawn, pixels, layout)
    nodes.rename(result, "stylized")

    kind = {"uint8": onnx.TensorProto.UINT8, "float": onnx.TensorProto.FLOAT}[pixels]
    ends = [
        onnx.helper.make_tensor_value_info(n, kind, AXES[layout]) for n in ("photo", "stylized")
    ]
    body = onnx.helper.make_graph(nodes.nodes, "fnst", ends[:1], ends[1:], nodes.constants)
    model = onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=FORMAT,
        producer_name="fnst",
        producer_version=version_of("fnst"),
    )
    onnx.helper.set_model_props(model, _metadata(checkpoint.card, version, pixels, layout))
    onnx.checker.check_model(model, full_check=True)
    return model


def _metadata(
    card: Mapping[str, Any], version: int | None, pixels: Pixels, layout: Layout
) -> dict[str, str]:
    """What a reader of the file should know, as text."""
    return {
        "format": card["format"],
        "style": card["style"],
        "version": str(version or ""),
        "weights_sha256": card["weights_sha256"],
        "colours": f"sRGB, RGB, {RANGES[pixels]}, {layout}; in and out; any height and width",
    }


# --- what lies around the network -----------------------------------------------------------------


def _to_floats(nodes: "Nodes", photo: str, pixels: Pixels, layout: Layout) -> str:
    if layout == "nhwc":
        photo = nodes.add("Transpose", photo, perm=(0, 3, 1, 2))
    if pixels == "uint8":
        photo = nodes.add("Div", nodes.add("Cast", photo, to=1), nodes.constant(np.float32(255)))
    return photo


def _from_floats(nodes: "Nodes", drawn: str, pixels: Pixels, layout: Layout) -> str:
    if pixels == "uint8":
        levels = nodes.add("Round", nodes.add("Mul", drawn, nodes.constant(np.float32(255))))
        drawn = nodes.add("Cast", levels, to=2)
    return nodes.add("Transpose", drawn, perm=(0, 2, 3, 1)) if layout == "nhwc" else drawn


def _extended(nodes: "Nodes", photo: str, size: str) -> str:
    """The photo, reflected beyond its edges as ``stylize.extend`` does."""
    for axis in range(2):
        side = nodes.add("Gather", size, nodes.constant(np.int64(axis)))
        photo = nodes.add("Gather", photo, _beyond(nodes, side), axis=2 + axis)
    return photo


def _beyond(nodes: "Nodes", side: str) -> str:
    """The places that ``stylize.beyond`` finds, line by line."""
    margin, one, two = (nodes.constant(np.int64(n)) for n in (MARGIN, 1, 2))
    last = nodes.add("Sub", side, one)
    period = nodes.add("Max", one, nodes.add("Mul", two, last))
    first, end = nodes.constant(np.int64(-MARGIN)), nodes.add("Sub", _reach(nodes, side), margin)
    there = nodes.add("Mod", nodes.add("Range", first, end, one), period)
    return nodes.add("Min", there, nodes.add("Sub", period, there), last)


@dataclass(frozen=True)
class _Region:
    """What ``network.Region`` is, as the names of whole numbers."""

    margin: str
    sides: str
    seen: str


def _region(nodes: "Nodes", size: str) -> _Region:
    """What ``stylize.region`` finds."""
    seen = _reach(nodes, size)
    is_small = nodes.add("Less", nodes.add("ReduceMin", size), nodes.numbers(MARGIN))
    margin = nodes.add("Where", is_small, nodes.numbers(0), nodes.numbers(MARGIN))
    return _Region(margin, nodes.add("Where", is_small, seen, size), seen)


def _inner(nodes: "Nodes", maps: str, region: _Region) -> str:
    """Of maps of any resolution, what belongs to the region."""
    scale = nodes.add("Div", region.seen, nodes.add("Shape", maps, start=2, end=4))
    first = nodes.add("Div", region.margin, scale)
    up = nodes.add("Add", region.sides, nodes.add("Sub", scale, nodes.numbers(1)))
    end = nodes.add("Add", first, nodes.add("Div", up, scale))
    return nodes.add("Slice", maps, first, end, nodes.numbers(2, 3))


def _reach(nodes: "Nodes", side: str) -> str:
    stride, more = (nodes.constant(np.int64(n)) for n in (STRIDE, 2 * MARGIN + STRIDE - 1))
    return nodes.add("Mul", nodes.add("Div", nodes.add("Add", side, more), stride), stride)


# --- the network ----------------------------------------------------------------------------------


def _layers(nodes: "Nodes", layer: nn.Module, maps: str, region: _Region) -> str:
    """The name of what a layer makes of the maps of that name."""
    match layer:
        case nn.Sequential():
            for each in layer:
                maps = _layers(nodes, each, maps, region)
            return maps
        case Residual():
            return nodes.add("Add", _layers(nodes, layer.layers, maps, region), maps)
        case ByRows():  # in blocks, because runtimes on CPUs are slow at few channels, too
            blocks = Blocks(layer)
            padded = _padded(nodes, maps, blocks.padding, "reflect")
            drawn = _convolved(nodes, "Conv", padded, blocks.weight, blocks.bias, strides=(2, 2))
            return nodes.add("DepthToSpace", drawn, blocksize=2, mode="CRD")
        case nn.Conv2d():
            padded = _padded(nodes, maps, int(layer.padding[0]), "reflect")
            return _convolved(nodes, "Conv", padded, layer.weight, layer.bias, strides=layer.stride)
        case InstanceNorm():
            return _normal(nodes, layer, maps, _inner(nodes, maps, region))
        case nn.ReLU():
            return nodes.add("Relu", maps)
        case nn.MaxPool2d():
            return nodes.add("MaxPool", maps, kernel_shape=(2, 2), strides=(2, 2))
        case FoldedUpsampling():
            padded, weight = _padded(nodes, maps, 1, "edge"), fold(layer.weight, layer.taps)
            pads = (weight.shape[2] // 2 + 1,) * 4
            return _convolved(
                nodes, "ConvTranspose", padded, weight, layer.bias, strides=(2, 2), pads=pads
            )
        case nn.ConvTranspose2d():
            return _convolved(
                nodes,
                "ConvTranspose",
                maps,
                layer.weight,
                layer.bias,
                strides=layer.stride,
                pads=(*layer.padding, *layer.padding),
                output_padding=layer.output_padding,
            )
        case _:
            raise TypeError(f"no way is known to export a {type(layer).__name__}")


def _normal(nodes: "Nodes", layer: InstanceNorm, maps: str, inner: str) -> str:
    """Maps, normalized by the statistics of a part of them."""
    axes, epsilon = nodes.numbers(2, 3), nodes.constant(np.float32(EPSILON))
    weight, bias = (nodes.constant(each.view(-1, 1, 1)) for each in (layer.weight, layer.bias))
    mean = nodes.add("ReduceMean", inner, axes)
    apart = nodes.add("Sub", inner, mean)
    variance = nodes.add("ReduceMean", nodes.add("Mul", apart, apart), axes)
    deviation = nodes.add("Sqrt", nodes.add("Add", variance, epsilon))
    scaled = nodes.add("Mul", nodes.add("Sub", maps, mean), nodes.add("Div", weight, deviation))
    return nodes.add("Add", scaled, bias)


def _padded(nodes: "Nodes", maps: str, width: int, mode: str) -> str:
    pads = nodes.numbers(width, width, width, width)
    return nodes.add("Pad", maps, pads, "", nodes.numbers(2, 3), mode=mode)


def _convolved(
    nodes: "Nodes", kind: str, maps: str, weight: Tensor, bias: Tensor | None, **attributes: Any
) -> str:
    numbers = [nodes.constant(each) for each in (weight, bias) if each is not None]
    return nodes.add(kind, maps, *numbers, kernel_shape=weight.shape[2:], **attributes)


class Nodes:
    """The nodes and constants of a graph, as they are added; what each makes has a name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of what it makes."""
        from onnx import helper

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def rename(self, old: str, new: str) -> None:
        """Call what the last node makes otherwise."""
        assert self.nodes[-1].output[0] == old
        self.nodes[-1].output[0] = new

    def constant(self, values: Tensor | np.ndarray | np.generic) -> str:
        """Add a constant; its name."""
        from onnx import numpy_helper

        if isinstance(values, Tensor):
            values = values.detach().cpu().to(torch.float32).contiguous().numpy()
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def numbers(self, *values: int) -> str:
        """Add a constant of whole numbers; its name."""
        return self.constant(np.array(values, dtype=np.int64))
