"""Between picture files and tensors: the only module that knows Pillow, EXIF, ICC and alpha.

Everything that comes out of here is sRGB in [0, 1], upright, (1, 3, h, w); everything that goes in
is the same.
"""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Pillow
from PIL import ImageCms, ImageDraw, ImageFile, ImageFont, ImageOps, UnidentifiedImageError

from fnst import files
from fnst.errors import ImageError

Image = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]
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

SRGB = ImageCms.createProfile("sRGB")

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
    with _opened(source, name) as image:
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
    with _opened(source, name) as image:
        image.draft("RGB", (size, size))
        square = ImageOps.fit(_to_srgb(_upright(image)), (size, size), Pillow.Resampling.LANCZOS)
        return np.asarray(square)


def size_of(source: Path | bytes, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels, read from the header alone, before any turning."""
    with _opened(source, name) as image:
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


def _opened(source: Path | bytes, name: str | None) -> "_Opened":
    return _Opened(source, name or (str(source) if isinstance(source, Path) else "the picture"))


class _Opened:
    """Opens a picture for a ``with`` block and words whatever goes wrong inside as ImageError."""

    def __init__(self, source: Path | bytes, name: str) -> None:
        self.source, self.name = source, name

    def __enter__(self) -> Pillow.Image:
        try:
            file: Path | BinaryIO = (
                self.source if isinstance(self.source, Path) else io.BytesIO(self.source)
            )
            self.image = Pillow.open(file)
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


def _upright(image: Pillow.Image) -> Pillow.Image:
    return ImageOps.exif_transpose(image)


def _alpha(image: Pillow.Image) -> Float[torch.Tensor, "1 1 h w"] | None:
    if not image.has_transparency_data:
        return None
    return _to_tensor(image.convert("RGBA").getchannel("A"))


def _to_srgb(image: Pillow.Image) -> Pillow.Image:
    """Convert any mode to 8-bit sRGB, through the embedded profile where there is a usable one."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    profile = image.info.get("icc_profile")
    if profile and image.mode in ("RGB", "RGBA", "CMYK", "L"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            plain = image.convert("RGB") if image.mode == "RGBA" else image
            converted = ImageCms.profileToProfile(plain, source, SRGB, outputMode="RGB")
            return converted or plain.convert("RGB")
        except (ImageCms.PyCMSError, ValueError, OSError):
            pass  # a broken profile says nothing; the plain numbers are the best guess
    return image.convert("RGB")


def _to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Scale 16-bit, 32-bit and float grey to 0-255; Pillow's own conversion would clip them."""
    values = np.asarray(image, dtype=np.float64)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=1.0)))
    return Pillow.fromarray((values.clip(0, top) / top * 255).round().astype(np.uint8))


def _to_tensor(image: Pillow.Image) -> torch.Tensor:
    pixels = np.array(image, dtype=np.uint8)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float().div_(255)


def _to_pillow(image: torch.Tensor) -> Pillow.Image:
    pixels = image[0].detach().float().mul(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
    return Pillow.fromarray(pixels.permute(1, 2, 0).squeeze(2).contiguous().numpy())


# Pillow would otherwise fill the missing part of a truncated photograph with grey, silently.
ImageFile.LOAD_TRUNCATED_IMAGES = False
