"""TIFF files of eight or sixteen bits a colour, with what is to be said about them.

Pillow's own writer knows no colours of sixteen bits, and loses EXIF beside other tags.
"""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import TiffImagePlugin, TiffTags

Target = io.BytesIO | io.BufferedRandom  # what a file is written into; one can go back in it
Pixels = UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"]  # colours and perhaps alpha

HEADER = b"II*\0" + struct.pack("<I", 8)  # little-endian; the directory follows
ROWS = 64  # so many are compressed at a time

OFFSETS, LENGTHS = 273, 279


def write(file: Target, pixels: Pixels, tags: Mapping[int, Any]) -> None:
    """Write a picture in deflated strips; ``tags`` go into its directory beside its own."""
    h, _, _ = pixels.shape
    file.write(HEADER)
    nothing = [0] * -(-h // ROWS)
    file.write(_directory(pixels, tags, nothing, nothing))  # to be filled in: its size is known
    start = file.tell()
    offsets, lengths = [], []
    for top in range(0, h, ROWS):
        strip = _strip(pixels[top : top + ROWS])
        offsets.append(file.tell() - start)  # Pillow counts from where the directory ends
        lengths.append(len(strip))
        file.write(strip)
    file.seek(len(HEADER))
    file.write(_directory(pixels, tags, offsets, lengths))
    file.seek(0, io.SEEK_END)


def _strip(rows: Pixels) -> bytes:
    """Rows as differences from the pixel to the left, which deflate better, at even lengths."""
    steps = np.concatenate((rows[:, :1], rows[:, 1:] - rows[:, :-1]), 1)
    packed = zlib.compress(steps.astype(steps.dtype.newbyteorder("<")).tobytes())
    return packed + bytes(len(packed) % 2)


def _directory(
    pixels: Pixels, tags: Mapping[int, Any], offsets: list[int], lengths: list[int]
) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2(HEADER)
    for tag, value in (dict(tags) | _structure(pixels)).items():
        directory[tag] = value
    for tag, values in ((OFFSETS, offsets), (LENGTHS, lengths)):
        directory.tagtype[tag] = TiffTags.LONG
        directory[tag] = tuple(values)
    return directory.tobytes(len(HEADER))


def _structure(pixels: Pixels) -> dict[int, Any]:
    """What the pixels are (TIFF 6.0, sections 6, 8, 14 and 18)."""
    h, w, channels = pixels.shape
    return {
        256: w,
        257: h,
        258: (8 * pixels.dtype.itemsize,) * channels,
        259: 8,  # deflate (Adobe Photoshop TIFF Technical Notes, 2002)
        262: 2,  # RGB
        277: channels,
        278: ROWS,
        284: 1,  # channels beside each other
        317: 2,  # differences
    } | ({338: 2} if channels == 4 else {})  # alpha that colours were not multiplied with
