"""Between picture files and tensors: the only module that knows Pillow, EXIF, ICC and alpha.

Everything that comes out of here is sRGB in [0, 1], upright, (1, 3, h, w); everything that goes in
is the same.
"""

import io
import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from PIL import ImageCms, ImageDraw, ImageFile, ImageFont, ImageOps, UnidentifiedImageError

from fnst import files
from fnst.errors import ImageError

Image = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]
Opened = ImageFile.ImageFile  # to everyone else, something that has a size and can be made a square
AnySize = Float[torch.Tensor, "1 3 _ _"]  # the same, of a size of its own

# What Pillow writes with these endings, and how: visually lossless rather than small.
FORMATS: Mapping[str, Mapping[str, Any]] = {
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0, "optimize": True},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "quality": 95},
    ".tif": {"format": "TIFF", "compression": "tiff_lzw"},
    ".tiff": {"format": "TIFF", "compression": "tiff_lzw"},
}
KEEPS_ALPHA = {"PNG", "WEBP", "TIFF"}

# A picture with more pixels than this is refused before it is decoded: a few kilobytes can
# promise gigabytes.
MOST_PIXELS = 250_000_000

# Pillow's own limit is lower; above ours it warns, above twice ours it refuses.
Pillow.MAX_IMAGE_PIXELS = MOST_PIXELS
BOMB = (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning)

# A picture that takes the memory of more pixels than this while it is decoded waits until no other
# such picture is decoded in this process; chosen by us: 128 MB, and no photograph of MS COCO waits.
LARGE_PIXELS = 32_000_000
_one_large_picture = threading.Lock()

# Squares are made of files nobody looked at. Pillow knows more formats, and would start Ghostscript
# for a PostScript program that is called a.jpg.
PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")

SRGB = ImageCms.createProfile("sRGB")

ORIENTATION = 0x0112  # the tag of EXIF 2.3 that says how to turn a picture

# A bright paper for sheets, and the grey of its captions.
PAPER, INK = (250, 248, 243), (70, 66, 60)


@dataclass(frozen=True)
class Picture:
    """A picture as the house knows it, and its transparency where it has one."""

    rgb: Image
    alpha: Float[torch.Tensor, "1 1 h w"] | None = None  # 0 is clear, 1 is solid


def load(source: Path | bytes, *, name: str | None = None) -> Picture:
    """Read a picture: turned as its EXIF says, converted to sRGB, alpha set apart.

    Raises:
        ImageError: when it is missing, damaged, no picture, or larger than 250 megapixels.
    """
    with _Opened(source, _called(source, name)) as image:
        turned = _upright(image)
        alpha = _alpha(turned)
        return Picture(_to_tensor(_to_srgb(turned)), alpha)


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
    return _Opened(source, _called(source, name), PHOTOGRAPHS)


