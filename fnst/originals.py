"""Picture files as they came: every frame, and what they say about themselves.

``results`` writes them again. What a file says is kept where it stays true: when and by whom and
with what a photograph was taken, not how its bytes lie.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, IptcImagePlugin
from PIL import Image as Pillow

from fnst import images
from fnst.errors import HugeError
from fnst.images import MOST_PIXELS, Door, Opened, Picture

# What moves: an MPO holds other views of its scene, a TIFF other pages.
ANIMATIONS = {"GIF", "WEBP", "PNG", "AVIF"}

# An animation with more frames is refused before it is decoded; chosen by us: five minutes at 30
# frames a second. A megabyte can promise a million.
MOST_FRAMES = 10_000

# Above every picture: for those who know what they ask for.
NO_LIMIT = 2**62

# What is shown for a frame that does not say how long (browsers do the same), in milliseconds.
UNSAID = 100

# EXIF 2.3 and TIFF 6.0: what describes a photograph. Its orientation is followed; its thumbnail,
# and where its bytes lay, belong to the old file.
DESCRIBING = (
    270,  # ImageDescription
    271,  # Make
    272,  # Model
    305,  # Software
    306,  # DateTime
    315,  # Artist
    316,  # HostComputer
    18246,  # Rating
    18249,  # RatingPercent
    33432,  # Copyright
    *range(40091, 40096),  # XPTitle to XPSubject
)
# The keywords that PNG has for texts (third edition, 11.3.3.1).
KEYWORDS = (
    *("Title", "Author", "Description", "Copyright", "Creation Time", "Software"),
    *("Disclaimer", "Warning", "Source", "Comment", "Collection"),
)

# IPTC's records of what a picture is about (IIM 4.2, chapters 5 and 6), up to where a preview of it
# begins, and the most that a field of it has without a longer head.
ENVELOPE, APPLICATION, PREVIEW, FIELD = 1, 2, 200, 32_767

# The most of a text, of a comment and of IPTC that is kept; chosen by us: less than a segment of a
# JPEG takes.
MOST_SAID = 65_000

COLOR_SPACE, WIDTH, HEIGHT = 0xA001, 0xA002, 0xA003
SRGB = 1  # as a ColorSpace


@dataclass(frozen=True)
class About:
    """What a file says beside its pixels."""

    kind: str = ""
    """Pillow's name of the format."""
    frames: int = 1
    plays: int | None = None
    """How often an animation is shown, 0 for ever; None for a still."""
    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    comment: bytes = b""
    """A JPEG's."""
    texts: tuple[tuple[str, str], ...] = ()
    """A PNG's, and their keywords."""
    dpi: tuple[float, float] | None = None
    has_profile: bool = False
    notes: tuple[str, ...] = ()
    """What somebody should know about what was read."""


@dataclass(frozen=True)
class Frame:
    """One picture of a file: the only one, mostly."""

    picture: Picture
    about: About
    milliseconds: float = 0.0


def frames(
    source: Path | bytes,
    *,
    name: str | None = None,
    allow_huge: bool = False,
    admit: Callable[[int], None] = lambda pixels: None,
) -> Iterator[Frame]:
    """The frames of a picture file one after the other, whole and upright, in sRGB.

    Args:
        source: the file, or its content.
        name: what it is called when something is wrong.
        allow_huge: whether it may have as many pixels and frames as it likes.
        admit: called with a frame's number of pixels before it is decoded.

    Raises:
        ImageError: as ``images.load`` does; its HugeError also for too many frames.
    """
    limit = NO_LIMIT if allow_huge else MOST_PIXELS
    door = Door(source, name=name, most_pixels=limit)
    with door as image:
        count = _count(image)
        if count > MOST_FRAMES and not allow_huge:
            raise HugeError(
                f"{door.name}: expected at most {MOST_FRAMES:,} frames, "
                f"got {count:,}; make it shorter first."
            )
        if count > 1:
            yield from _moving(door, count, admit)
            return
        admit(math.prod(image.size))
        notes = list(_losses(image))
        if images.is_deep(image):
            with Door(source, name=name, most_pixels=limit) as again:
                picture = images.as_deep_picture(image, again)
        else:
            picture = images.as_picture(image)
        if image.format == "TIFF" and _has_pages(image):
            notes.append("only its first page was read")
        yield Frame(picture, _about(image, picture, notes=notes))


def _count(image: Opened) -> int:
    moves = image.format in ANIMATIONS and getattr(image, "is_animated", False)
    return int(getattr(image, "n_frames", 1)) if moves else 1


