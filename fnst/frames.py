"""Between FFmpeg's frames and pixels: colours, directions, and what is made plain on the way.

What comes out is sRGB as the house knows it, upright, but in 8 bits, as it was filmed. The numbers
of a clip are turned into colours and back by one and the same matrix, and are written with the
labels that they had: whatever a player takes them for, it shows the colours of the original.

Letters in shapes: ``h`` x ``w`` pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fnst.errors import VideoError

Pixels = UInt8[Tensor, "1 3 h w"]  # sRGB, 0..255
Rows = UInt8[np.ndarray, "_ _ 3"]  # the same as FFmpeg has them, h w 3

# FFmpeg's numbers of colour matrices (AVCOL_SPC_*), and what libswscale calls the same (SWS_CS_*).
BT709, UNTOLD, BT601 = 1, 2, 5
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
LIMITED, FULL = 1, 2  # AVCOL_RANGE_*: 16 to 235, and 0 to 255

# More light than a screen has (AVCOL_TRC_*): PQ and HLG, ITU-R BT.2100. FFmpeg fits it in.
HDR = {16: "PQ", 18: "HLG"}
TO_SDR = "out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709:intent=perceptual"

Filter = tuple[str, str]  # the name of one of FFmpeg's, and its options


@dataclass(frozen=True)
class Colours:
    """What a file says of its numbers, in FFmpeg's; and the matrix that they are taken for."""

    matrix: int
    range: int
    primaries: int
    transfer: int
    assumed: int


@dataclass(frozen=True)
class Turn:
    """How a player turns frames: what lies at (x, y) comes to (a x + c y, b x + d y).

    Each is -1, 0 or 1. Frames are turned before they are painted, because strokes have directions.
    """

    a: int = 1
    b: int = 0
    c: int = 0
    d: int = 1

    @property
    def is_across(self) -> bool:
        """Whether width becomes height."""
        return self.a == 0

    def __call__(self, rows: Rows) -> Rows:
        """The pixels, turned."""
        if self.is_across:
            return rows.swapaxes(0, 1)[:: self.b, :: self.c]
        return rows[:: self.d, :: self.a]


def pyav() -> Any:
    """The package that brings FFmpeg's libraries along; VideoError when it is not installed."""
    try:
        import av
    except ImportError as error:
        raise VideoError("clips need PyAV; `pip install 'fnst[video]'` brings it.") from error
    return av


def colours(frame: Any) -> Colours:
    """What a frame says; where it is silent, as players guess: BT.709 for HD, BT.601 below."""
    guess = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    if frame.color_trc in HDR:
        return Colours(BT709, LIMITED, BT709, BT709, BT709)
    if frame.format.is_rgb:
        return Colours(guess, LIMITED, UNTOLD, UNTOLD, guess)
    is_full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    return Colours(
        frame.colorspace,
        FULL if is_full else LIMITED,
        frame.color_primaries,
        frame.color_trc,
        MATRICES.get(frame.colorspace, guess),
    )


def turn(frame: Any) -> Turn:
    """What its display matrix says, as far as that is quarters of a turn and mirrors."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = (int(sign) for sign in np.sign(np.frombuffer(data, np.int32)))
            if abs(a * d - b * c) == 1 and a * b == c * d == 0:
                return Turn(a, b, c, d)
    return Turn()


def filters(frame: Any) -> tuple[list[Filter], list[str]]:
    """What has to be done to frames like this one first, and what is to be said of it."""
    found: list[Filter] = []
    notes: list[str] = []
    if frame.interlaced_frame:
        found.append(("bwdif", "mode=send_frame:deint=interlaced"))
        notes.append("it is interlaced, and becomes whole frames")
    if name := HDR.get(frame.color_trc):
        found.append(("scale", f"in_transfer={frame.color_trc}:{TO_SDR}"))
        found.append(("format", "rgb24"))
        notes.append(f"it is HDR ({name}), and becomes SDR of 8 bits (BT.709)")
    elif any(part.bits > 8 for part in frame.format.components):
        notes.append("it has more than 8 bits a colour, and gets 8")
    return found, notes


def to_pixels(frame: Any, colours: Colours, turn: Turn, size: tuple[int, int]) -> Pixels:
    """A frame as a picture, upright; ``size`` is the width and height that it is stored in."""
    says = (None, FULL) if frame.format.is_rgb else (colours.assumed, colours.range)
    width, height = size  # some files change it on their way
    rgb = frame.reformat(
        width,
        height,
        "rgb24",
        src_colorspace=says[0],
        src_color_range=says[1],
        dst_color_range=FULL,
        interpolation=_exactly(),
    )
    upright = np.ascontiguousarray(turn(rgb.to_ndarray()))
    return torch.from_numpy(upright).permute(2, 0, 1).unsqueeze(0)


def from_pixels(pixels: Pixels, colours: Colours, layout: str) -> Any:
    """A picture as a frame of one of FFmpeg's pixel formats, such as ``yuv420p``."""
    rows = pixels[0].permute(1, 2, 0).contiguous().cpu().numpy()
    frame = pyav().VideoFrame.from_ndarray(rows, format="rgb24")
    yuv = frame.reformat(
        format=layout,
        src_color_range=FULL,
        dst_colorspace=colours.assumed,
        dst_color_range=colours.range,
        interpolation=_exactly(),
    )
    label(yuv, colours)
    return yuv


def label(what: Any, colours: Colours) -> None:
    """Say of a frame or an encoder how its numbers are meant."""
    what.colorspace, what.color_range = colours.matrix, colours.range
    what.color_primaries, what.color_trc = colours.primaries, colours.transfer


def filtered(filters: Sequence[Filter], frames: Iterable[Any]) -> Iterator[Any]:
    """Frames after FFmpeg's filters have worked on them, if there are any."""
    if not filters:
        yield from frames
        return
    graph = None
    for frame in frames:
        graph = graph or _graph(filters, frame)
        graph.push(frame)
        yield from _pulled(graph)
    if graph:
        graph.push(None)
        yield from _pulled(graph)


def _graph(filters: Sequence[Filter], frame: Any) -> Any:
    graph = pyav().filter.Graph()
    unit = frame.time_base
    entry = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
        f":time_base={unit.numerator}/{unit.denominator}"
        f":colorspace={frame.colorspace}:range={frame.color_range}"
    )
    nodes = [graph.add(*each) for each in (("buffer", entry), *filters, ("buffersink", ""))]
    for before, after in pairwise(nodes):
        before.link_to(after)
    graph.configure()
    return graph


def _pulled(graph: Any) -> Iterator[Any]:
    av = pyav()
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):  # it wants more, or has had all
            return
        yield frame


def _exactly() -> int:
    """How libswscale is to convert; left to itself, it makes everything darker by a level."""
    from av.video.reformatter import Interpolation

    return int(
        Interpolation.BICUBIC
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
    )