def square(image: Opened, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """What ``load_square`` makes, of a picture that is ``opened``; only once for each."""
    shape = (size, size)
    with _one_large_picture if _is_large(image, shape) else nullcontext():
        upright = _to_resize(_upright(image))
        pixels = _centre(upright, size)
    if upright.mode == "RGB" and "icc_profile" not in upright.info:
        return pixels
    small = Pillow.fromarray(pixels)
    small.info = upright.info
    return np.asarray(_to_srgb(small))


def size_of(source: Path | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels, read from the header alone, before any turning."""
    with _Opened(source, _called(source, name)) as image:
        return image.size


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
    image = _to_pillow(picture.rgb)
    if picture.alpha is not None and options["format"] in KEEPS_ALPHA:
        image.putalpha(_to_pillow(picture.alpha))
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


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
    width = sum(widths) + gap * (len(widths) + 1)
    height = band + sum(heights) + (band + gap) * len(rows)
    page = Pillow.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    lefts = [gap + sum(widths[:i]) + gap * i for i in range(len(widths))]
    for left, heading in zip(lefts, headings, strict=True):
        draw.text((left, 10), heading, INK, font)
    top = band
    for (caption, _), row, tall in zip(rows, cells, heights, strict=True):
        for left, cell in zip(lefts, row, strict=True):
            page.paste(cell, (left, top))
        draw.text((gap, top + tall + 8), caption, INK, font)
        top += tall + band + gap
    return _to_tensor(page)


def _called(source: Path | bytes, name: str | None) -> str:
    return name or (str(source) if isinstance(source, Path) else "the picture")


class _Opened:
    """Opens a picture for a ``with`` block and words whatever goes wrong inside as ImageError."""

    def __init__(
        self, source: Path | bytes, name: str, formats: tuple[str, ...] | None = None
    ) -> None:
        self.source, self.name, self.formats = source, name, formats

    def __enter__(self) -> Opened:
        try:
            file: Path | BinaryIO = (
                self.source if isinstance(self.source, Path) else io.BytesIO(self.source)
            )
            self.image = Pillow.open(file, formats=self.formats)
        except Exception as error:
            raise self._worded(error) from error
        width, height = self.image.size
        if width * height > MOST_PIXELS:
            self.image.close()
            raise ImageError(
                f"{self.name}: expected at most {MOST_PIXELS / 1e6:.0f} megapixels, "
                f"got {width}x{height}; make it smaller first."
            )
        return self.image

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self.image.close()
        # Damaged files make Pillow's decoders raise almost anything.
        if isinstance(error, Exception) and not isinstance(error, ImageError):
            raise self._worded(error) from error

    def _worded(self, error: Exception) -> ImageError:
        if isinstance(error, FileNotFoundError):
            return ImageError(f"{self.name}: there is no such file.")
        if isinstance(error, IsADirectoryError):
            return ImageError(f"{self.name}: expected a picture, got a folder.")
        if isinstance(error, PermissionError):
            return ImageError(f"{self.name}: this file may not be read by you.")
        if isinstance(error, BOMB):
            return ImageError(
                f"{self.name}: expected at most {MOST_PIXELS / 1e6:.0f} megapixels, "
                "got many more; make it smaller first."
            )
        if isinstance(error, UnidentifiedImageError):
            return ImageError(f"{self.name}: this is not a picture that can be read.")
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return ImageError(f"{self.name}: this picture is damaged ({reason}).")


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


def _upright(image: Pillow.Image) -> Pillow.Image:
    image.load()  # some formats keep what follows behind their pixels
    turned = image.getexif().get(ORIENTATION, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _alpha(image: Pillow.Image) -> Float[torch.Tensor, "1 1 h w"] | None:
    if not image.has_transparency_data:
        return None
    return _to_tensor(image.convert("RGBA").getchannel("A"))


def _to_srgb(image: Pillow.Image) -> Pillow.Image:
    """Convert any mode to 8-bit sRGB, through the embedded profile where there is a usable one."""
    image = _plain(image)
    profile = image.info.get("icc_profile")
    transform = _transform(profile, image.mode) if profile else None
    if transform:
        return transform.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_resize(image: Pillow.Image) -> Pillow.Image:
    """The picture in a mode that may be resized before it becomes sRGB, which is less work."""
    image = _plain(image)
    if image.mode in ("RGB", "L"):
        return image
    converted = _to_srgb(image)
    converted.info.pop("icc_profile", None)  # it has been followed, or was of no use
    return converted


def _plain(image: Pillow.Image) -> Pillow.Image:
    """Eight bits, no palette, and no alpha beside colours; everything else stays."""
    if image.mode.startswith("I") or image.mode == "F":
        return _to_eight_bits(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert("RGB") if image.mode == "RGBA" else image


@lru_cache(maxsize=16)  # thousands of photographs have a handful of profiles
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How pixels of this mode become sRGB; None where the plain numbers are the best guess."""
    if mode not in ("RGB", "CMYK", "L"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.buildTransform(source, SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, ValueError, OSError):
        return None  # a broken profile says nothing
    return None if mode == "RGB" and _changes_nothing(found) else found


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether 17 levels of each colour stay what they are, but for rounding; sRGB's own do."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17, -1, 3)
    converted = np.asarray(transform.apply(Pillow.fromarray(colours)))
    return bool(np.abs(converted.astype(int) - colours).max() <= 1)


def _to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Scale 16-bit, 32-bit and float grey to 0-255; Pillow's own conversion would clip them."""
    values = np.array(image, dtype=np.float64)
    # In place, because a large picture has gigabytes of these; what is no number becomes black.
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=1.0)))
    np.clip(values, 0, top, out=values)
    values /= top
    values *= 255
    return Pillow.fromarray(values.round(out=values).astype(np.uint8))


def _to_tensor(image: Pillow.Image) -> torch.Tensor:
    pixels = np.array(image, dtype=np.uint8)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float().div_(255)


def _to_pillow(image: torch.Tensor) -> Pillow.Image:
    pixels = image[0].detach().float().mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
    return Pillow.fromarray(pixels.permute(1, 2, 0).squeeze(2).contiguous().numpy())


# Pillow would otherwise fill the missing part of a truncated photograph with grey, silently.
ImageFile.LOAD_TRUNCATED_IMAGES = False
