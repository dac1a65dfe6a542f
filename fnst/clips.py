"""Between video files and frames: the only module that knows PyAV.

A clip's frames come out as the house knows pictures, sRGB, upright, (1, 3, h, w), but in 8 bits, as
they were filmed; each with its own time. What goes in is the same. Everything else that a file
holds, sound, subtitles, chapters, is copied as it is.

PyAV brings FFmpeg's libraries along; it is an extra, because it takes 100 MB.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fnst.errors import VideoError

Pixels = UInt8[Tensor, "1 3 h w"]  # sRGB, 0..255

# What is written with these endings: the container, as FFmpeg calls it, and the encoder.
CONTAINERS: Mapping[str, tuple[str, str]] = {
    ".mp4": ("mp4", "libx264"),
    ".m4v": ("mp4", "libx264"),
    ".mov": ("mov", "libx264"),
    ".mkv": ("matroska", "libx264"),
    ".webm": ("webm", "libvpx-vp9"),
}
# What is read besides. It becomes a .mkv, which holds whatever sound there is.
READ_ONLY = (
    ".3gp .asf .avi .divx .dv .f4v .flv .m2ts .mpe .mpeg .mpg .mts .mxf .ogv .ts .vob .wmv"
).split()

QUALITY = 18  # x264's constant rate factor: what it takes away at 18 is hardly seen

# Frames that lie between one and those it is predicted from: of x264 and VP9, at most so many.
REORDERED = 2

# A segment says when its first frame is shown: NUT, which keeps any unit of time, has no time before
# zero, where decoding would have to begin, and counts from elsewhere instead.
START = "fnst_start"

# FFmpeg's numbers of colour matrices (AVCOL_SPC_*), and what libswscale calls the same (SWS_CS_*).
BT709, UNTOLD, BT601 = 1, 2, 5
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
LIMITED, FULL = 1, 2  # AVCOL_RANGE_*: 16 to 235, and 0 to 255

# Transfers of more light than a screen has (AVCOL_TRC_*): PQ and HLG, ITU-R BT.2100.
HDR = {16: "PQ", 18: "HLG"}

# Pictures beside the sound, such as a cover (AV_DISPOSITION_*).
COVER = 0x0400 | 0x0800


def is_clip(path: Path) -> bool:
    """Whether the ending is that of a video file."""
    return path.suffix.lower() in CONTAINERS or path.suffix.lower() in READ_ONLY


def ending(source: Path) -> str:
    """The ending of what a clip becomes if nobody names it."""
    return source.suffix if source.suffix.lower() in CONTAINERS else ".mkv"


@dataclass(frozen=True)
class Frame:
    """One frame: its pixels, upright, and when it is shown, in the clip's own unit of time."""

    pixels: Pixels
    time: int
    duration: int


@dataclass(frozen=True)
class Colours:
    """How a file says its numbers are meant, in FFmpeg's numbers, and what we take them for."""

    matrix: int
    range: int
    primaries: int
    transfer: int
    assumed: int  # the matrix, for libswscale


@dataclass
class Clip:
    """A video file that can be read, and what of it has to be kept."""

    path: Path
    width: int  # upright
    height: int
    unit: Fraction  # of time, in seconds
    rate: Fraction  # frames a second, on average
    aspect: Fraction  # of a pixel, width to height
    count: int | None  # frames, as far as the file says so
    colours: Colours
    turn: tuple[int, int, int, int]  # of its display matrix: a, b, c, d, each -1, 0 or 1
    filters: tuple[tuple[str, str], ...]  # FFmpeg's, that every frame passes first
    notes: list[str] = field(default_factory=list)  # what the reader should know

    def frames(self, skip: int = 0) -> Iterator[Frame]:
        """All frames but the first so many, one after the other; a file may end too early.

        Raises:
            VideoError: when the file is damaged beyond what can be left out.
        """
        with _opened(self.path) as container:
            stream = _pictures(container, self.path)
            start, last = _start(container, stream), -1
            for index, frame in enumerate(self._filtered(container, stream)):
                found = last + 1 if frame.pts is None else _in(frame, self.unit) - start
                # Broken files show two frames at a time; encoders refuse that.
                last = max(found, last + 1) if index else found
                if index >= skip:
                    yield Frame(self._pixels(frame), last, self._duration(frame))

    def _filtered(self, container: Any, stream: Any) -> Iterator[Any]:
        frames = self._decoded(container, stream)
        return _through(self.filters, frames) if self.filters else frames

    def _decoded(self, container: Any, stream: Any) -> Iterator[Any]:
        """What a decoder makes of the packets, without those that it refuses."""
        import av

        refused = count = 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # the file ends within a packet
                refused, packet = refused + 1, None
            if packet is None:
                break
            try:
                frames = packet.decode()
            except av.FFmpegError:
                refused += 1
                continue
            count += len(frames)
            yield from frames
        if refused or (self.count and stream.frames and count < 0.99 * stream.frames):
            self.notes.append(f"{self.path} is damaged; {count} frames of it could be read")

    def _pixels(self, frame: Any) -> Pixels:
        upright = _turned(_to_rgb(frame, self._size, self.colours), self.turn)
        return torch.from_numpy(np.ascontiguousarray(upright)).permute(2, 0, 1).unsqueeze(0)

    @property
    def _size(self) -> tuple[int, int]:
        """Width and height as they are stored."""
        across = self.turn[0] == 0
        return (self.height, self.width) if across else (self.width, self.height)

    def _duration(self, frame: Any) -> int:
        if frame.duration:
            return int(frame.duration * frame.time_base / self.unit) or 1
        return max(1, round(1 / (self.rate * self.unit)))


