"""Pictures of any size within a limit of memory: whole, in strips, or with the help of a file."""

import copy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from fnst import memory, passage
from fnst import stylize as whole
from fnst.errors import ImageError
from fnst.files import readable
from fnst.network import TransformerNetwork
from fnst.passage import Passage, Progress, device_of
from fnst.rows import RangeError, ScratchFile, Store
from fnst.stylize import Image, reach

# What a whole pass takes on a CPU, fitted from above to widths 2 to 32: so many numbers at once for
# each position, for every one of its widest maps and besides; 544 bytes a pixel by default.
WHOLE_MAPS, WHOLE_BESIDES = 3, 40

# On a CPU, strips take the time of a whole pass and a fraction of its memory: so only what takes
# less than this is done whole. On a GPU, few large launches are better than many small ones.
WHOLE_MOST = 512 * 10**6

# Tensors with more numbers than this break kernels that count in 32 bits.
LARGEST_TENSOR = 2**31 - 1

# Rows of a strip that are tried. On a CPU more are no faster.
CPU_HEIGHTS = (32, 16, 8, 4)
GPU_HEIGHTS = (128, 64, *CPU_HEIGHTS)

# What strips take besides the pictures and the rows that wait, fitted from above on a CPU: so much
# always, a third of it libraries' own, and so many times the largest tensor, which has the widest
# maps of a strip and of the rows around it that the last convolution reaches.
FIXED, LARGEST_AT_ONCE, AROUND = 64 * 10**6, 4, 8

# glibc does not use again what is larger than 32 MB, but gets it page by page from the system.
KEPT_BY_GLIBC = 24 * 10**6


def stylize(
    network: TransformerNetwork,
    image: Image,
    *,
    max_memory: int,
    progress: Progress | None = None,
) -> Image:
    """Stylize one picture of any size as ``fnst.stylize.stylize`` does, in limited memory.

    In float32 the results differ by less than a hundredth of a grey level. Where ``max_memory``
    does not allow that, maps wait in half precision (less than one level off); where it does not
    even allow that, in a scratch file, which is as exact as float32.

    Args:
        network: on the device that shall do it.
        image: on any device; the result will be there too.
        max_memory: bytes of the network's device above what is taken now, the picture included.
        progress: told how much is done, and of how much.

    Raises:
        ImageError: when even the least takes more, or the disk is too full.
        ValueError: when it is not one picture.
    """
    if len(image) != 1:
        raise ValueError(f"expected one picture at a time, got {len(image)}")
    ways = list(_ways(network, image))
    for way in ways:
        if way.needs <= max_memory:
            try:
                return way.take(progress)
            except RangeError:  # exact ways follow
                continue
            except (MemoryError, RuntimeError) as error:
                if not memory.is_lacking(error):
                    raise
    _, _, h, w = image.shape
    least = min(way.needs for way in ways)
    raise ImageError(
        f"a picture of {w}x{h} takes at least {readable(least)} of memory, and "
        f"{readable(max_memory)} may be used; allow more, or make it smaller."
    )


@dataclass(frozen=True)
class Way:
    """A way to stylize a picture."""

    needs: int  # bytes
    take: Callable[[Progress | None], Image]


def _ways(network: TransformerNetwork, image: Image) -> Iterator[Way]:
    """From the fastest to the one that takes the least memory."""
    yield from _whole(network, image)
    _, _, h, w = image.shape
    if w <= h:
        yield from _in_strips(network, image)
        return
    # Strips across the short side are smaller.
    turned = image.transpose(2, 3)
    for way in _in_strips(_turned(network), turned):
        yield Way(way.needs, partial(_turned_back, way))


def _whole(network: TransformerNetwork, image: Image) -> Iterator[Way]:
    needs = whole_needs(image, passage.widest(network))
    if device_of(network).type != "cpu" or needs <= WHOLE_MOST:
        yield Way(needs, lambda progress: whole.stylize(network, image))


def whole_needs(image: Image, widest: int, dtype: torch.dtype = torch.float32) -> int:
    """How many bytes a pass of the whole picture takes, with maps of this dtype.

    More than there can be where kernels cannot count so far.

    Args:
        image: the picture.
        widest: how wide a network's maps become, see ``passage.widest``.
        dtype: of its maps.
    """
    _, _, h, w = image.shape
    if widest * (reach(h) + AROUND) * (reach(w) + AROUND) > LARGEST_TENSOR:
        return sys.maxsize
    numbers = reach(h) * reach(w) * (WHOLE_MAPS * widest + WHOLE_BESIDES)
    return FIXED + numbers * dtype.itemsize + 2 * image.nbytes


def _in_strips(network: TransformerNetwork, image: Image) -> Iterator[Way]:
    _, _, h, w = image.shape
    stages = passage.stages(network)
    device = device_of(network)
    row = max(stage.widest for stage in stages) * reach(w) * torch.float32.itemsize
    pictures = 2 * image.nbytes if image.device.type == device.type else 0
    for store, kept in _stores(*passage.room(stages, h, w), device):
        for height in CPU_HEIGHTS if device.type == "cpu" else GPU_HEIGHTS:
            largest = row * (height + AROUND)
            if device.type != "cpu" or largest <= KEPT_BY_GLIBC or height == 4:
                needs = FIXED + pictures + kept + LARGEST_AT_ONCE * largest
                yield Way(needs, partial(_pass, network, image, store, height))


def _stores(
    count: int, size: int, device: torch.device
) -> Iterator[tuple[Callable[[], Store], int]]:
    """Where maps may wait, and how many bytes of the device's memory that takes."""
    for dtype in (torch.float32, torch.float16):
        yield partial(Store, count, size, dtype, device), count * size * dtype.itemsize
    host = torch.device("cpu")
    if device != host and count * size * torch.float32.itemsize <= memory.budget(host):
        yield partial(Store, count, size, torch.float32, host), 0
    yield partial(ScratchFile, count, size), 0


def _pass(
    network: TransformerNetwork,
    image: Image,
    open_store: Callable[[], Store],
    height: int,
    progress: Progress | None,
) -> Image:
    stylized = torch.empty_like(image)
    with open_store() as store:
        Passage(network, image, store, height, progress).write(stylized)
    return stylized


def _turned(network: TransformerNetwork) -> TransformerNetwork:
    """A network that does to a picture's transpose what this one does to the picture."""
    turned = copy.deepcopy(network)
    for weight in turned.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.transpose(2, 3)
    return turned


def _turned_back(way: Way, progress: Progress | None) -> Image:
    return way.take(progress).transpose(2, 3)
