"""Painted frames as video files: segments first, of which the whole is put together at the end.

Nothing is encoded twice, and what a clip holds beside its pictures, sound, subtitles and chapters,
is copied as it is.
"""

import io
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from heapq import merge
from pathlib import Path
from typing import Any

from fnst import clips
from fnst.clips import Clip, Clock, Frame
from fnst.errors import VideoError
from fnst.frames import from_pixels, label, pyav

QUALITY = 18  # x264's constant rate factor; at 18, one hardly sees that something was taken away
WORST = 51  # of that scale; 0 loses nothing

# Of the frames that one is predicted from, so many at most are shown after it: as x264 does.
REORDERED = 2

# NUT keeps every unit of time, but none before zero, where decoding would have to begin: it then
# counts from elsewhere. So a segment says when its first frame is shown; and, as NUT knows of no
# durations, for how long its last one.
SEGMENT, START, LAST = "nut", "fnst_start", "fnst_last"

# Of the quality that pictures have, 1 to 100: what is visually lossless in a JPEG.
LOSSLESS_TO_SEE = 95


@dataclass(frozen=True)
class Format:
    """A kind of file, in FFmpeg's words."""

    container: str
    encoder: str
    options: Mapping[str, str]


MP4 = {"movflags": "+faststart"}  # so that a browser shows it before it has all of it
FORMATS = {
    ".mp4": Format("mp4", "libx264", MP4),
    ".m4v": Format("mp4", "libx264", MP4),
    ".mov": Format("mov", "libx264", MP4),
    ".mkv": Format("matroska", "libx264", {}),
    ".webm": Format("webm", "libvpx-vp9", {}),
}
ANY = ".mkv"  # what holds any sound

# What QuickTime says of place and camera; FFmpeg writes it if it may name all tags as they are.
QUICKTIME, AS_NAMED = "com.apple.quicktime.", "+use_metadata_tags"
OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands"}  # and of no other


def rate_factor(quality: int) -> int:
    """x264's constant rate factor for a quality as pictures have it, 1 to 100.

    Chosen by us: a straight line from the worst of one scale and the other through what is visually
    lossless in both. 80 becomes 23, x264's own choice.
    """
    step = (WORST - QUALITY) / (LOSSLESS_TO_SEE - 1)
    return round(QUALITY + (LOSSLESS_TO_SEE - quality) * step)


def ending(source: Path) -> str:
    """The ending of what a clip becomes if nobody names it."""
    return source.suffix if source.suffix.lower() in FORMATS else ANY


def check_writable(clip: Clip, target: Path) -> list[str]:
    """Refuse, before the work, what the target could not hold; what is left out is noted.

    Raises:
        VideoError: when the ending is unknown, the encoder missing, or the sound would be lost.
    """
    if target.suffix.lower() not in FORMATS:
        raise VideoError(
            f"{target}: expected an ending that clips are written with ({', '.join(FORMATS)}), "
            f"got {target.suffix or 'none'}."
        )
    if (encoder := _format(target).encoder) not in pyav().codecs_available:
        raise VideoError(
            f"{target}: the installed PyAV was built without {encoder}; "
            "`pip install --force-reinstall --only-binary=av av` brings one that has it."
        )
    with clips.opened(clip.path) as source:
        for stream in source.streams.audio:
            if not _holds(target, stream):
                fits = _holds(target.with_suffix(ANY), stream)
                way = f"name a target that ends in {ANY}" if fits else "convert the sound first"
                raise VideoError(
                    f"{target}: {target.suffix} files cannot hold the sound of {clip.path} "
                    f"({_codec(stream)}); {way}."
                )
        lost = any(not _holds(target, stream) for stream in source.streams.subtitles)
    notes = [f"its subtitles do not fit into {target.suffix}, and are left out"] if lost else []
    if layout(clip, target) == "yuv444p":
        notes.append("its sides are odd, and not every player shows H.264 like that")
    return notes


def layout(clip: Clip, target: Path) -> str:
    """FFmpeg's pixel format; H.264 with colours at half the resolution has no odd sides."""
    is_odd = clip.width % 2 or clip.height % 2
    return "yuv444p" if is_odd and _format(target).encoder == "libx264" else "yuv420p"


def write(path: Path, clip: Clip, target: Path, frames: Iterable[Frame], quality: int) -> None:
    """Encode frames into a segment of what is to become the target."""
    form = _format(target)
    with _written(path, target, SEGMENT) as out:
        stream = out.add_stream(form.encoder, clip.rate, options=_options(form.encoder, quality))
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, layout(clip, target)
        stream.time_base = stream.codec_context.time_base = clip.unit
        stream.codec_context.sample_aspect_ratio = clip.aspect
        stream.codec_context.thread_type = "AUTO"
        label(stream, clip.colours)
        packets = []  # what is said of a file has to be known before the first is written
        for frame in frames:
            out.metadata.setdefault(START, str(frame.time))
            out.metadata[LAST] = str(frame.duration)
            picture = from_pixels(frame.pixels, clip.colours, stream.pix_fmt)
            picture.pts, picture.time_base = frame.time, clip.unit
            picture.duration = frame.duration
            packets += stream.encode(picture)
        out.mux([*packets, *stream.encode(None)])


