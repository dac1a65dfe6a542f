"""Results as files: every frame of what came, and what the file that it came from said.

Frames are written as they come, so that memory does not grow with their number. A result is sRGB;
where its photograph had a colour profile, the result has that of sRGB. This differs from turning
it back into the photograph's own colours: the network's are sRGB, so that nothing would be gained
by a larger space, and every program knows this one.
"""

import io
import itertools
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, GifImagePlugin, PngImagePlugin
from PIL import Image as Pillow

from fnst import colours, deep, images, tiff
from fnst.errors import ImageError
from fnst.images import FORMATS, KEEPS_ALPHA
from fnst.originals import HEIGHT, WIDTH, About, Frame
from fnst.tiff import Target

# How good a lossy result is, 1 to 100, in these formats.
HAS_QUALITY = {"JPEG", "WEBP", "AVIF"}

# The most pixels that a side may have: libjpeg's JPEG_MAX_DIMENSION, libwebp's WEBP_MAX_DIMENSION,
# GIF89a (18). AVIF has room for more, which libavif writes and does not read again
# (AVIF_DEFAULT_IMAGE_DIMENSION_LIMIT).
MOST_PIXELS_A_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 32_768}

# The most that a JPEG's segment takes beside its own name (JPEG, B.1.1.4).
SEGMENT = {"exif": 65_533, "xmp": 65_504}

IPTC = 0x0404  # its number among Photoshop's resources

MOST_PLAYS = 65_535  # GIF and WebP count them in 16 bits

# Where a WebP that moves has flags, and which of them is alpha's (RFC 9649, 2.7.1).
WEBP_FLAGS, WEBP_ALPHA = 20, 0x10

# Below this, a pixel of a GIF is clear: it knows nothing between.
HALF = 128
CLEAR = 255  # the colour of its palette that stands for it


def check_sides(picture: images.Picture, ending: str, name: str) -> None:
    """Raise ImageError when no file with that ending holds a picture so large.

    Args:
        picture: of the size that is to be written.
        ending: such as ``.png``.
        name: what the picture is called when it is too large.
    """
    height, width = picture.rgb.shape[2:]
    most = MOST_PIXELS_A_SIDE.get(FORMATS[ending.lower()]["format"])
    if most and max(height, width) > most:
        raise ImageError(
            f"{name}: expected at most {most:,} pixels a side, as {ending} files hold no more, "
            f"got {width}x{height}; choose another format, such as .png."
        )


def write(
    file: Target, ending: str, frames: Iterator[Frame], quality: int | None = None
) -> list[str]:
    """Write a picture file in the format of an ending; what the reader should know about it.

    Args:
        file: where to; it can be read and sought in.
        ending: such as ``.png``.
        frames: at least one; only the first is taken where the format has no more.
        quality: 1 to 100, where the format loses something; visually lossless if None.
    """
    options = dict(FORMATS[ending.lower()])
    kind = options["format"]
    if quality is not None and kind in HAS_QUALITY:
        options["quality"] = quality
    first = _sized(next(frames))
    about, notes = first.about, list(first.about.notes)
    if about.plays is not None and kind in MOVING:
        MOVING[kind](file, itertools.chain([first], frames), about, options)
        return notes
    if about.plays is not None:
        notes.append(f"only its first frame was kept, as {ending} files hold one")
    _write_still(file, first, options)
    return notes


def _write_still(file: Target, frame: Frame, options: dict[str, Any]) -> None:
    kind, picture = options["format"], frame.picture
    if kind == "GIF":
        _write_gif(file, iter([frame]), frame.about, options)
    elif kind == "TIFF":
        tiff.write(file, _pixels(picture), _tags(frame.about))
    elif picture.depth > 8 and kind == "PNG":
        deep.write_png(file, _deep(picture), options | _said(kind, frame.about))
    else:
        image = images.to_pillow(picture, keeps_alpha=kind in KEEPS_ALPHA)
        image.save(file, **options, **_said(kind, frame.about))


def _pixels(picture: images.Picture) -> tiff.Pixels:
    if picture.depth > 8:
        return _deep(picture)
    return np.asarray(images.to_pillow(picture, keeps_alpha=True))


def _deep(picture: images.Picture) -> deep.Pixels:
    """Sixteen bits of each colour, and of alpha."""
    planes = [images.to_floats(picture.rgb)]
    if picture.alpha is not None:
        planes.append(images.to_floats(picture.alpha))
    values = torch.cat(planes, 1)[0].permute(1, 2, 0).mul(65535).round_().clamp_(0, 65535)
    return values.cpu().numpy().astype(np.uint16)