def read(path: Path) -> Clip:
    """Open a video file, and decode its first frame to see what it is.

    Raises:
        VideoError: when it is missing, damaged or no video, or PyAV is not installed.
    """
    with _opened(path) as container:
        stream = _pictures(container, path)
        frame = next(_first(container, stream, path))
        turn = _turn(frame)
        width, height = frame.width, frame.height
        aspect = stream.sample_aspect_ratio or Fraction(1)
        if turn[0] == 0:
            width, height, aspect = height, width, 1 / aspect
        clip = Clip(
            path,
            width,
            height,
            unit=stream.time_base,
            rate=_rate(stream),
            aspect=aspect,
            count=_count(container, stream),
            colours=_colours(frame),
            turn=turn,
            filters=(),
        )
        return _prepared(clip, frame)


def _first(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue
    raise VideoError(f"{path}: none of its frames can be read.")


def _prepared(clip: Clip, frame: Any) -> Clip:
    """The clip with the filters that it needs, and with what is to be said about it."""
    filters = []
    if frame.interlaced_frame:
        filters.append(("bwdif", "mode=send_frame:deint=interlaced"))
        clip.notes.append(f"{clip.path} is interlaced; its half frames become whole ones")
    if transfer := HDR.get(frame.color_trc):
        filters.append(("scale", f"in_transfer={frame.color_trc}:{TO_SDR}"))
        filters.append(("format", "rgb24"))
        clip.colours = Colours(BT709, LIMITED, 1, 1, BT709)
        clip.notes.append(f"{clip.path} is HDR ({transfer}); it becomes SDR (BT.709, 8 bits)")
    elif any(part.bits > 8 for part in frame.format.components):
        clip.notes.append(f"{clip.path} has more than 8 bits a colour; 8 are written")
    clip.filters = tuple(filters)
    return clip


TO_SDR = "out_primaries=bt709:out_transfer=bt709:out_color_matrix=bt709:intent=perceptual"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file for a ``with`` block; whatever goes wrong comes out as a VideoError."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            yield container
    except FileNotFoundError as error:
        raise VideoError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise VideoError(f"{path}: expected a video, got a folder.") from error
    except PermissionError as error:
        raise VideoError(f"{path}: this file may not be read by you.") from error
    except (av.FFmpegError, EOFError) as error:
        raise VideoError(f"{path}: this is not a video that can be read.") from error


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise VideoError("clips need PyAV; install it by: pip install 'fnst[video]'.") from error
    return av


def _pictures(container: Any, path: Path) -> Any:
    """The stream that moves: the first that is no cover."""
    for stream in container.streams.video:
        if not int(stream.disposition) & COVER:
            stream.thread_type = "AUTO"
            return stream
    raise VideoError(f"{path}: there are no moving pictures in this file.")


def _start(container: Any, stream: Any) -> int:
    """When the file begins, in the stream's unit: not at zero in broadcasts."""
    return round(Fraction(container.start_time or 0, 1_000_000) / stream.time_base)


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _count(container: Any, stream: Any) -> int | None:
    if stream.frames:
        return int(stream.frames)
    seconds = Fraction(container.duration or 0, 1_000_000)
    return round(seconds * _rate(stream)) or None


def _in(frame: Any, unit: Fraction) -> int:
    return round(frame.pts * frame.time_base / unit)


# --- colours and directions -----------------------------------------------------------------------


def _colours(frame: Any) -> Colours:
    """As the file says; where it is silent, as players guess: BT.709 for HD, BT.601 below."""
    guess = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    if frame.format.is_rgb or "gbr" in frame.format.name:
        return Colours(guess, LIMITED, UNTOLD, UNTOLD, guess)
    full = frame.color_range == FULL or frame.format.name.startswith("yuvj")
    return Colours(
        frame.colorspace,
        FULL if full else LIMITED,
        frame.color_primaries,
        frame.color_trc,
        MATRICES.get(frame.colorspace, guess),
    )


def _exactly() -> Any:
    """How libswscale is to convert; left to itself, it makes everything a level darker."""
    from av.video.reformatter import Interpolation as I  # noqa: E741, N814

    return I.BICUBIC | I.ACCURATE_RND | I.FULL_CHR_H_INT | I.FULL_CHR_H_INP


def _to_rgb(frame: Any, size: tuple[int, int], colours: Colours) -> UInt8[np.ndarray, "h w 3"]:
    width, height = size  # some files change it on the way
    is_rgb = frame.format.is_rgb
    rgb = frame.reformat(
        width,
        height,
        "rgb24",
        src_colorspace=None if is_rgb else colours.assumed,
        src_color_range=FULL if is_rgb else colours.range,
        dst_color_range=FULL,
        interpolation=_exactly(),
    )
    return np.asarray(rgb.to_ndarray())


def _to_yuv(pixels: Pixels, colours: Colours, layout: str) -> Any:
    import av

    rows = pixels[0].permute(1, 2, 0).contiguous().cpu().numpy()
    yuv = av.VideoFrame.from_ndarray(rows, format="rgb24").reformat(
        format=layout,
        src_color_range=FULL,
        dst_colorspace=colours.assumed,
        dst_color_range=colours.range,
        interpolation=_exactly(),
    )
    yuv.colorspace, yuv.color_range = colours.matrix, colours.range
    yuv.color_primaries, yuv.color_trc = colours.primaries, colours.transfer
    return yuv


def _turn(frame: Any) -> tuple[int, int, int, int]:
    """How a player turns the frame: the signs of its display matrix, (1, 0, 0, 1) for not at all.

    Painting needs frames upright: strokes have directions.
    """
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)
            signs = int(np.sign(a)), int(np.sign(b)), int(np.sign(c)), int(np.sign(d))
            if abs(signs[0] * signs[3] - signs[1] * signs[2]) == 1:
                return signs
    return 1, 0, 0, 1


