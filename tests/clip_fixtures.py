"""Small clips, written frame by frame."""

import re
import struct
from fractions import Fraction

import av
import numpy as np

UNIT = Fraction(1, 12800)
EVEN = [512 * i for i in range(10)]  # 25 frames a second
UNEVEN = [0, 512, 1024, 3072, 3584, 6144, 6656, 7168, 9728, 10240]


def picture(index, width=64, height=48):
    """A bright square that moves to the right over a slope."""
    rows = np.zeros((height, width, 3), np.uint8)
    rows[..., 0] = np.linspace(40, 200, width)
    rows[..., 1] = np.linspace(60, 160, height)[:, None]
    rows[10:26, 4 + 3 * index : 20 + 3 * index] = (230, 220, 90)
    return rows


def write(
    path,
    *,
    times=EVEN,
    size=(64, 48),
    sound="",
    turns=0,
    codec="libx264",
    movflags="",
    last=512,
    tags=None,
    **says,
):
    """A clip; ``says`` are properties of its pictures, such as ``color_range=2``.

    Players turn it clockwise by so many quarters, and show the last picture for so long.
    """
    options = {"movflags": movflags} if movflags else {}
    with av.open(str(path), "w", container_options=options) as out:
        out.metadata.update(tags or {})
        video = out.add_stream(codec, rate=25)
        video.width, video.height = size
        video.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        video.time_base = video.codec_context.time_base = UNIT
        for name, value in says.items():
            setattr(video.codec_context, name, value)
        audio = out.add_stream(sound, rate=44100, layout="mono") if sound else None
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), format="rgb24")
            frame.pts, frame.time_base = time, UNIT
            out.mux(video.encode(frame))
        packets = video.encode(None)
        max(packets, key=lambda packet: packet.pts).duration = last
        out.mux(packets)
        if audio:
            _hum(out, audio, times[-1] * UNIT)
    if turns:
        _turn(path, turns)
    return path


def _turn(path, turns):
    """Write into an MP4 file how its pictures are to be turned: a matrix of the track."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[turns % 4]
    upright, turned = (
        struct.pack(">9i", c << 16, s << 16, 0, -s << 16, c << 16, 0, 0, 0, 1 << 30)
        for c, s in ((1, 0), (cos, sin))
    )
    content = path.read_bytes()
    place = content.index(upright, content.index(b"tkhd"))
    path.write_bytes(content[:place] + turned + content[place + len(turned) :])


def damage(path):
    """Let a fragment in the middle of an MP4 file claim a packet larger than any memory."""
    content = bytearray(path.read_bytes())
    heads = [place.end() for place in re.finditer(b"tfhd", content)]
    size = heads[len(heads) // 2] + 20  # after flags, track, offset and duration
    content[size : size + 4] = b"\xff" * 4
    path.write_bytes(content)


def _hum(out, audio, seconds):
    count = int(44100 * seconds)
    wave = (np.sin(np.arange(count) / 16) * 8000).astype(np.int16)
    for start in range(0, count, 1024):
        frame = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "s16", "mono")
        frame.sample_rate, frame.pts = 44100, start
        out.mux(audio.encode(frame))
    out.mux(audio.encode(None))


def frames(path):
    """All frames of a clip: their times in seconds, and their pixels."""
    with av.open(str(path)) as container:
        shown = [(float(f.time), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    times, pixels = zip(*shown, strict=True)
    return list(times), list(pixels)


def packets(path, kind="audio"):
    """The bytes of a stream, packet by packet, with their times."""
    with av.open(str(path)) as container:
        stream = container.streams.get(**{kind: 0})[0]
        return [(float(p.pts * p.time_base), bytes(p)) for p in container.demux(stream) if p.size]


def length(path):
    """How long a clip is, in seconds."""
    with av.open(str(path)) as container:
        return container.duration / av.time_base


def tags(path):
    """What a clip says of itself as a whole."""
    with av.open(str(path)) as container:
        return dict(container.metadata)