def _moving(door: Door, count: int, admit: Callable[[int], None]) -> Iterator[Frame]:
    image = door.image
    # A PNG may begin with a picture for those who cannot show the others.
    first = 1 if getattr(image, "default_image", False) else 0
    about = None
    for index in range(first, count):
        image.seek(index)
        door.check_size()
        admit(math.prod(image.size))
        picture = images.as_picture(image)
        about = about or _about(image, picture, frames=count - first, plays=_plays(image))
        yield Frame(picture, about, float(image.info.get("duration", UNSAID)))


def _plays(image: Opened) -> int:
    """How often: GIF counts the repetitions, the others what is shown; none means once, or ever."""
    loop = image.info.get("loop")
    if image.format == "GIF":
        return 1 if loop is None else loop + 1 if loop else 0
    return int(loop or 0)


# --- what it says ---------------------------------------------------------------------------------


def _about(
    image: Opened,
    picture: Picture,
    *,
    frames: int = 1,
    plays: int | None = None,
    notes: Sequence[str] = (),
) -> About:
    height, width = picture.rgb.shape[2:]
    return About(
        kind=image.format or "",
        frames=frames,
        plays=plays,
        exif=_exif(image, width, height),
        xmp=_xmp(image),
        iptc=_iptc(image),
        comment=_comment(image),
        texts=tuple(_texts(image)),
        dpi=_dpi(image, is_turned=image.size != (width, height)),
        has_profile="icc_profile" in image.info,
        notes=tuple(notes),
    )


def _exif(image: Opened, width: int, height: int) -> bytes:
    """What describes the photograph; nothing where it cannot be understood."""
    try:
        said, kept = image.getexif(), Pillow.Exif()
        for tag in DESCRIBING:
            if tag in said:
                kept[tag] = said[tag]
        for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if directory := dict(said.get_ifd(tag)):
                kept[tag] = directory
        if details := kept.get(ExifTags.IFD.Exif):
            details.update({WIDTH: width, HEIGHT: height, COLOR_SPACE: SRGB})
        return kept.tobytes() if kept else b""
    except Exception:  # damaged EXIF makes Pillow raise almost anything
        return b""


def _xmp(image: Opened) -> bytes:
    said = image.info.get("xmp", b"")
    content = said.encode() if isinstance(said, str) else said
    if not isinstance(content, bytes):
        return b""
    # Orientation has been followed, and sizes are the old file's (XMP part 2, A.2 and A.3: as
    # attributes or as elements). No more than one space goes with them: looking for any number
    # takes the square of it, which in a packet of spaces alone is hours.
    name = rb"(tiff:(?:Orientation|ImageWidth|ImageLength)|exif:Pixel[XY]Dimension)"
    content = re.sub(rb"\s?" + name + rb"""=["']\d*["']""", b"", content)
    return re.sub(rb"\s?<" + name + rb">\d*</\1>", b"", content)


def _iptc(image: Opened) -> bytes:
    """Who made it, and what it shows, in IPTC's words; nothing where it cannot be understood."""
    try:
        fields = IptcImagePlugin.getiptcinfo(image) or {}
        packed = b"".join(
            struct.pack(">BBBH", 0x1C, record, number, len(value)) + value
            for (record, number), found in sorted(fields.items())
            for value in (found if isinstance(found, list) else [found])
            if value and record in (ENVELOPE, APPLICATION)
            if number < PREVIEW and len(value) <= FIELD
        )
    except Exception:  # damaged
        return b""
    return packed if len(packed) <= MOST_SAID else b""


def _comment(image: Opened) -> bytes:
    said = image.info.get("comment", b"") if image.format in ("JPEG", "MPO") else b""
    return said if isinstance(said, bytes) and len(said) <= MOST_SAID else b""


def _texts(image: Opened) -> Iterator[tuple[str, str]]:
    for keyword in KEYWORDS if image.format == "PNG" else ():
        text = image.info.get(keyword)
        if isinstance(text, str) and len(text) <= MOST_SAID:
            yield keyword, text


def _dpi(image: Opened, *, is_turned: bool) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except Exception:  # none, or what is no number
        return None
    if not (1 <= across <= 65535 and 1 <= down <= 65535):  # JPEG's field has 16 bits
        return None
    return (down, across) if is_turned else (across, down)


def _losses(image: Opened) -> Iterator[str]:
    if images.loses_depth(image):
        yield "its 16 bits became 8, with which alone its colour profile can be followed"


def _has_pages(image: Opened) -> bool:
    try:
        image.seek(1)
    except Exception:  # none, or damaged: nobody asked for it
        return False
    return True
