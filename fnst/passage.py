"""A picture's way through a network in strips, layer by layer: the maps are never there whole.

An instance norm needs the statistics of the whole picture before its first row can go on, so that
tiles that were stylized one by one would not fit together. Here the network is cut at its norms
into stages. All strips pass through one stage, from top to bottom, which gives the statistics that
the next one begins with; between two stages wait the maps of the whole picture. At full resolution
they would be the largest, so those are not kept but computed anew when the next stage wants them.

Within a stage, every layer keeps the few rows that the next strip's convolution needs from the
last: no tiles overlap, and there is no seam. The result is that of ``fnst.stylize.stylize``.

Letters in shapes: ``c`` channels, ``h`` x ``w`` positions.

References:
    [C83] Chan, Golub, LeVeque. Algorithms for Computing the Sample Variance. The American
          Statistician, 1983.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import pairwise
from operator import itemgetter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fnst.fused import EPSILON, Box
from fnst.network import (
    Bordered,
    FoldedUpsampling,
    InstanceNorm,
    Reflected,
    Residual,
    TransformerNetwork,
    strips,
)
from fnst.rows import Queue, Rows, Store, Strip
from fnst.stylize import MARGIN, Image, beyond, from_floats, reach, region, to_floats

Progress = Callable[[int, int], None]  # how much is done, and of how much

# The smallest side that survives two halvings with room for the 9x9 convolution's reflection.
LEAST_SIDE = 16


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


def widest(network: TransformerNetwork) -> int:
    """The most numbers that a network's maps have at once, for each position of the picture."""
    return max(stage.widest for stage in stages(network))


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


def _convolved(layer: Reflected, rows: Rows) -> Rows:
    around, step = layer.around, layer.stride[0]
    below = around + 1 - step  # of a halving convolution's last pair of rows, the lower is in it
    windows = _windows(
        _widened(rows, layer), above=around, below=below, step=step, border=layer.border
    )
    return map(layer.within, windows)


def _pooled(layer: nn.MaxPool2d, rows: Rows) -> Rows:
    return map(layer, _windows(rows, above=0, below=0, step=2, border="constant"))


def _doubled(layer: FoldedUpsampling, rows: Rows) -> Rows:
    around, wide = layer.around, _widened(rows, layer)
    return map(layer.within, _windows(wide, above=around, below=around, border=layer.border))


def _transposed(layer: nn.ConvTranspose2d, rows: Rows) -> Rows:
    # Of the rows that come out, odd ones reach one row down; below the last row there are zeros.
    windows = map(layer, _windows(rows, above=0, below=1, border="constant"))
    return map(itemgetter((..., slice(None, -2), slice(None))), windows)


def _widened(rows: Rows, layer: Bordered) -> Rows:
    return map(partial(F.pad, pad=(layer.around, layer.around, 0, 0), mode=layer.border), rows)


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


# --- statistics -----------------------------------------------------------------------------------


Moments = tuple[Float[Tensor, " c"], Float[Tensor, " c"]]  # mean and variance


class Statistics:
    """Mean and variance of each channel over a box of the maps, merged in float64 by [C83].

    Merged at once and in place: small tensors that stayed between large ones would keep the memory
    of those from being used again.
    """

    def __init__(self, channels: int, device: torch.device, box: Box) -> None:
        self._box, self._top = box, 0
        self._count = 0
        self._mean, self._squares = torch.zeros(2, channels, dtype=torch.float64, device=device)

    def add(self, strip: Strip) -> None:
        """Take in what of the next strip is in the box."""
        inside = self._box.of_strip(strip, self._top)
        self._top += strip.shape[2]
        if not inside.numel():
            return
        # Batch norm's kernel of two passes: a twentieth of the time of torch.var_mean on a CPU. It
        # adds up in float32, which a long strip is too large for.
        for rows in strips(inside):
            mean, variance = torch.batch_norm_update_stats(rows, None, None, 0.0)
            count = rows[0, 0].numel()
            apart = mean.double() - self._mean
            share = count / (self._count + count)
            self._mean += apart * share
            self._squares += variance.double() * count + apart.square() * (self._count * share)
            self._count += count

    def moments(self) -> Moments:
        """Mean and variance over everything that was taken in."""
        return self._mean.float(), (self._squares / self._count).float()


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
        self.moments: dict[Layer, Moments] = {}
        self.skipped = Queue(store)

    @torch.inference_mode()
    def write(self, into: Image) -> None:
        """Fill another picture of the same size with the stylized one."""
        source: Callable[[bool], Rows] = self._picture
        layers: tuple[Layer, ...] = ()  # since the maps that were kept last
        scale = Fraction(1)  # of those
        for stage, following in pairwise(self.stages):
            layers += stage.layers
            box = region(*self.image.shape[2:]).box(int(1 / stage.scale))
            statistics = Statistics(stage.channels, device_of(self.network), box)
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
            self.moments[following.layers[0]] = statistics.moments()
        layers += self.stages[-1].layers
        entering = map(partial(self._count, scale), source(True))
        self._fill(into, map(torch.sigmoid, self._through(layers, entering)))

    def _picture(self, forget: bool) -> Rows:
        """The picture's own strips, its sides extended to what the network sees."""
        _, _, h, w = self.image.shape
        device = device_of(self.network)
        columns = beyond(w).to(self.image.device)
        for rows in torch.split(beyond(h).to(self.image.device), self.height):
            part = self.image.index_select(2, rows).index_select(3, columns)
            yield to_floats(part.to(device)).contiguous(memory_format=torch.channels_last)

    def _fill(self, into: Image, rows: Rows) -> None:
        _, _, h, w = into.shape
        top = -MARGIN
        for strip in rows:
            first, end = max(0, top), min(h, top + strip.shape[2])
            if first < end:
                inner = strip[:, :, first - top : end - top, MARGIN : MARGIN + w]
                into[:, :, first:end].copy_(from_floats(inner, into.dtype))
            top += strip.shape[2]
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
            case Reflected():
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
