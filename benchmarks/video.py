"""Clips: how much they flicker, how fast they pass, and whether memory grows with their length."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from benchmarks import Result, UnavailableError, peak_memory
from benchmarks.stylize import trained
from fnst import clips, flow, frames, images, steady, video
from fnst.devices import device
from fnst.engine import Engine
from fnst.stylize import Paint, to_floats

UNIT = Fraction(1, 12800)  # of time, in seconds
STEP = 512  # 25 frames a second
NEAR_LOSSLESS = 1  # x264's rate factor: what is measured is the painting

# A clip of so many frames of noise through a network of width 4, in a process of its own.
LONGER = """
import sys
import torch
from benchmarks.video import noise, painted
from fnst.network import TransformerNetwork
from fnst.engine import Engine
import tempfile
from pathlib import Path

torch.manual_seed(0)
with tempfile.TemporaryDirectory() as place:
    source = noise(Path(place) / "clip.mp4", int(sys.argv[1]))
    painted(source, Engine(TransformerNetwork(width=4, blocks=1)), steady=True)
"""


def measure() -> Iterator[Result]:
    """A clip with and without `--steady`: flicker, sharpness, frames a second, memory.

    The clip is the first folder of frames in `video/` of `FNST_MIRROR`. `warping` is the mean
    difference, in grey levels, between a painted frame and the one before, brought along by the
    photographs' motion, where the photographs agree; `sharpness` is the mean step between
    neighbouring pixels. Ratios are to frames painted alone. `memory` is the peak of a process for
    60 and for 240 frames of 320x180.
    """
    if not find_spec("av"):
        raise UnavailableError("clips need PyAV (pip install 'fnst[video]')")
    style = trained()
    paint = Engine(style.network, device=device())
    with tempfile.TemporaryDirectory() as place:
        source = _written(Path(place) / "clip.mp4", [_pixels(path) for path in _frames()])
        photos = _read(source)
        alone = painted(source, paint, steady=False)
        steadied = painted(source, paint, steady=True)
    flicker = [_warping(photos, shown) for shown, _ in (alone, steadied)]
    sharpness = [_sharpness(shown) for shown, _ in (alone, steadied)]
    yield Result("video/alone/warping", flicker[0], "levels")
    yield Result("video/steady/warping", flicker[1], "levels", flicker[0] / flicker[1])
    yield Result("video/alone/sharpness", sharpness[0], "levels")
    yield Result("video/steady/sharpness", sharpness[1], "levels", sharpness[1] / sharpness[0])
    yield Result("video/alone", alone[1], "frames/s")
    yield Result("video/steady", steadied[1], "frames/s", steadied[1] / alone[1])
    short, long = (peak_memory(LONGER, count) for count in (60, 240))
    yield Result("video/memory/60", short / 1e6, "MB")
    yield Result("video/memory/240", long / 1e6, "MB", short / long)


def painted(source: Path, paint: Paint, *, steady: bool) -> tuple[list[Tensor], float]:
    """The frames of a clip after painting, and how many of them passed in a second."""
    target = source.with_name(f"painted-{steady}.mkv")
    done = video.stylize(
        source,
        target,
        paint,
        made_by={},
        device=device(),
        steady=steady,
        quality=NEAR_LOSSLESS,
        console=Console(file=StringIO()),
    )
    return _read(target), done.frames / done.seconds


def noise(path: Path, count: int) -> Path:
    """A clip of coarse noise, 320x180."""
    pictures = (torch.rand(1, 3, 180, 320).mul(255).to(torch.uint8) for _ in range(count))
    return _written(path, pictures)


def _frames() -> list[Path]:
    mirror = Path(os.environ.get("FNST_MIRROR", ""))
    for folder in sorted((mirror / "video").glob("*")) if str(mirror) != "." else []:
        if found := sorted(folder.glob("*.jpg")):
            return found
    raise UnavailableError("expected frames, such as $FNST_MIRROR/video/blackswan/00001.jpg")


def _pixels(path: Path) -> Tensor:
    return images.read(path).rgb


def _read(path: Path) -> list[Tensor]:
    return [frame.pixels for frame in clips.read(path).frames()]


def _written(path: Path, pictures: Iterable[Tensor]) -> Path:
    """A clip of these pictures."""
    av = frames.pyav()
    colours = frames.Colours(*[frames.BT709, frames.LIMITED], *[frames.BT709] * 3)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", 25, options={"crf": str(NEAR_LOSSLESS)})
        stream.time_base = stream.codec_context.time_base = UNIT
        for index, pixels in enumerate(pictures):
            if index == 0:
                stream.height, stream.width = pixels.shape[2:]
                frames.label(stream, colours)
            frame = frames.from_pixels(pixels, colours, "yuv420p")
            frame.pts, frame.time_base = STEP * index, UNIT
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@torch.inference_mode()
def _warping(photos: Sequence[Tensor], shown: Sequence[Tensor]) -> float:
    """Mean difference of neighbouring frames along the motion, in grey levels."""
    sums = torch.zeros(2)
    for i in range(1, len(photos)):
        before, after = to_floats(photos[i - 1]), to_floats(photos[i])
        along = steady.motion(before, after)
        share = steady.trust(before, after, along)
        off = (flow.carry(to_floats(shown[i - 1]), along) - to_floats(shown[i])).abs().mean(1)
        sums += torch.stack(((off * share[:, 0]).sum(), share.sum()))
    return float(sums[0] / sums[1]) * 255


def _sharpness(shown: Sequence[Tensor]) -> float:
    steps = [(p[..., 1:].float() - p[..., :-1].float()).abs().mean() for p in shown]
    return float(torch.stack(steps).mean())
