"""Between picture files and tensors: upright, sRGB, alpha apart, whatever the file was.

What comes out of ``load`` is in [0, 1], (1, 3, h, w), and what goes in is the same. ``read`` gives
levels from 0 to 255 where a file has no more of them: a quarter of the memory. What else a file
holds, more frames and what it says about itself, is for ``originals`` and ``results``.
"""

import io
import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFile, ImageFont, ImageOps, UnidentifiedImageError

from fnst import colours, deep, files, memory
from fnst.errors import HugeError, ImageError

Image = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]
Levels = UInt8[torch.Tensor, "1 3 h w"]  # the same picture, 0 to 255
File = io.BytesIO | io.BufferedReader
Opened = ImageFile.ImageFile  # to everyone else, something that has a size and can be made a square
AnySize = Float[torch.Tensor, "1 3 _ _"]  # the same, of a size of its own

_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True}
_TIFF = {"format": "TIFF", "compression": "tiff_lzw"}

# What Pillow writes with these endings, and how: visually lossless rather than small.
FORMATS: Mapping[str, Mapping[str, Any]] = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".jpe": _JPEG,
    ".jfif": _JPEG,
    ".png": {"format": "PNG"},
    ".apng": {"format": "PNG"},
    ".webp": {"format": "WEBP", "quality": 95},
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".gif": {"format": "GIF"},
    ".avif": {"format": "AVIF", "quality": 90},
    ".bmp": {"format": "BMP"},
}
ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "HEIF": ".jpg", "WEBP": ".webp", "TIFF": ".tif"} | {
    "GIF": ".gif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}
READABLE = {*FORMATS, ".heic", ".heif", ".hif", ".ppm", ".pgm", ".pbm", ".pnm"}
KEEPS_ALPHA = {"PNG", "WEBP", "TIFF", "AVIF"}
PAPER_OF_ALPHA = (255, 255, 255)  # what shows through where a format has no alpha

# A picture with more pixels than this is refused before it is decoded: a few kilobytes can
# promise gigabytes.
MOST_PIXELS = 250_000_000

# Pillow's own limit is lower; above ours it warns, above twice ours it refuses. It also guards what
# Pillow takes memory for before anybody can ask for a size, such as the canvas of a WebP.
Pillow.MAX_IMAGE_PIXELS = MOST_PIXELS
BOMB = (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning)

# A JPEG has at least one bit for every 8x8 block (JPEG, F.1.2); the rest would be filled with grey.
PIXELS_PER_BYTE = 8 * 64

# A progressive JPEG has ten scans, or some more; each goes over all pixels, and takes few bytes.
# Chosen by us: a second for 36 megapixels.
MOST_SCANS = 100

# A picture that takes the memory of more pixels than this while it is decoded waits until no other
# such picture is decoded in this process; chosen by us: 128 MB, and no photograph of MS COCO waits.
LARGE_PIXELS = 32_000_000
_one_large_picture = threading.Lock()

# What is opened is told by its first bytes, whatever it is called. Pillow knows more formats, and
# would start Ghostscript for a PostScript program that is called a.jpg.
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM")

# HEIC's names for itself (ISO/IEC 23008-12, B.4, and 14496-12); it takes a package of its own.
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

ORIENTATION = 0x0112  # the tag of EXIF 2.3 that says how to turn a picture

# A bright paper for sheets, and the grey of its captions.
PAPER, INK = (250, 248, 243), (70, 66, 60)


@dataclass(frozen=True)
class Picture:
    """A picture as the house knows it, and its transparency where it has one."""

    rgb: Image | Levels
    # 0 is clear, 1 is solid; or 0 to 255
    alpha: Float[torch.Tensor, "1 1 h w"] | UInt8[torch.Tensor, "1 1 h w"] | None = None
    depth: int = 8
    """Bits a colour: 16 where the file had them."""


def load(
    source: Path | bytes, *, name: str | None = None, most_pixels: int = MOST_PIXELS
) -> Picture:
    """Read a picture: turned as its EXIF says, converted to sRGB, alpha set apart.

    Raises:
        ImageError: when it is missing, damaged or no picture; its HugeError, when it has more than
            ``most_pixels``.
    """
    picture = read(source, name=name, most_pixels=most_pixels)
    alpha = picture.alpha
    return Picture(
        to_floats(picture.rgb), None if alpha is None else to_floats(alpha), picture.depth
    )


def read(
    source: Path | bytes, *, name: str | None = None, most_pixels: int = MOST_PIXELS
) -> Picture:
    """As ``load``, in levels from 0 to 255; in floats if the file has 16 bits a colour.

    Raises:
        ImageError: as ``load`` does.
    """
    with Door(source, name=name, most_pixels=most_pixels) as image:
        if not is_deep(image):
            return as_picture(image)
        with Door(source, name=name, most_pixels=most_pixels) as again:
            return as_deep_picture(image, again)


def as_picture(image: Opened) -> Picture:
    """The frame that is opened, in levels from 0 to 255."""
    turned = _decoded(image)
    if colours.is_long_grey(turned):
        return _deep_grey(turned)
    return Picture(_to_levels(colours.to_srgb(turned)), _alpha(turned))


def is_deep(image: Opened) -> bool:
    """Whether it takes two passes to read what is opened; never if its colours must be changed.

    Little CMS, as Pillow has it, follows profiles with eight bits.
    """
    return deep.is_deep(image) and not _has_other_colours(image)


def loses_depth(image: Opened) -> bool:
    """Whether what is opened has more than eight bits a colour, and colours to be changed."""
    return (deep.is_deep(image) or colours.is_long_grey(image)) and _has_other_colours(image)


def _has_other_colours(image: Opened) -> bool:
    is_rgb = image.mode in ("RGB", "RGBA") and not deep.is_grey(image)
    return _is_other(image, "RGB" if is_rgb else "L")


def _is_other(image: Pillow.Image, mode: str) -> bool:
    profile = image.info.get("icc_profile")
    return profile is not None and colours.is_other(profile, mode)


def as_deep_picture(image: Opened, again: Opened) -> Picture:
    """The picture of 16 bits that was opened twice."""
    is_grey = deep.is_grey(image)
    deep.lower(again)
    pixels = deep.join(_upright(image), _upright(again), is_grey=is_grey)
    planes = torch.from_numpy(pixels.astype(np.float32)).div_(65535).permute(2, 0, 1).unsqueeze(0)
    alpha = planes[:, 3:] if planes.shape[1] == 4 else None
    clear = image.info.get("transparency")
    if alpha is None and isinstance(clear, tuple):
        alpha = torch.from_numpy((pixels != clear).any(2))[None, None].float()
    return Picture(planes[:, :3], alpha, depth=16)


def _deep_grey(image: Pillow.Image) -> Picture:
    solid = _solid(image)
    if _is_other(image, "L"):
        levels = None if solid is None else solid.to(torch.uint8).mul_(255)
        return Picture(_to_levels(colours.to_srgb(image)), levels)
    grey = torch.from_numpy(colours.to_floats(image))
    alpha = None if solid is None else solid.float()
    return Picture(grey.expand(1, 3, -1, -1), alpha, depth=16)


def _solid(image: Pillow.Image) -> Bool[torch.Tensor, "1 1 h w"] | None:
    """Which pixels are not the one grey that is clear (PNG, third edition, 11.3.1.1)."""
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return None
    return torch.from_numpy(np.asarray(image) != clear)[None, None]


def to_floats(levels: torch.Tensor) -> torch.Tensor:
    """Between 0 and 1, whichever of both it was."""
    return levels if levels.is_floating_point() else levels.float().div_(255)


def load_square(
    source: Path | bytes, size: int, *, name: str | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The centre square of a picture, resized to ``size`` pixels a side, 0-255.

    JPEGs are decoded no larger than needed, which is several times faster for large photographs.

    Raises:
        ImageError: as ``load`` does.
    """
    with opened(source, name=name) as image:
        return square(image, size)


def opened(source: Path | bytes, *, name: str | None = None) -> AbstractContextManager[Opened]:
    """Open a photograph for a ``with`` block: its header is read, nothing is decoded yet.

    ``size`` of what is opened is its width and height in pixels, before any turning. Whatever goes
    wrong inside the block comes out as an ImageError, worded as ``load`` words it.
    """
    return Door(source, name=name)


def square(image: Opened, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """What ``load_square`` makes, of a picture that is ``opened``; only once for each."""
    shape = (size, size)
    with _one_large_picture if _is_large(image, shape) else nullcontext():
        upright = colours.to_resize(_decoded(image))
        pixels = _centre(upright, size)
    if upright.mode == "RGB" and "icc_profile" not in upright.info:
        return pixels
    small = Pillow.fromarray(pixels)
    small.info = upright.info
    return np.asarray(colours.to_srgb(small))


def size_of(source: Path | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels, read from the header alone, before any turning."""
    with Door(source, name=name) as image:
        return image.size


def ending_of(content: bytes) -> str:
    """The ending that fits a picture's format, such as ``.jpg``; ``.png`` where none does.

    Its first bytes say so: a picture may be of any size, and nothing is opened.
    """
    Pillow.init()
    for kind in _formats(io.BytesIO(content)):
        _, fits = Pillow.OPEN[kind]
        if fits and fits(content[:16]) is True and not (kind == "AVIF" and _is_heic(content)):
            return ENDINGS.get(kind, ".png")
    return ".png"


def _is_heic(content: bytes) -> bool:
    """Whether a file of the kind that AVIF and HEIC share names no AVIF among its brands."""
    size = int.from_bytes(content[:4], "big")  # of the box `ftyp` (ISO/IEC 14496-12, 4.3)
    brands = content[8 : min(size, 256)]
    return b"avif" not in brands and b"avis" not in brands


def fit(image: Image, size: int) -> AnySize:
    """Resize so that the short side has ``size`` pixels, with antialiasing."""
    _, _, h, w = image.shape
    scale = size / min(h, w)
    shape = (max(size, round(h * scale)), max(size, round(w * scale)))
    resized = torch.nn.functional.interpolate(
        image, shape, mode="bicubic", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)


def save(picture: Picture, path: Path) -> None:
    """Write a picture in the format that the ending names; alpha is kept where the format can.

    The file appears complete or not at all.

    Raises:
        ImageError: when the ending is unknown or the folder cannot be written.
    """
    check_writable(path)
    try:
        files.write(path, encode(picture, path.suffix))
    except (OSError, ValueError) as error:  # ValueError: more pixels than the format can hold
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path} cannot be written: {reason}.") from error


def encode(picture: Picture, ending: str) -> bytes:
    """A picture as the bytes of a file with that ending, such as ``.png``."""
    options = FORMATS[ending.lower()]
    buffer = io.BytesIO()
    to_pillow(picture, keeps_alpha=options["format"] in KEEPS_ALPHA).save(buffer, **options)
    return buffer.getvalue()


def to_pillow(picture: Picture, *, keeps_alpha: bool) -> Pillow.Image:
    """A picture of eight bits; its alpha beside its colours, or laid on white."""
    image = _to_pillow(picture.rgb)
    if picture.alpha is None:
        return image
    alpha = _to_pillow(picture.alpha)
    if not keeps_alpha:
        return Pillow.composite(image, Pillow.new("RGB", image.size, PAPER_OF_ALPHA), alpha)
    image.putalpha(alpha)
    return image


def check_writable(path: Path) -> None:
    """Raise ImageError when no picture can be written there: before the work, not after it."""
    if path.suffix.lower() not in FORMATS:
        raise ImageError(
            f"{path}: expected an ending that fnst writes ({', '.join(FORMATS)}), "
            f"got {path.suffix or 'none'}."
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ImageError(f"{path}: its folder does not exist or cannot be written.")


def sheet(rows: Sequence[tuple[str, Sequence[AnySize]]], headings: Sequence[str]) -> AnySize:
    """Lay pictures out in labelled rows under headings, such as before and after.

    Args:
        rows: a caption and its pictures, all of one size within a column.
        headings: one per column.
    """
    cells = [[_to_pillow(image) for image in images] for _, images in rows]
    gap, band = 16, 34
    widths = [max(row[i].width for row in cells) for i in range(len(headings))]
    heights = [max(cell.height for cell in row) for row in cells]
    font = ImageFont.load_default(size=16)
    longest = max(math.ceil(font.getlength(caption)) for caption, _ in rows)
    width = max(sum(widths) + gap * (len(widths) + 1), longest + 2 * gap)
    height = band + sum(heights) + (band + gap) * len(rows)
    page = Pillow.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(len(widths))]
    for left, heading in zip(lefts, headings, strict=True):
        draw.text((left, 10), heading, INK, font)
    top = band
    for (caption, _), row, tall in zip(rows, cells, heights, strict=True):
        for left, cell in zip(lefts, row, strict=True):
            page.paste(cell, (left, top))
        draw.text((gap, top + tall + 8), caption, INK, font)
        top += tall + band + gap
    return to_floats(_to_levels(page))


class _NoLimit(AbstractContextManager[None]):
    """Lifts Pillow's limit, which is one for all threads, until the last who asked is done."""

    def __init__(self) -> None:
        self.lock, self.count, self.before = threading.Lock(), 0, Pillow.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self.lock:
            if not self.count:
                self.before = Pillow.MAX_IMAGE_PIXELS
            self.count += 1
            Pillow.MAX_IMAGE_PIXELS = None

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.count -= 1
            if not self.count:
                Pillow.MAX_IMAGE_PIXELS = self.before


_no_limit = _NoLimit()


class Door(AbstractContextManager[Opened]):
    """Opens a picture for a ``with`` block and words whatever goes wrong inside as ImageError."""

    def __init__(
        self, source: Path | bytes, *, name: str | None = None, most_pixels: int = MOST_PIXELS
    ) -> None:
        self.source, self.most_pixels = source, most_pixels
        self.name = name or (str(source) if isinstance(source, Path) else "the picture")

    def __enter__(self) -> Opened:
        with ExitStack() as inside:
            if self.most_pixels > MOST_PIXELS:
                inside.enter_context(_no_limit)  # somebody asked for it: only our own is left
            try:
                self.file = self._file()
                inside.callback(self.file.close)
                self.image = Pillow.open(self.file, formats=_formats(self.file))
                inside.callback(self.image.close)
                _check_plausible(self.image)
                self.check_size()
            except Exception as error:
                raise self._worded(error) from error
            self.inside = inside.pop_all()
        return self.image

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.inside.close()
        # Damaged files make Pillow's decoders raise almost anything.
        if isinstance(error, Exception) and not isinstance(error, ImageError):
            raise self._worded(error) from error

    def check_size(self) -> None:
        """Refuse what is too large before it is decoded; a GIF may grow with any of its frames."""
        width, height = self.image.size
        if width * height > self.most_pixels:
            raise HugeError(
                f"{self.name}: expected at most {self.most_pixels / 1e6:.0f} megapixels, "
                f"got {width}x{height}; make it smaller first."
            )

    def _file(self) -> File:
        """Opened here: Pillow would map a file into memory, and die if that became shorter."""
        if isinstance(self.source, bytes):
            return io.BytesIO(self.source)
        if self.source.exists() and not (self.source.is_file() or self.source.is_dir()):
            raise ImageError(f"{self.name}: expected a file, got a pipe or a device.")
        return self.source.open("rb")

    def _worded(self, error: Exception) -> ImageError:
        if isinstance(error, ImageError):
            return error
        if isinstance(error, FileNotFoundError):
            return ImageError(f"{self.name}: there is no such file.")
        if isinstance(error, IsADirectoryError):
            return ImageError(f"{self.name}: expected a picture, got a folder.")
        if isinstance(error, PermissionError):
            return ImageError(f"{self.name}: this file may not be read by you.")
        if isinstance(error, BOMB):
            return HugeError(
                f"{self.name}: expected at most {self.most_pixels / 1e6:.0f} megapixels, "
                "got many more; make it smaller first."
            )
        if isinstance(error, UnidentifiedImageError) and _is_heif(self.file):
            return ImageError(
                f"{self.name}: to read HEIC takes another package: pip install 'fnst[heic]'."
            )
        if isinstance(error, UnidentifiedImageError):
            return ImageError(f"{self.name}: this is not a picture that can be read.")
        if memory.is_lacking(error):
            size = f" of {self.image.width}x{self.image.height}" if hasattr(self, "image") else ""
            return ImageError(
                f"{self.name}: there is not enough memory to read this picture{size}; "
                "close other programs, or make it smaller first."
            )
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return ImageError(f"{self.name}: this picture is damaged ({reason}).")


def _check_plausible(image: Opened) -> None:
    """Refuse a JPEG that would decode to much more than it holds, or over and over."""
    if image.format not in ("JPEG", "MPO"):
        return
    file = cast(BinaryIO, image.fp)
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    if math.prod(image.size) > size * PIXELS_PER_BYTE:
        raise ValueError(f"{size} bytes hold no {image.width}x{image.height} pixels")
    if image.info.get("progressive") and (scans := _scans(image)) > MOST_SCANS:
        raise ValueError(f"expected at most {MOST_SCANS} passes over its pixels, got {scans}")


def _formats(file: File) -> tuple[str, ...]:
    """What may be in the file: HEIC where it is, and where pillow-heif is installed."""
    if not _is_heif(file):
        return PHOTOGRAPHS
    try:
        import pillow_heif
    except ImportError:
        return PHOTOGRAPHS
    pillow_heif.register_heif_opener()
    return (*PHOTOGRAPHS, "HEIF")


def _is_heif(file: File) -> bool:
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" and start[8:] in HEIF_BRANDS


def _centre(image: Pillow.Image, size: int) -> UInt8[np.ndarray, "h w *c"]:
    """The square in the middle, resized with the filter of ``fit``.

    torch's is Pillow's, to a level, on vector units: a quarter of the time.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.array(image.crop((left, top, left + side, top + side)))
    planes = torch.from_numpy(pixels.reshape(1, side, side, -1)).permute(0, 3, 1, 2)
    small = torch.nn.functional.interpolate(planes, (size, size), mode="bicubic", antialias=True)
    return small.permute(0, 2, 3, 1).contiguous().numpy().reshape(size, size, *pixels.shape[2:])


def _is_large(image: Opened, shape: tuple[int, int]) -> bool:
    """Ask the decoder for no more than ``shape`` needs; whether it will need much memory still."""
    pixels = math.prod(image.size)
    image.draft("RGB", shape)
    if pixels <= LARGE_PIXELS:
        return False
    return math.prod(image.size) > LARGE_PIXELS or _scans(image) > 1


def _scans(image: Opened) -> int:
    """How many scans a JPEG has; of more than one, the decoder holds everything at full size."""
    file = cast(BinaryIO, image.fp)  # there, as nothing has been decoded
    position = file.tell()
    file.seek(0)
    start_of_scan = b"\xff\xda"
    found = file.read().count(start_of_scan)
    file.seek(position)
    thumbnail: bytes = image.info.get("exif", b"")
    return found - thumbnail.count(start_of_scan)


def _decoded(image: Opened) -> Pillow.Image:
    """Upright, in its own mode: Pillow makes colours of grey that has alpha and 16 bits."""
    is_grey = deep.is_grey(image)
    upright = _upright(image)
    return upright.convert("LA") if is_grey else upright


def _upright(image: Pillow.Image) -> Pillow.Image:
    image.load()  # some formats keep what follows behind their pixels
    return ImageOps.exif_transpose(image) if _is_turned(image) else image


def _is_turned(image: Pillow.Image) -> bool:
    try:
        return bool(image.getexif().get(ORIENTATION, 1) != 1)
    except Exception:  # damaged EXIF makes Pillow raise almost anything, and says nothing
        return False


def _alpha(image: Pillow.Image) -> UInt8[torch.Tensor, "1 1 h w"] | None:
    if not image.has_transparency_data:
        return None
    return _to_levels(image.convert("RGBA").getchannel("A"))


def _to_levels(image: Pillow.Image) -> UInt8[torch.Tensor, "1 _ _ _"]:
    pixels = np.array(image, dtype=np.uint8)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


def _to_pillow(image: torch.Tensor) -> Pillow.Image:
    levels = image[0].detach()
    if levels.is_floating_point():
        levels = levels.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)
    pixels = levels.to("cpu").permute(1, 2, 0).squeeze(2)
    return Pillow.fromarray(pixels.contiguous().numpy())


# Pillow would otherwise fill the missing part of a truncated photograph with grey, silently.
ImageFile.LOAD_TRUNCATED_IMAGES = False