def _turned(
    rows: UInt8[np.ndarray, "_ _ 3"], turn: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Pixels as a player shows them: what lay at (x, y) comes to (a x + c y, b x + d y)."""
    a, b, c, d = turn
    if a == 0:
        rows = rows.swapaxes(0, 1)
        a, d = c, b
    return rows[:: d or 1, :: a or 1]


def _through(filters: Sequence[tuple[str, str]], frames: Iterable[Any]) -> Iterator[Any]:
    """Frames after FFmpeg's filters have worked on them."""
    import av

    graph = None
    for frame in frames:
        if graph is None:
            graph = _graph(filters, frame)
        graph.push(frame)
        yield from _pulled(graph, av)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, av)


def _graph(filters: Sequence[tuple[str, str]], frame: Any) -> Any:
    import av

    graph = av.filter.Graph()
    unit = frame.time_base
    entry = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}"
        f":time_base={unit.numerator}/{unit.denominator}"
        f":colorspace={frame.colorspace}:range={frame.color_range}"
    )
    nodes = [graph.add(*each) for each in (("buffer", entry), *filters, ("buffersink", ""))]
    for first, second in zip(nodes, nodes[1:], strict=False):
        first.link_to(second)
    graph.configure()
    return graph


def _pulled(graph: Any, av: Any) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError, av.BlockingIOError, av.EOFError):
            return


# --- writing --------------------------------------------------------------------------------------


def check_writable(clip: Clip, target: Path) -> None:
    """Raise VideoError when the target cannot hold the clip: before the work, not after it."""
    av = _av()
    if target.suffix.lower() not in CONTAINERS:
        raise VideoError(
            f"{target}: expected an ending that clips are written with ({', '.join(CONTAINERS)}), "
            f"got {target.suffix or 'none'}."
        )
    _, encoder = CONTAINERS[target.suffix.lower()]
    if encoder not in av.codecs_available:
        raise VideoError(
            f"{target}: this PyAV was built without {encoder}; install it as its authors built it: "
            "pip install --force-reinstall --only-binary av av."
        )
    with _opened(clip.path) as container:
        for stream in container.streams.audio:
            if not _holds(target, stream):
                raise VideoError(
                    f"{target}: a {target.suffix} cannot hold the sound of {clip.path} "
                    f"({stream.codec_context.name}); name a target that ends in .mkv, which can."
                )
        lost = [s for s in container.streams.subtitles if not _holds(target, s)]
    if lost:
        clip.notes.append(f"{target.suffix} cannot hold the subtitles of {clip.path}; .mkv can")
    if layout(clip, target) == "yuv444p":
        clip.notes.append(
            f"{clip.width}x{clip.height} is odd: written as 4:4:4, which not every player knows"
        )