# --- what a file says -----------------------------------------------------------------------------


def _sized(frame: Frame) -> Frame:
    """The frame, and EXIF that states its sides: a sheet's are not its photograph's."""
    height, width = frame.picture.rgb.shape[2:]
    exif = Pillow.Exif()
    exif.load(frame.about.exif)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    if not details or (details.get(WIDTH), details.get(HEIGHT)) == (width, height):
        return frame
    details.update({WIDTH: width, HEIGHT: height})
    return replace(frame, about=replace(frame.about, exif=exif.tobytes()))


def _said(kind: str, about: About) -> dict[str, Any]:
    """Pillow's options for what is said beside the pixels, where the format has room for it."""
    said: dict[str, Any] = {}
    if about.exif and kind not in {"GIF", "BMP"}:
        said["exif"] = about.exif
    if about.xmp and kind in {"JPEG", "WEBP", "AVIF"}:
        said["xmp"] = about.xmp
    if kind == "PNG" and (about.xmp or about.texts):
        said["pnginfo"] = _texts(about)
    if about.comment and kind == "JPEG":
        said["comment"] = about.comment
    if about.iptc and kind == "JPEG":
        said["extra"] = _photoshop(about.iptc)
    if about.dpi and kind in {"JPEG", "PNG", "BMP"}:
        said["dpi"] = about.dpi
    if about.has_profile and kind not in {"GIF", "BMP"}:
        said["icc_profile"] = colours.srgb_profile()
    if kind == "JPEG":  # whose segments are short
        return {k: v for k, v in said.items() if k not in SEGMENT or len(v) <= SEGMENT[k]}
    return said


def _texts(about: About) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    if about.xmp:
        info.add_itxt("XML:com.adobe.xmp", about.xmp.decode(errors="replace"))
    for keyword, text in about.texts:
        info.add_text(keyword, text)
    return info


def _photoshop(iptc: bytes) -> bytes:
    """A JPEG's segment of Photoshop's resources (Adobe Photoshop File Formats) with IPTC alone.

    Pillow writes it among its own.
    """
    resource = b"8BIM" + struct.pack(">HHI", IPTC, 0, len(iptc)) + iptc + bytes(len(iptc) % 2)
    content = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(content) + 2) + content


def _tags(about: About) -> dict[int, Any]:
    """The same, as tags of a TIFF."""
    tags: dict[int, Any] = {}
    if about.exif:
        exif = Pillow.Exif()
        exif.load(about.exif)
        tags |= dict(exif) | {tag: exif.get_ifd(tag) for tag in (34665, 34853) if tag in exif}
    if about.xmp:
        tags[700] = about.xmp
    if about.iptc:
        tags[33723] = about.iptc
    if about.dpi:
        tags |= {282: about.dpi[0], 283: about.dpi[1], 296: 2}
    if about.has_profile:
        tags[34675] = colours.srgb_profile()
    return tags


# --- what moves -----------------------------------------------------------------------------------


class _Film(Pillow.Image):
    """Frames as Pillow's encoders ask for them: an image in which one can only go forward."""

    def __init__(self, frames: Iterator[Frame], count: int) -> None:
        super().__init__()
        self.n_frames, self.is_animated = count, True
        self.milliseconds: list[int] = []  # grows as frames are shown
        self._frames, self._at = frames, -1
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame <= self._at:
            return  # what an encoder asks for when it is done
        shown = next(self._frames, None)
        if shown is None:
            raise EOFError
        self.milliseconds.append(round(shown.milliseconds))
        image = images.to_pillow(shown.picture, keeps_alpha=True)
        self.im, self._mode, self._size = image.im, image.mode, image.size
        self._at = frame

    def tell(self) -> int:
        return self._at


def _write_film(
    file: Target, frames: Iterator[Frame], about: About, options: Mapping[str, Any]
) -> None:
    film = _Film(frames, about.frames)
    said = _said(options["format"], about) | {"loop": min(about.plays or 0, MOST_PLAYS)}
    film.save(file, save_all=True, duration=film.milliseconds, **options, **said)
    if options["format"] == "WEBP" and film.mode == "RGBA":
        _say_clear(file)


def _say_clear(file: Target) -> None:
    """Tell that there is alpha: libwebp does not where all frames are solid, but small."""
    file.seek(WEBP_FLAGS)
    (flags,) = file.read(1)
    file.seek(WEBP_FLAGS)
    file.write(bytes([flags | WEBP_ALPHA]))
    file.seek(0, io.SEEK_END)


