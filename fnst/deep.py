"""Sixteen bits a colour: Pillow shows only the upper byte of such pixels, and writes no such file.

What its decoders leave out, they give when they are told that the bytes come in the other order:
the lower byte. So a picture is decoded twice, by decoders that know every compression.
"""

import io
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image as Pillow
from PIL import ImageFile

from fnst.tiff import Target

Pixels = UInt16[np.ndarray, "h w c"]  # red, green, blue and perhaps alpha

SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LAYOUTS = {f"{kind};16{order}" for kind in ("RGB", "RGBA") for order in SWAPPED}
GREY_AND_ALPHA = "LA;16B"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TRUECOLOUR = {3: 2, 4: 6}  # channels to colour type (PNG, third edition, 11.2.1)
ROWS = 64  # so many are compressed at a time


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a picture that is opened, and not decoded yet, has colours of 16 bits to read."""
    return _layout(image) in LAYOUTS or _layout(image) == GREY_AND_ALPHA


def lower(image: ImageFile.ImageFile) -> None:
    """Make the lower bytes come out of what is opened, and not decoded yet."""
    layout = _layout(image)
    swapped = "RGBA" if layout == GREY_AND_ALPHA else layout[:-1] + SWAPPED[layout[-1]]
    image.tile = [
        tile._replace(args=swapped if isinstance(tile.args, str) else (swapped, *_rest(tile.args)))
        for tile in image.tile
    ]


def join(upper: Pillow.Image, lower: Pillow.Image, *, is_grey: bool) -> Pixels:
    """The values of which one picture has the upper bytes and the other the lower ones."""
    low = np.asarray(lower)
    if is_grey:  # decoded as if its four bytes were four channels: both halves of grey and alpha
        low = low[..., [1, 1, 1, 3]]
    values = np.asarray(upper).astype(np.uint16)
    values <<= 8
    values |= low
    return values


def is_grey(image: ImageFile.ImageFile) -> bool:
    """Whether what is opened, and not decoded yet, has grey and alpha of 16 bits."""
    return _layout(image) == GREY_AND_ALPHA


def _layout(image: ImageFile.ImageFile) -> str:
    if not image.tile:
        return ""
    args = image.tile[0].args
    first = args if isinstance(args, str) else args[0] if args else ""
    return str(first)


def _rest(args: Any) -> tuple[Any, ...]:
    return tuple(args[1:])


# --- PNG ------------------------------------------------------------------------------------------


def chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG that is whole: their names and contents."""
    at = len(PNG_SIGNATURE)
    while at < len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name, png[at + 8 : at + 8 + length]
        at += length + 12


def write_chunk(file: Target, name: bytes, content: bytes) -> None:
    """Write one chunk of a PNG: its length, name, content and checksum."""
    file.write(struct.pack(">I", len(content)) + name + content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(name))))


def write_png(file: Target, pixels: Pixels, options: Mapping[str, Any]) -> None:
    """Write a PNG of 16 bits a colour; ``options`` are Pillow's for what it says beside them."""
    h, w, channels = pixels.shape
    header = struct.pack(">IIBBBBB", w, h, 16, PNG_TRUECOLOUR[channels], 0, 0, 0)
    file.write(PNG_SIGNATURE)
    write_chunk(file, b"IHDR", header)
    sample = io.BytesIO()  # of one pixel, for the chunks that do not depend on it
    Pillow.new("RGB", (1, 1)).save(sample, **options)
    for name, content in chunks(sample.getvalue()):
        if name not in (b"IHDR", b"IDAT", b"IEND"):
            write_chunk(file, name, content)
    packer = zlib.compressobj()
    above = np.zeros((1, w * channels * 2), np.uint8)
    for top in range(0, h, ROWS):
        rows = (
            pixels[top : top + ROWS]
            .astype(">u2", order="C")
            .view(np.uint8)
            .reshape(-1, above.shape[1])
        )
        write_chunk(file, b"IDAT", packer.compress(_filtered(rows, above)))
        above = rows[-1:]
    write_chunk(file, b"IDAT", packer.flush())
    write_chunk(file, b"IEND", b"")


def _filtered(rows: UInt8[np.ndarray, "h w"], above: UInt8[np.ndarray, "1 w"]) -> bytes:
    """Rows as their difference from the one above (PNG, 9.2: filter 2, Up)."""
    differences = rows - np.concatenate((above, rows[:-1]))
    kind = np.full((len(rows), 1), 2, np.uint8)
    return np.concatenate((kind, differences), 1).tobytes()
