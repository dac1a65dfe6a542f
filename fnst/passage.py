"""A picture's way through a network in strips, layer by layer: the maps are never there whole.

An instance norm needs the statistics of the whole picture before its first row can go on, so that
tiles that were stylized one by one would not fit together. Here the network is cut at its norms
into stages. All strips pass through one stage, from top to bottom, which gives the statistics that
the next one begins with; between two stages wait the maps of the whole picture. At full resolution
they would be the largest, so those are not kept but computed anew when the next stage wants them.

Within a stage, every layer keeps the few rows that the next strip's convolution needs from the
last: no tiles overlap, and there is no seam. The result is that of ``fnst.stylize.stylize``.

Letters in shapes: ``c`` channels, ``h`` x ``w`` positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fnst.network import (
    EPSILON,
    ByRows,
    FoldedUpsampling,
    InstanceNorm,
    Residual,
    Statistics,
    TransformerNetwork,
)
from fnst.rows import Queue, Rows, Store, Strip
from fnst.stylize import LEAST_SIDE, Image, extend, from_floats, reach, to_floats

Progress = Callable[[int, int], None]  # how much is done, and of how much


# --- the network as stages ------------------------------------------------------------------------


class Fork:
    """Where a residual block begins: what passes is kept for its end."""


class Join:
    """Where a residual block ends: what was kept is added."""


Layer = nn.Module | Fork | Join


@dataclass(frozen=True)
class Stage:
    """Layers that strips pass through without a halt; a norm can only be the first of them."""

    layers: tuple[Layer, ...]
    channels: int  # of what comes out
    scale: Fraction  # its resolution, of the picture's
    holds: bool  # whether a residual block is open at its end
    widest: int  # the most numbers that any of its layers makes of one of the picture's positions

    @property
    def is_kept(self) -> bool:
        """Whether what comes out waits for the next stage, or is computed again by it."""
        return self.scale < 1


@torch.inference_mode()
def stages(network: TransformerNetwork) -> list[Stage]:
    """Cut a network at its norms; a small picture shows how large the maps in between are."""
    found: list[Stage] = []
    layers: list[Layer] = []
    maps = torch.zeros(1, 3, LEAST_SIDE, LEAST_SIDE, device=device_of(network))
    is_open, widest = False, 0

    def cut() -> None:
        scale = Fraction(maps.shape[3], LEAST_SIDE)
        found.append(Stage(tuple(layers), maps.shape[1], scale, is_open, widest))
        layers.clear()

    for layer in _flat(network.layers):
        if isinstance(layer, InstanceNorm):
            cut()
        layers.append(layer)
        if isinstance(layer, nn.Module):
            maps = layer(maps)
            widest = max(widest, maps[0].numel() // LEAST_SIDE**2)
        else:
            is_open = isinstance(layer, Fork)
    cut()
    return found


def room(stages: Sequence[Stage], h: int, w: int) -> tuple[int, int]:
    """How many rows of maps wait at most while a picture passes, and how long the longest is.

    While a stage goes on, its own rows take the places of those that it has read: so the most are
    there at the end of one.
    """
    kept = [stage for stage in stages if stage.is_kept]
    count = max(reach(h) * stage.scale * (2 if stage.holds else 1) for stage in kept)
    size = max(stage.channels * reach(w) * stage.scale for stage in kept)
    return int(count), int(size)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def _flat(layer: nn.Module) -> Iterator[Layer]:
    match layer:
        case nn.Sequential():
            for each in layer:
                yield from _flat(each)
        case Residual():
            yield Fork()
            yield from _flat(layer.layers)
            yield Join()
        case _:
            yield layer


# --- layers, from strips to strips ----------------------------------------------------------------
#
# A generator that waits in `yield` still has its variables, and a strip at full resolution is
# large: so layers are maps, which forget a strip when they have handed it on, and loops delete
# theirs.


def _windows(rows: Rows, *, above: int, below: int, step: int = 1, border: str) -> Rows:
    """The rows again, in strips that begin ``above`` rows early and end ``below`` rows late.

    Beyond the picture's top and bottom lies what ``border`` says, as torch.nn.functional.pad has
    it. Without what overlaps, every strip has a multiple of ``step`` rows.
    """
    held: Strip | None = None
    is_top = True
    for strip in rows:
        held = strip if held is None else torch.cat((held, strip), 2)
        del strip
        if is_top and held.shape[2] <= above:  # too few to be reflected
            continue
        if is_top:
            held, is_top = F.pad(held, (0, 0, above, 0), mode=border), False
        count = (held.shape[2] - above - below) // step * step
        if count > 0:
            window = [held[:, :, : count + above + below]]
            held = held[:, :, count:].clone()
            yield window.pop()
    if held is not None and below:
        yield F.pad(held, (0, 0, 0, below), mode=border)


def _convolved(layer: nn.Conv2d, rows: Rows) -> Rows:
    size, pad, step = layer.kernel_size[0], int(layer.padding[0]), layer.stride[0]
    below = size - pad - step  # of a halving convolution's last pair of rows, the lower is in it
    wide = _widened(rows, pad, "reflect")
    windows = _windows(wide, above=pad, below=below, step=step, border="reflect")
    if isinstance(layer, ByRows):
        return map(layer.within, windows)
    within = partial(F.conv2d, weight=layer.weight, bias=layer.bias, stride=layer.stride)
    return map(within, windows)


def _pooled(layer: nn.MaxPool2d, rows: Rows) -> Rows:
    return map(layer, _windows(rows, above=0, below=0, step=2, border="constant"))


def _doubled(layer: FoldedUpsampling, rows: Rows) -> Rows:
    wide = _widened(rows, 1, "replicate")
    return map(layer.within, _windows(wide, above=1, below=1, border="replicate"))


def _transposed(layer: nn.ConvTranspose2d, rows: Rows) -> Rows:
    # Of the rows that come out, odd ones reach one row down; below the last row there are zeros.
    windows = map(layer, _windows(rows, above=0, below=1, border="constant"))
    return map(itemgetter((..., slice(None, -2), slice(None))), windows)


def _widened(rows: Rows, pad: int, border: str) -> Rows:
    return map(partial(F.pad, pad=(pad, pad, 0, 0), mode=border), rows)


def _normal(layer: InstanceNorm, rows: Rows, mean: Tensor, variance: Tensor) -> Rows:
    # Batch norm's kernel applies any statistics, in one pass.
    normal = partial(
        F.batch_norm,
        running_mean=mean,
        running_var=variance,
        weight=layer.weight,
        bias=layer.bias,
        eps=EPSILON,
    )
    return map(normal, rows)


# --- the whole picture ----------------------------------------------------------------------------


class Passage:
    """A picture on its way through a network, strip by strip.

    Args:
        store: where maps wait between stages.
        height: rows of the picture in a strip, a multiple of 4.
        progress: told the rows that have entered a stage, of those that will enter all of them.
    """

    def __init__(
        self,
        network: TransformerNetwork,
        image: Image,
        store: Store,
        height: int,
        progress: Progress | None = None,
    ) -> None:
        self.network, self.image, self.store, self.height = network, image, store, height
        self.progress = progress
        self.done = 0
        self.stages = stages(network)
        self.moments: dict[Layer, tuple[Tensor, Tensor]] = {}  # mean and variance
        self.skipped = Queue(store)

    @torch.inference_mode()
    def write(self, into: Image) -> None:
        """Fill another picture of the same size with the stylized one."""
        source: Callable[[bool], Rows] = self._picture
        layers: tuple[Layer, ...] = ()  # since the maps that were kept last
        scale = Fraction(1)  # of those
        for stage, following in pairwise(self.stages):
            layers += stage.layers
            statistics = Statistics()
            kept = Queue(self.store)
            entering = map(partial(self._count, scale), source(stage.is_kept))
            for strip in self._through(layers, entering):
                statistics.add(strip)
                if stage.is_kept:
                    kept.put(strip)
                del strip
            if stage.is_kept:
                scale, layers = stage.scale, ()
                source = partial(kept.rows, int(self.height * scale))
            mean, variance = statistics.moments()
            self.moments[following.layers[0]] = mean.float(), variance.float()
        layers += self.stages[-1].layers
        entering = map(partial(self._count, scale), source(True))
        self._fill(into, map(torch.sigmoid, self._through(layers, entering)))

    def _picture(self, forget: bool) -> Rows:
        """The picture's own strips, its sides extended to what the network sees."""
        _, _, h, w = self.image.shape
        device = device_of(self.network)
        for top in range(0, reach(h), self.height):
            count = min(self.height, reach(h) - top)
            part = to_floats(self.image[:, :, min(top, h - 1) : top + count].to(device))
            strip = extend(part, count - part.shape[2], reach(w) - w)
            yield strip.contiguous(memory_format=torch.channels_last)

    def _fill(self, into: Image, rows: Rows) -> None:
        top = 0
        for strip in rows:
            place = into[:, :, top : top + strip.shape[2]]
            _, _, h, w = place.shape
            place.copy_(from_floats(strip[:, :, :h, :w], into.dtype))
            top += h
            del strip

    def _count(self, scale: Fraction, strip: Strip) -> Strip:
        self.done += int(strip.shape[2] / scale)
        if self.progress:
            self.progress(self.done, reach(self.image.shape[2]) * len(self.stages))
        return strip

    def _through(self, layers: Sequence[Layer], rows: Rows) -> Rows:
        for layer in layers:
            rows = self._through_one(layer, rows)
        return rows

    def _through_one(self, layer: Layer, rows: Rows) -> Rows:
        match layer:
            case InstanceNorm():
                return _normal(layer, rows, *self.moments[layer])
            case nn.ReLU():
                return map(layer, rows)
            case nn.Conv2d():
                return _convolved(layer, rows)
            case nn.MaxPool2d():
                return _pooled(layer, rows)
            case FoldedUpsampling():
                return _doubled(layer, rows)
            case nn.ConvTranspose2d():
                return _transposed(layer, rows)
            case Fork():
                return map(self._fork, rows)
            case Join():
                return map(self._join, rows)
            case _:
                raise TypeError(f"no way is known to apply a {type(layer).__name__} to strips")

    def _fork(self, strip: Strip) -> Strip:
        self.skipped.put(strip)
        return strip

    def _join(self, strip: Strip) -> Strip:
        return strip.add_(self.skipped.take(strip.shape[2]))
