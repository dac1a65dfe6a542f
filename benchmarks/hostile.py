"""Picture files that mean harm, or came to harm: real ones changed at random, and known tricks.

Everything follows from a seed, so that a file that broke something can be made again.
"""

import io
import random
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image as Pillow

from fnst import colours, deep, tiff

SIZE = (40, 28)
MOST_CHANGES = 16
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def samples() -> dict[str, bytes]:
    """Small whole files of every kind that is read, by a name with the right ending."""
    rgb = _scene("RGB")
    rgba = _scene("RGBA")
    exif = _exif()
    said: dict[str, Any] = {"exif": exif, "icc_profile": colours.srgb_profile()}
    film: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    clear: dict[str, Any] = {"save_all": True, "append_images": [rgba.rotate(90)]}
    made = {
        "plain.jpg": _saved(rgb, "JPEG", xmp=b"<x:xmpmeta/>", dpi=(300, 300), **said),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True),
        "cmyk.jpg": _saved(rgb.convert("CMYK"), "JPEG"),
        "plain.png": _saved(rgb, "PNG", **said),
        "clear.png": _saved(rgba, "PNG"),
        "palette.png": _saved(rgb.quantize(40), "PNG", transparency=3),
        "bits.png": _saved(rgb.convert("1"), "PNG"),
        "film.png": _saved(rgb, "PNG", duration=40, **film),
        "plain.webp": _saved(rgb, "WEBP", **said),
        "lossless.webp": _saved(rgba, "WEBP", lossless=True),
        "film.webp": _saved(rgba, "WEBP", duration=40, **clear),
        "plain.gif": _saved(rgb, "GIF"),
        "film.gif": _saved(rgb, "GIF", duration=40, loop=0, **film),
        "plain.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(rgb.quantize(16), "BMP"),
        "plain.avif": _saved(rgb, "AVIF", speed=10),
        "film.avif": _saved(rgb, "AVIF", speed=10, duration=40, **film),
        "plain.ppm": _saved(rgb, "PPM"),
        "float.tif": _saved(_scene("L").convert("F"), "TIFF"),
        "cmyk.tif": _saved(rgb.convert("CMYK"), "TIFF"),
        "pages.tif": _saved(rgb, "TIFF", **film),
    }
    for way in ("raw", "tiff_lzw", "packbits", "jpeg"):
        made[f"{way}.tif"] = _saved(rgb, "TIFF", compression=way)
    pixels = np.random.default_rng(0).integers(0, 65536, (*SIZE, 4), dtype=np.uint16)
    buffer = io.BytesIO()
    deep.write_png(buffer, pixels, {"format": "PNG"})
    made["deep.png"] = buffer.getvalue()
    buffer = io.BytesIO()
    tiff.write(buffer, pixels, {})
    made["deep.tif"] = buffer.getvalue()
    return made


def mutants(seed: int) -> Iterator[tuple[str, bytes]]:
    """Endlessly, whole files that were changed at random."""
    whole = samples()
    names = sorted(whole)
    for index in range(2**62):
        randomness = random.Random(f"{seed} {index}")
        name = randomness.choice(names)
        content = whole[name]
        for _ in range(randomness.choice((1, 1, 2, 4))):
            content = randomness.choice(CHANGES)(
                randomness, content, whole[randomness.choice(names)]
            )
        if name.endswith(".png") and randomness.random() < 0.7:
            content = _with_right_checksums(content)
        yield f"{index}-{name}", content