def length(segment: Path) -> int:
    """How many frames a segment has."""
    with clips.opened(segment) as container:
        return sum(packet.pts is not None for packet in container.demux(video=0))


def join(path: Path, clip: Clip, target: Path, segments: Sequence[Path]) -> None:
    """Put segments together, with all else that the clip holds, into what becomes the target."""
    with (
        clips.opened(clip.path) as source,
        clips.opened(segments[0]) as first,
        _joined(path, target, source.metadata) as out,
    ):
        stream = out.add_stream_from_template(first.streams.video[0])
        stream.time_base = clip.unit
        stream.metadata.update(clips.pictures(source, clip.path).metadata)
        copies = {
            each.index: _copy(out, each)
            for each in (*source.streams.audio, *source.streams.subtitles)
            if _holds(target, each)
        }
        out.set_chapters(source.chapters())
        for packet in merge(_painted(segments, stream, clip), _copied(source, copies), key=_moment):
            out.mux(packet)


def _format(target: Path) -> Format:
    return FORMATS[target.suffix.lower()]


def _options(encoder: str, quality: int) -> dict[str, str]:
    if encoder == "libx264":
        return {"crf": str(quality), "preset": "fast"}
    # VP9's scale ends at 63. Its speeds begin at 0; 4 is for those who want to see the end.
    crf = str(round(quality * 63 / WORST))
    return {"crf": crf, "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}


@contextmanager
def _written(
    path: Path, target: Path, container: str, options: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """A file to write in a ``with`` block; what goes wrong with it is said of the target."""
    av = pyav()
    try:
        with av.open(
            str(path.absolute()), "w", format=container, container_options=dict(options or {})
        ) as out:
            yield out
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise VideoError(f"{target} cannot be written: {reason}.") from error


@contextmanager
def _joined(path: Path, target: Path, metadata: Mapping[str, str]) -> Iterator[Any]:
    """A file to write of the target's format, with these tags."""
    form = _format(target)
    tags = {key: value for key, value in metadata.items() if key not in OF_THE_FILE}
    options = dict(form.options)
    if "movflags" in options and any(key.startswith(QUICKTIME) for key in tags):
        options["movflags"] += AS_NAMED
    with _written(path, target, form.container, options) as out:
        out.metadata.update(tags)
        yield out


def _holds(target: Path, stream: Any) -> bool:
    if not stream.codec_context:
        return False
    codec = stream.codec_context.codec  # FFmpeg lists some under one name, some under the other
    with pyav().open(io.BytesIO(), "w", format=_format(target).container) as out:
        return not {codec.name, codec.canonical_name}.isdisjoint(out.supported_codecs)


def _codec(stream: Any) -> str:
    return str(stream.codec_context.codec.canonical_name) if stream.codec_context else "unknown"


def _copy(out: Any, stream: Any) -> Any:
    """A stream like that, for its packets."""
    copy = out.add_stream_from_template(stream)
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _moment(packet: Any) -> Fraction:
    return Fraction(packet.dts * packet.time_base)


def _painted(segments: Sequence[Path], stream: Any, clip: Clip) -> Iterator[Any]:
    """The packets of all segments, with times of decoding that go on from one to the next."""
    before: deque[int] = deque(maxlen=REORDERED + 1)
    for segment in segments:
        with clips.opened(segment) as container:
            packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
            begin, first = int(container.metadata[START]), min(p.pts for p in packets)
            last = int(container.metadata.get(LAST, clip.step))
        for packet in packets:
            scale = packet.time_base / clip.unit
            packet.pts = begin + round((packet.pts - first) * scale)
            packet.duration = round((packet.duration or 0) * scale)
            packet.time_base = clip.unit
        max(packets, key=lambda packet: packet.pts).duration = last
        for packet, shown in zip(packets, sorted(p.pts for p in packets), strict=True):
            if not before:
                before.extend(shown - clip.step * i for i in range(REORDERED, 0, -1))
            before.append(shown)
            packet.dts, packet.stream = before[0], stream
            yield packet


def _copied(source: Any, copies: Mapping[int, Any]) -> Iterator[Any]:
    """The packets of other streams, in time with the pictures, as far as they can be read."""
    if not copies:
        return
    starts = {index: clips.start(source, source.streams[index]) for index in copies}
    clocks = {index: _clock(source.streams[index]) for index in copies}
    for packet in clips.packets(source, [source.streams[index] for index in copies]):
        if packet is None or packet.dts is None:  # only a mark of the end
            continue
        index = packet.stream.index
        _set_time(packet, starts[index], clocks[index])
        packet.stream = copies[index]
        yield packet


def _clock(stream: Any) -> Clock:
    """In samples for sound, as MP4 has it, which wants no two packets at the same time."""
    if stream.type != "audio":
        return Clock(stream.time_base, least=0)  # two subtitles may be shown at once
    rate = stream.codec_context.sample_rate
    return Clock(Fraction(1, rate) if rate else stream.time_base)


def _set_time(packet: Any, begin: int, clock: Clock) -> None:
    scale = packet.time_base / clock.unit
    late = 0 if packet.pts is None else packet.pts - packet.dts
    packet.duration = round((packet.duration or 0) * scale)
    packet.dts = clock(round((packet.dts - begin) * scale), packet.duration or 1)
    packet.pts = packet.dts + round(late * scale)
    packet.time_base = clock.unit