def _holds(target: Path, stream: Any) -> bool:
    import io

    import av

    container, _ = CONTAINERS[target.suffix.lower()]
    with av.open(io.BytesIO(), "w", format=container) as out:
        return stream.codec_context is not None and stream.codec.canonical_name in (
            out.supported_codecs
        )


def layout(clip: Clip, target: Path) -> str:
    """Colours at half the resolution, as every player expects them, where the size allows it."""
    _, encoder = CONTAINERS[target.suffix.lower()]
    is_odd = clip.width % 2 or clip.height % 2
    return "yuv444p" if is_odd and encoder == "libx264" else "yuv420p"


def write(path: Path, clip: Clip, target: Path, frames: Iterable[Frame], quality: int) -> None:
    """Encode frames into a file of their own, of which ``join`` makes the target with others."""
    import av

    _, encoder = CONTAINERS[target.suffix.lower()]
    with av.open(str(path), "w", format="nut") as out:
        stream = out.add_stream(encoder, clip.rate, options=_options(encoder, quality))
        stream.width, stream.height = clip.width, clip.height
        stream.pix_fmt = layout(clip, target)
        stream.time_base = stream.codec_context.time_base = clip.unit
        stream.codec_context.sample_aspect_ratio = clip.aspect
        stream.codec_context.thread_type = "AUTO"
        colours = clip.colours
        stream.colorspace, stream.color_range = colours.matrix, colours.range
        stream.color_primaries, stream.color_trc = colours.primaries, colours.transfer
        for frame in frames:
            out.metadata.setdefault(START, str(frame.time))
            picture = _to_yuv(frame.pixels, colours, stream.pix_fmt)
            picture.pts, picture.time_base = frame.time, clip.unit
            picture.duration = frame.duration
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))


def _options(encoder: str, quality: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"crf": str(quality), "preset": "fast"}
    # VP9 counts to 63 where x264 counts to 51, and 4 is its speed for people who wait.
    factor = min(63, round(quality * 4 / 3))
    return {"crf": str(factor), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}


def join(path: Path, clip: Clip, target: Path, segments: Sequence[Path]) -> None:
    """Put segments one after the other, and beside them all else that the clip holds.

    Nothing is encoded again. ``path`` gets what ``target`` says by its ending.
    """
    import av

    container, _ = CONTAINERS[target.suffix.lower()]
    options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
    with (
        _opened(clip.path) as source,
        av.open(str(segments[0])) as first,
        av.open(str(path), "w", format=container, container_options=options) as out,
    ):
        out.metadata.update(source.metadata)
        pictures = out.add_stream_from_template(first.streams.video[0])
        original = _pictures(source, clip.path)
        pictures.time_base = clip.unit
        pictures.metadata.update(original.metadata)
        copies = {
            stream.index: out.add_stream_from_template(stream)
            for stream in (*source.streams.audio, *source.streams.subtitles)
            if _holds(target, stream)
        }
        for stream in source.streams:
            if stream.index in copies:
                copies[stream.index].metadata.update(stream.metadata)
                copies[stream.index].disposition = stream.disposition
        if source.chapters():
            out.set_chapters(source.chapters())
        painted = _painted(segments, pictures, clip)
        for packet in merge(painted, _copied(source, copies), key=_moment):
            out.mux(packet)


def _moment(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)


def _painted(segments: Sequence[Path], stream: Any, clip: Clip) -> Iterator[Any]:
    """The packets of all segments, with times of decoding that go on from one to the next."""
    import av

    before: deque[int] = deque(maxlen=REORDERED + 1)
    step = max(1, round(1 / (clip.rate * clip.unit)))
    for segment in segments:
        with av.open(str(segment)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
            begin = min(packet.pts for packet in packets)
            for packet in packets:
                scale = packet.time_base / clip.unit
                packet.pts = int(container.metadata[START]) + round((packet.pts - begin) * scale)
                packet.duration = round((packet.duration or 0) * scale)
                packet.time_base = clip.unit
        for packet, shown in zip(packets, sorted(p.pts for p in packets), strict=True):
            if not before:
                before.extend(shown - step * i for i in range(REORDERED, 0, -1))
            before.append(shown)
            packet.dts, packet.stream = before[0], stream
            yield packet


def _copied(source: Any, copies: Mapping[int, Any]) -> Iterator[Any]:
    """The packets of the other streams as they are, in time with the pictures."""
    chosen = [stream for stream in source.streams if stream.index in copies]
    if not chosen:
        return
    starts = {stream.index: _start(source, stream) for stream in chosen}
    for packet in source.demux(chosen):
        if packet.dts is None:
            continue
        start = starts[packet.stream.index]
        packet.pts, packet.dts = (packet.pts or packet.dts) - start, packet.dts - start
        packet.stream = copies[packet.stream.index]
        yield packet