def _flip(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(randomness.randint(1, MOST_CHANGES) if changed else 0):
        changed[randomness.randrange(len(changed))] ^= 1 << randomness.randrange(8)
    return bytes(changed)


def _cut(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    return content[: randomness.randrange(len(content) + 1)]


def _lie(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    """An extreme number somewhere in the header, where sizes and offsets are."""
    at = randomness.randrange(min(len(content), 200) + 1)
    number = randomness.choice(EXTREMES)
    form = randomness.choice(("<H", ">H", "<I", ">I"))
    packed = struct.pack(form, number & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    return content[:at] + packed + content[at + len(packed) :]


def _move(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    """Two blocks in each other's place."""
    a, b, c, d = sorted(randomness.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _repeat(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    a, b = sorted(randomness.randrange(len(content) + 1) for _ in range(2))
    return content[:b] + content[a:b] * randomness.choice((1, 2, 20)) + content[b:]


def _lose(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    a = randomness.randrange(len(content) + 1)
    return content[:a] + content[a + randomness.randint(1, 64) :]


def _splice(randomness: random.Random, content: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return (
        content[: randomness.randrange(len(content) + 1)]
        + other[randomness.randrange(len(other)) :]
    )


CHANGES = (_flip, _flip, _cut, _lie, _lie, _move, _repeat, _lose, _splice)


# --- known tricks ---------------------------------------------------------------------------------


def tricks(*, frames: int = 20_000, bomb: int = 64_000_000) -> dict[str, bytes]:
    """What pictures are known to be used for against those who open them.

    Args:
        frames: of the animation with more of them than anybody can mean.
        bomb: bytes that a compressed chunk unpacks to.
    """
    zeros = zlib.compress(bytes(bomb), 9)
    whole = samples()
    return (
        _png_tricks(whole, zeros)
        | _gif_tricks(frames, whole["plain.gif"])
        | _tiff_tricks()
        | _jpeg_tricks(whole["plain.jpg"], whole["progressive.jpg"])
        | _webp_tricks(whole["film.webp"])
        | _programs()
        | {
            "huge.bmp": _patched(whole["plain.bmp"], 18, struct.pack("<ii", 2**31 - 1, 2**31 - 1)),
            "least.bmp": _patched(whole["plain.bmp"], 18, struct.pack("<ii", 40, -(2**31))),
            "huge.ppm": b"P6 99999 99999 255\n",
            "long.ppm": b"P6 " + b"9" * 100_000,
            "huge.avif": whole["plain.avif"].replace(
                struct.pack(">II", *SIZE), struct.pack(">II", 2**31 - 1, 2**31 - 1)
            ),
            "empty.jpg": b"",
            "byte.jpg": b"\xff",
            "noise.jpg": random.Random(0).randbytes(5000),
        }
    )


def _png_tricks(whole: Mapping[str, bytes], zeros: bytes) -> dict[str, bytes]:
    pixels = zlib.compress(bytes(4 * 13))
    header = _ihdr(4, 4)

    def png(*chunks: tuple[bytes, bytes]) -> bytes:
        return deep.PNG_SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)

    end = (b"IEND", b"")
    control = struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 1, 10, 0, 0)
    outside = struct.pack(">IIIIIHHBB", 1, 4, 4, 2**30, 2**30, 1, 10, 0, 0)
    return {
        "sides.png": png((b"IHDR", _ihdr(2**31 - 1, 2**31 - 1)), (b"IDAT", pixels), end),
        "negative.png": png((b"IHDR", _ihdr(2**32 - 1, 2**32 - 1)), (b"IDAT", pixels), end),
        "nothing.png": png((b"IHDR", _ihdr(0, 0)), (b"IDAT", pixels), end),
        "lie.png": png((b"IHDR", _ihdr(15_000, 16_000)), (b"IDAT", pixels), end),
        "text-bomb.png": png(
            (b"IHDR", header), (b"zTXt", b"a\0\0" + zeros), (b"IDAT", pixels), end
        ),
        "itxt-bomb.png": png(
            (b"IHDR", header), (b"iTXt", b"a\0\1\0\0\0" + zeros), (b"IDAT", pixels), end
        ),
        "profile-bomb.png": png(
            (b"IHDR", header), (b"iCCP", b"a\0\0" + zeros), (b"IDAT", pixels), end
        ),
        "pixel-bomb.png": png((b"IHDR", header), (b"IDAT", zeros), end),
        "many-texts.png": png(
            (b"IHDR", header), *[(b"tEXt", b"a\0b")] * 50_000, (b"IDAT", pixels), end
        ),
        "many-bombs.png": png(
            (b"IHDR", header),
            *[(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 100,
            (b"IDAT", pixels),
            end,
        ),
        "frames.png": png(
            (b"IHDR", header), (b"acTL", struct.pack(">II", 2**31, 0)), (b"IDAT", pixels), end
        ),
        "missing.png": png(
            (b"IHDR", header),
            (b"acTL", struct.pack(">II", 5, 0)),
            (b"fcTL", control),
            (b"IDAT", pixels),
            end,
        ),
        "outside.png": png(
            (b"IHDR", header),
            (b"acTL", struct.pack(">II", 2, 0)),
            (b"fcTL", control),
            (b"IDAT", pixels),
            (b"fcTL", outside),
            (b"fdAT", struct.pack(">I", 2) + pixels),
            end,
        ),
        "long-chunk.png": deep.PNG_SIGNATURE + struct.pack(">I", 2**31 - 1) + b"IHDR",
        "exif-loop.png": _with_exif(whole["plain.png"], _looped_exif()),
    }


def _gif_tricks(frames: int, plain: bytes) -> dict[str, bytes]:
    def gif(width: int, height: int, *blocks: bytes) -> bytes:
        screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        return b"GIF89a" + screen + bytes(6) + b"".join(blocks) + b";"

    def frame(left: int, top: int, width: int, height: int, code: int = 2) -> bytes:
        place = struct.pack("<HHHHB", left, top, width, height, 0)
        return b"," + place + bytes([code, 2, 0x44, 1, 0])

    return {
        "million.gif": gif(1, 1, frame(0, 0, 1, 1) * frames),
        "huge.gif": gif(65_535, 65_535, frame(0, 0, 1, 1)),
        "nothing.gif": gif(0, 0, frame(0, 0, 0, 0)),
        "outside.gif": gif(4, 4, frame(0, 0, 4, 4), frame(65_000, 65_000, 500, 500)),
        "larger.gif": plain.removesuffix(b";") + frame(0, 0, 22_000, 22_000) + b";",
        "codes.gif": gif(4, 4, frame(0, 0, 4, 4, code=255)),
        "comments.gif": gif(1, 1, b"!\xfe" + (b"\xff" + bytes(255)) * 20_000 + b"\0"),
        "no-end.gif": b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"!\xff\x0bNETSCAPE2.0",
    }


def _tiff_tricks() -> dict[str, bytes]:
    def directory(tags: Sequence[tuple[int, int, int, int]], following: int = 0) -> bytes:
        packed = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
        return struct.pack("<H", len(tags)) + packed + struct.pack("<I", following)

    def file(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
        plain = [(256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
        plain += [(273, 4, 1, 8), (278, 4, 1, 4), (279, 4, 1, 16)]
        chosen = {tag[0]: tag for tag in plain} | {tag[0]: tag for tag in tags}
        return b"II*\0" + struct.pack("<I", 8) + directory(list(chosen.values()), following)

    return {
        "loop.tif": file(following=8),
        "exif-loop.tif": file((34665, 4, 1, 8)),
        "sub-loop.tif": file((330, 4, 1, 8)),
        "sides.tif": file((256, 4, 1, 2**31), (257, 4, 1, 2**31)),
        "negative.tif": file((256, 9, 1, 2**32 - 1)),
        "nothing.tif": file((256, 4, 1, 0)),
        "count.tif": file((273, 4, 2**31, 8), (279, 4, 2**31, 8)),
        "text.tif": file((270, 2, 2**32 - 1, 8)),
        "bits.tif": file((258, 3, 1, 65_535)),
        "samples.tif": file((277, 3, 1, 65_535)),
        "rows.tif": file((278, 4, 1, 2**32 - 1), (257, 4, 1, 15_000), (256, 4, 1, 15_000)),
        "far.tif": file((273, 4, 1, 2**32 - 1)),
        "tiles.tif": file((322, 4, 1, 1), (323, 4, 1, 1), (324, 4, 1, 8), (325, 4, 1, 1)),
        "compressed.tif": file((259, 3, 1, 8), (279, 4, 1, 2**32 - 1)),
        "orientation.tif": file((274, 3, 1, 65_535)),
        "chain.tif": b"II*\0"
        + b"".join(
            struct.pack("<I" if not i else "<HI", *(() if not i else (0,)), 8 + 6 * i)
            for i in range(5000)
        ),
    }


def _jpeg_tricks(whole: bytes, progressive: bytes) -> dict[str, bytes]:
    frame = whole.index(b"\xff\xc0")
    sides = frame + 5
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "scans.jpg": progressive[:-2] + scan * 5000 + progressive[-2:],
        "sides.jpg": _patched(whole, sides, struct.pack(">HH", 65_535, 65_535)),
        "lie.jpg": _patched(whole, sides, struct.pack(">HH", 15_000, 16_000)),
        "nothing.jpg": _patched(whole, sides, struct.pack(">HH", 0, 0)),
        "components.jpg": _patched(whole, frame + 9, b"\xff"),
        "exif-loop.jpg": whole[:2] + _segment(0xE1, b"Exif\0\0" + _looped_exif()) + whole[2:],
        "exif-odd.jpg": whole[:2] + _segment(0xE1, b"Exif\0\0" + _odd_exif()) + whole[2:],
        "mpf-odd.jpg": whole[:2] + _segment(0xE2, b"MPF\0" + _odd_exif()) + whole[2:],
        "profile-odd.jpg": whole[:2]
        + _segment(0xE2, b"ICC_PROFILE\0\xff\xff" + bytes(100))
        + whole[2:],
        "segments.jpg": whole[:2] + _segment(0xE0, bytes(10)) * 20_000 + whole[2:],
        "markers.jpg": whole[:2] + b"\xff" * 500_000 + whole[2:],
    }


def _webp_tricks(film: bytes) -> dict[str, bytes]:
    def sized(width: int, height: int) -> bytes:
        return struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]

    return {
        "canvas.webp": _patched(film, 24, sized(2**24, 2**24)),
        "large-canvas.webp": _patched(film, 24, sized(16_383, 16_383)),
        "length.webp": _patched(film, 4, struct.pack("<I", 2**32 - 1)),
        "short.webp": _patched(film, 4, struct.pack("<I", 4)),
        "flags.webp": _patched(film, 20, b"\xff"),
    }


def _programs() -> dict[str, bytes]:
    return {
        "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n",
        "dos-eps.jpg": b"\xc5\xd0\xd3\xc6" + bytes(26) + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "pdf.jpg": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
        "svg.jpg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "script.png": b"#!/bin/sh\nrm -rf /\n",
        "zip.png": b"PK\x03\x04" + bytes(100),
        "wmf.bmp": b"\xd7\xcd\xc6\x9a" + bytes(100),
        "fits.tif": b"SIMPLE  =                    T".ljust(2880),
        "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
    }


# --- parts of files -------------------------------------------------------------------------------


def _scene(mode: str) -> Pillow.Image:
    """Soft colours with noise, the same every time."""
    values = np.random.default_rng(1).normal(0, 20, (SIZE[1], SIZE[0], 3))
    down, across = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    soft = np.stack([across * 6, down * 8, 255 - across * 5], -1)
    image = Pillow.fromarray((soft + values).clip(0, 255).astype(np.uint8))
    if mode == "RGBA":
        image.putalpha(Pillow.fromarray((across * 6).clip(0, 255).astype(np.uint8)))
    return image if mode == "RGBA" else image.convert(mode)


def _saved(image: Pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Pillow.Exif()
    exif[274], exif[271] = 6, "Camera"
    exif[34665] = {36867: "2024:01:02 03:04:05"}
    return exif.tobytes()


def _looped_exif() -> bytes:
    """Directories that lead to themselves."""
    tags = struct.pack("<HHII", 34665, 4, 1, 8) + struct.pack("<HHII", 34853, 4, 1, 8)
    return b"II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 8)


def _odd_exif() -> bytes:
    """A text where a number is expected, and sizes that there are no bytes for."""
    tags = struct.pack("<HHII", 274, 2, 4, 0x41414141) + struct.pack("<HHII", 271, 2, 2**31, 8)
    tags += struct.pack("<HHII", 33432, 12, 2**28, 8)
    return b"II*\0" + struct.pack("<IH", 8, 3) + tags + struct.pack("<I", 2**31)


def _ihdr(width: int, height: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(name))
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _with_exif(png: bytes, exif: bytes) -> bytes:
    return png[:33] + _chunk(b"eXIf", exif) + png[33:]


def _with_right_checksums(png: bytes) -> bytes:
    """Let what was changed pass the first check."""
    made, at = png[:8], 8
    while at + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        made += _chunk(name, png[at + 8 : at + 8 + length])
        at += length + 12
    return made


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _patched(content: bytes, at: int, part: bytes) -> bytes:
    return content[:at] + part + content[at + len(part) :]