def _write_gif(
    file: Target, frames: Iterator[Frame], about: About, options: Mapping[str, Any]
) -> None:
    """Write frames that each have their own palette and take the place of the one before.

    Pillow's own writer keeps all frames until the last.
    """
    for index, frame in enumerate(frames):
        image, clear = _with_palette(frame)
        if index == 0:
            # No palette for all, no background (GIF89a, 18).
            file.write(b"GIF89a" + struct.pack("<HHBBB", *image.size, 0b01110000, 0, 0))
            if about.plays != 1 and about.plays is not None:
                repeats = min(max(0, about.plays - 1), MOST_PLAYS)
                file.write(b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, repeats, 0))
        settings: dict[str, Any] = {"include_color_table": True}
        if about.plays is not None:
            settings["duration"] = min(frame.milliseconds, 655_350.0)  # 16 bits of hundredths
        if clear is not None:
            settings |= {"transparency": clear, "disposal": 2}  # clear again before the next
        for block in GifImagePlugin.getdata(image, **settings):
            file.write(block)
    file.write(b";")


def _with_palette(frame: Frame) -> tuple[Pillow.Image, int | None]:
    """The frame in 256 colours of its own, and which of them is clear."""
    image = images.to_pillow(frame.picture, keeps_alpha=True)
    rgb = image.convert("RGB")
    has_alpha = image.mode == "RGBA"
    palette = rgb.quantize(CLEAR if has_alpha else 256)
    paletted = rgb.quantize(palette=palette, dither=Pillow.Dither.FLOYDSTEINBERG)
    if not has_alpha:
        return paletted, None
    colours_of_it = (paletted.getpalette() or []) + [0] * 768  # so that the clear one is there
    paletted.putpalette(colours_of_it[:768])
    clear = image.getchannel("A").point(lambda level: 255 if level < HALF else 0)
    paletted.paste(CLEAR, mask=clear.convert("1"))
    return paletted, CLEAR


def _write_apng(
    file: Target, frames: Iterator[Frame], about: About, options: Mapping[str, Any]
) -> None:
    """Write frames that each take the place of the one before (PNG, third edition, 11.3.6).

    Pillow's own writer keeps all frames until the last.
    """
    numbers = itertools.count()  # of all chunks that make it move
    file.write(deep.PNG_SIGNATURE)
    count = counted_at = 0
    for count, frame in enumerate(frames, 1):
        *before, end = _png(frame, dict(options) | (_said("PNG", about) if count == 1 else {}))
        data = [content for name, content in before if name == b"IDAT"]
        if count == 1:
            header, *others = [chunk for chunk in before if chunk[0] != b"IDAT"]
            deep.write_chunk(file, *header)
            counted_at = file.tell()
            deep.write_chunk(file, b"acTL", bytes(8))  # filled in when it is known
            for chunk in others:
                deep.write_chunk(file, *chunk)
        deep.write_chunk(file, b"fcTL", _number(numbers) + _control(frame))
        for content in data:
            if count == 1:
                deep.write_chunk(file, b"IDAT", content)
            else:
                deep.write_chunk(file, b"fdAT", _number(numbers) + content)
    deep.write_chunk(file, *end)
    file.seek(counted_at)
    deep.write_chunk(file, b"acTL", struct.pack(">II", count, about.plays or 0))
    file.seek(0, io.SEEK_END)


def _png(frame: Frame, options: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The chunks of a frame alone; all have alpha, because all must be alike."""
    buffer = io.BytesIO()
    image = images.to_pillow(frame.picture, keeps_alpha=True).convert("RGBA")
    image.save(buffer, **options)
    return list(deep.chunks(buffer.getvalue()))


def _number(numbers: Iterator[int]) -> bytes:
    return struct.pack(">I", next(numbers))


def _control(frame: Frame) -> bytes:
    """Where a frame lies and how long it is shown: everywhere, in place of all before it."""
    height, width = frame.picture.rgb.shape[2:]
    thousandths = min(round(frame.milliseconds), 65_535)
    return struct.pack(">4I2H2B", width, height, 0, 0, thousandths, 1000, 0, 0)


MOVING: Mapping[str, Callable[[Target, Iterator[Frame], About, Mapping[str, Any]], None]] = {
    "GIF": _write_gif,
    "PNG": _write_apng,
    "WEBP": _write_film,
    "AVIF": _write_film,
}
