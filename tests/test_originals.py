"""Every kind of file comes in whole, with what it says about itself, and goes out as it came."""

import io
import os
import struct
import sys
import time
import weakref
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, ImageDraw, IptcImagePlugin, PngImagePlugin
from PIL import Image as Pillow
from test_images import grey_profile, growing_gif
from test_images import profile as rotated
from torch.testing import assert_close

from fnst import colours, images, originals, results, tiff
from fnst.errors import HugeError, ImageError

ANIMATIONS = ["GIF", "WEBP", "PNG", "AVIF"]
ENDINGS = {"GIF": ".gif", "WEBP": ".webp", "PNG": ".png", "AVIF": ".avif", "JPEG": ".jpg"}
TIMES = [50, 60, 70, 80]


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def only(content, **options):
    """The one frame of a file."""
    [frame] = originals.frames(content, **options)
    return frame


def again(content, ending, **options):
    """What is in a file, written anew in a format, and the notes about that."""
    buffer = io.BytesIO()
    notes = results.write(buffer, ending, originals.frames(content), **options)
    return buffer.getvalue(), notes


def opened(content):
    image = Pillow.open(io.BytesIO(content))
    image.load()
    return image


def levels(picture):
    return (images.to_floats(picture.rgb)[0].permute(1, 2, 0) * 255).numpy()


# --- what moves -----------------------------------------------------------------------------------


def film(kind, *, alpha=False, **options):
    """Four frames, each of one colour; with alpha, a solid disk that wanders."""
    shots = []
    for index, colour in enumerate([(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 240)]):
        shot = Pillow.new("RGB", (24, 16), colour)
        if alpha:
            solid = Pillow.new("L", (24, 16))
            ImageDraw.Draw(solid).ellipse((4 * index, 2, 4 * index + 11, 13), 255)
            shot.putalpha(solid)
        shots.append(shot)
    options = {"duration": TIMES, "loop": 3, "disposal": 2 if kind == "GIF" else 0} | options
    return encoded(shots[0], kind, save_all=True, append_images=shots[1:], **options)


@pytest.mark.parametrize("alpha", [False, True], ids=["solid", "clear"])
@pytest.mark.parametrize("target", ANIMATIONS)
@pytest.mark.parametrize("source", ANIMATIONS)
def test_what_moves_goes_out_frame_by_frame(source, target, alpha):
    content = film(source, alpha=alpha)
    before = list(originals.frames(content))
    after = list(originals.frames(again(content, ENDINGS[target])[0]))
    assert [frame.milliseconds for frame in before] == TIMES
    assert [frame.milliseconds for frame in after] == TIMES
    for one, other in zip(before, after, strict=True):
        if alpha:
            assert (one.picture.alpha.int() - other.picture.alpha.int()).abs().max() <= 16
            solid = one.picture.alpha[0, 0] == 255
        else:
            solid = torch.ones(16, 24, dtype=torch.bool)
        difference = np.abs(levels(one.picture) - levels(other.picture))[solid.numpy()]
        assert np.median(difference) <= 6


@pytest.mark.parametrize("target", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("source", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("loop", [0, 1, 5])
def test_it_is_shown_as_often_as_before(source, target, loop):
    """GIF counts repetitions, the others how often it is shown."""
    content = film(source, loop=loop)
    plays = loop + 1 if source == "GIF" and loop else loop
    assert next(originals.frames(content)).about.plays == plays
    assert next(originals.frames(again(content, ENDINGS[target])[0])).about.plays == plays


def test_a_gif_that_says_nothing_is_shown_once():
    content = film("GIF", loop=None)
    assert b"NETSCAPE" not in content
    assert b"NETSCAPE" not in again(content, ".gif")[0]


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_only_the_first_frame_fits_a_format_that_holds_one_and_that_is_said(kind):
    content, notes = again(film(kind), ".jpg")
    assert opened(content).format == "JPEG"
    assert notes == ["only its first frame was kept, as .jpg files hold one"]


def test_what_is_clear_around_solid_squares_stays_clear():
    """libwebp keeps only the squares, and says that nothing is clear."""
    square = Pillow.new("RGBA", (24, 16))
    square.paste((250, 9, 9, 255), (4, 4, 12, 12))
    moved = square.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
    content = encoded(square, "PNG", save_all=True, append_images=[moved])
    for ending in (".webp", ".gif", ".png", ".avif"):
        first, _ = originals.frames(again(content, ending)[0])
        assert first.picture.alpha[0, 0, 0, 0] == 0
        assert first.picture.alpha[0, 0, 8, 8] == 255


def test_a_still_stays_one_in_a_format_that_can_move():
    for ending in (".gif", ".webp", ".png", ".avif"):
        content, _ = again(encoded(Pillow.new("RGB", (9, 7), (200, 30, 60))), ending)
        assert not getattr(opened(content), "is_animated", False)
        assert np.abs(levels(only(content).picture) - (200, 30, 60)).max() <= 4


def test_the_picture_for_those_who_cannot_show_the_others_is_no_frame():
    shots = [Pillow.new("RGB", (8, 8), (level, 0, 0)) for level in (9, 99, 199)]
    content = encoded(shots[0], save_all=True, append_images=shots[1:], default_image=True)
    assert [levels(f.picture)[0, 0, 0].round() for f in originals.frames(content)] == [99, 199]


def test_frames_are_read_and_written_one_by_one():
    """Pillow's own writers of GIF and PNG would keep all of them until the last."""
    shots = [Pillow.new("RGB", (8, 8), (20 * index, 0, 0)) for index in range(12)]
    content = encoded(shots[0], save_all=True, append_images=shots[1:])
    for ending in (".gif", ".png", ".webp", ".avif"):
        alive, most = weakref.WeakSet(), []

        def frames(alive=alive, most=most):
            for frame in originals.frames(content):
                alive.add(frame)
                most.append(len(alive))
                yield frame

        results.write(io.BytesIO(), ending, frames())
        assert len(most) == 12
        assert max(most) <= 3


def test_so_many_frames_that_nobody_can_mean_them_are_refused_unless_asked_for(monkeypatch):
    monkeypatch.setattr(originals, "MOST_FRAMES", 3)
    content = film("GIF")
    with pytest.raises(HugeError, match=r"moving\.gif: expected at most 3 frames, got 4"):
        next(originals.frames(content, name="moving.gif"))
    assert len(list(originals.frames(content, allow_huge=True))) == 4


def test_so_many_pixels_are_refused_before_they_are_decoded_unless_asked_for():
    header = struct.pack(">IIBBBBB", 50_000, 20_000, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    with pytest.raises(HugeError, match="expected at most 250 megapixels, got many more"):
        only(content)
    asked = []

    def admit(pixels):
        asked.append(pixels)
        raise KeyboardInterrupt  # it would be decoded now

    with pytest.raises(KeyboardInterrupt):
        next(originals.frames(content, allow_huge=True, admit=admit))
    assert asked == [10**9]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [15_900, 22_000, 65_535])  # Pillow itself refuses twice our limit
def test_a_gif_that_grows_is_refused_before_its_large_frame_is_decoded(side):
    found = originals.frames(growing_gif(side), name="a.gif")
    assert next(found).picture.rgb.shape == (1, 3, 8, 8)
    with pytest.raises(HugeError, match=r"^a\.gif: expected at most 250 megapixels, got [^.]*\.$"):
        next(found)


def test_room_is_asked_for_before_a_frame_grows():
    asked = []
    with pytest.raises(ImageError):  # there is nothing in it
        list(originals.frames(growing_gif(1000), admit=asked.append))
    assert asked == [64, 10**6]


# --- sixteen bits ---------------------------------------------------------------------------------

BYTE_ORDERS = {"<": "little", ">": "big"}


def deep_noise(channels, h=70, w=41):
    return np.random.default_rng(0).integers(0, 65536, (h, w, channels), dtype=np.uint16)


def deep_png(values, kind, *, interlaced=False):
    h, w = values.shape[:2]
    rows = np.zeros((h, 1 + values[0].size * 2), np.uint8)
    rows[:, 1:] = values.astype(">u2").view(np.uint8).reshape(h, -1)
    header = struct.pack(">IIBBBBB", w, h, 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def with_chunk(png, name, body):
    """A PNG with another chunk after its header."""
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return png[:33] + struct.pack(">I", len(body)) + name + body + checksum + png[33:]


def with_profile(png, profile):
    return with_chunk(png, b"iCCP", b"p\0\0" + zlib.compress(profile))


def deep_tiff(values, order="<", **options):
    buffer = io.BytesIO()
    grey = values.shape[2] == 1
    tifffile.imwrite(
        buffer,
        values[..., 0] if grey else values,
        photometric="minisblack" if grey else "rgb",
        extrasamples=("unassalpha",) if values.shape[2] == 4 else (),
        byteorder=order,
        metadata=None,
        **options,
    )
    return buffer.getvalue()


def values_of(picture):
    """All channels of a picture as 16-bit numbers."""
    planes = [images.to_floats(picture.rgb)]
    planes += [] if picture.alpha is None else [images.to_floats(picture.alpha)]
    return (torch.cat(planes, 1)[0].permute(1, 2, 0) * 65535).round().numpy().astype(np.uint16)


DEEP = {
    "PNG": deep_png(deep_noise(3), 2),
    "PNG with alpha": deep_png(deep_noise(4), 6),
    "TIFF": deep_tiff(deep_noise(3)),
    "TIFF, big-endian": deep_tiff(deep_noise(3), ">"),
    "TIFF, deflated": deep_tiff(deep_noise(3), compression="zlib"),
    "TIFF, deflated, big-endian": deep_tiff(deep_noise(3), ">", compression="zlib"),
    "TIFF, differences, in strips": deep_tiff(
        deep_noise(3), compression="zlib", predictor=True, rowsperstrip=16
    ),
    "TIFF with alpha": deep_tiff(deep_noise(4)),
    "TIFF in tiles": deep_tiff(deep_noise(3), compression="zlib", tile=(32, 32)),
}


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_sixteen_bits_come_in_and_go_out_exactly(content, ending):
    picture = only(content).picture
    assert picture.depth == 16
    channels = 3 if picture.alpha is None else 4
    assert np.array_equal(values_of(picture), deep_noise(channels))
    written, _ = again(content, ending)
    assert np.array_equal(values_of(only(written).picture), deep_noise(channels))


def test_others_read_the_sixteen_bits_that_were_written():
    written, _ = again(DEEP["PNG with alpha"], ".tiff")
    assert np.array_equal(tifffile.imread(io.BytesIO(written)), deep_noise(4))


@pytest.mark.parametrize(
    "content",
    [deep_png(deep_noise(1), 0), deep_tiff(deep_noise(1)), deep_tiff(deep_noise(1), ">")],
    ids=["PNG", "TIFF", "TIFF, big-endian"],
)
def test_grey_of_sixteen_bits_too(content):
    picture = only(content).picture
    assert picture.depth == 16
    assert np.array_equal(values_of(picture), deep_noise(1).repeat(3, 2))


def test_grey_with_alpha_of_sixteen_bits_too():
    picture = only(deep_png(deep_noise(2), 4)).picture
    assert np.array_equal(values_of(picture), deep_noise(2)[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_the_clear_grey_of_sixteen_bits_stays_clear(ending):
    grey = deep_noise(1)
    grey[3, 5] = grey[3, 6] - 1  # nearly the same
    clear = struct.pack(">H", grey[3, 5, 0])
    content = with_chunk(deep_png(grey, 0), b"tRNS", clear)
    expected = (grey != grey[3, 5]).astype(np.uint16) * 65535
    for found in (content, again(content, ending)[0]):
        picture = only(found).picture
        assert picture.depth == 16
        assert np.array_equal(values_of(picture), np.concatenate((grey,) * 3 + (expected,), 2))
    tinted = with_profile(content, grey_profile(1.8))
    alpha = only(tinted).picture.alpha
    assert np.array_equal(alpha[0, 0].int().numpy() * 257, expected[..., 0])


def test_the_clear_colour_of_sixteen_bits_stays_clear():
    rgb = deep_noise(3)
    rgb[3, 6] = rgb[3, 5] ^ 1  # nearly the same
    content = with_chunk(deep_png(rgb, 2), b"tRNS", rgb[3, 5].astype(">u2").tobytes())
    expected = np.full((70, 41, 1), 65535, np.uint16)
    expected[3, 5] = 0
    assert np.array_equal(values_of(only(content).picture), np.concatenate((rgb, expected), 2))


GREY = {
    "PNG": deep_png(deep_noise(1), 0),
    "PNG with alpha": deep_png(deep_noise(2), 4),
}


@pytest.mark.parametrize("content", GREY.values(), ids=GREY)
def test_a_profile_of_grey_that_changes_nothing_leaves_sixteen_bits(content):
    frame = only(with_profile(content, grey_profile(None)))
    assert frame.picture.depth == 16
    assert frame.about.notes == ()
    assert np.array_equal(values_of(frame.picture), values_of(only(content).picture))


@pytest.mark.parametrize("content", GREY.values(), ids=GREY)
def test_another_profile_of_grey_is_followed_with_eight_bits_and_that_is_said(content):
    frame = only(with_profile(content, grey_profile(1.8)))
    assert frame.picture.depth == 8
    assert "its 16 bits became 8" in frame.about.notes[0]
    plain = levels(only(content).picture)[..., 0] / 255
    light = plain**1.8
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    bright = plain > 0.05  # in the dark, a level before is several after
    assert np.abs(levels(frame.picture)[..., 0] - srgb)[bright].max() <= 2


def test_sixteen_bits_are_turned():
    exif = Pillow.Exif()
    exif[274] = 6
    turned = with_chunk(DEEP["PNG"], b"eXIf", exif.tobytes()[6:])
    assert np.array_equal(values_of(only(turned).picture), np.rot90(deep_noise(3), -1))


def test_eight_bits_stay_eight():
    frame = only(encoded(Pillow.new("RGB", (5, 4), (1, 2, 3))))
    assert (frame.picture.depth, frame.picture.rgb.dtype) == (8, torch.uint8)


def test_a_profile_of_other_colours_is_followed_with_eight_bits_and_that_is_said():
    profile = rotated(red="green", green="blue", blue="red")
    frame = only(with_profile(DEEP["PNG"], profile))
    assert frame.picture.depth == 8
    assert "its 16 bits became 8" in frame.about.notes[0]


# --- what a file says -----------------------------------------------------------------------------

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" '
    b'dc:creator="Ada"/></x:xmpmeta>'
)


def photograph(kind="JPEG", size=(40, 30), **options):
    """A picture as cameras write them, standing on its side."""
    exif = Pillow.Exif()
    exif[274] = 6
    exif[271], exif[315], exif[33432] = "Camera", "Ada", "2024 Ada"
    exif[ExifTags.IFD.Exif] = {33434: 0.01, 36867: "2024:01:02 03:04:05", 40962: 40, 40963: 30}
    exif[ExifTags.IFD.GPSInfo] = {1: "N", 2: (1.0, 2.0, 3.0)}
    xmp = {"pnginfo": png_info()} if kind == "PNG" else {"xmp": XMP}
    if kind == "TIFF":  # Pillow loses one beside the other
        buffer = io.BytesIO()
        tags = dict(exif) | {700: XMP, 282: 300.0, 283: 200.0, 296: 2}
        if "icc_profile" in options:
            tags[34675] = options["icc_profile"]
        tiff.write(buffer, np.full((size[1], size[0], 3), 99, np.uint8), tags)
        return buffer.getvalue()
    return encoded(
        Pillow.new("RGB", size, (90, 120, 60)), kind, exif=exif, dpi=(300, 200), **xmp, **options
    )


def png_info():
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_what_describes_a_photograph_is_kept_and_what_described_its_bytes_is_not(kind, ending):
    content, _ = again(photograph(kind), ending)
    image = opened(content)
    exif = image.getexif()
    assert image.size == (30, 40)  # upright
    assert (exif[271], exif[315], exif[33432]) == ("Camera", "Ada", "2024 Ada")
    assert exif.get(274, 1) == 1
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert details[36867] == "2024:01:02 03:04:05"
    assert (details[40962], details[40963]) == (30, 40)
    assert exif.get_ifd(ExifTags.IFD.GPSInfo)[1] == "N"
    xmp = image.info["xmp"]
    assert b'dc:creator="Ada"' in (xmp.encode() if isinstance(xmp, str) else xmp)
    assert b"Orientation" not in (xmp.encode() if isinstance(xmp, str) else xmp)


IPTC = {(1, 90): b"\x1b%G", (2, 25): [b"sea", b"sky"], (2, 80): b"Ada", (2, 116): "© Ada".encode()}


def with_iptc(kind):
    """A picture that says by whom it is and what it shows, as agencies do; and its preview."""
    fields = [
        *((2, 25, word) for word in IPTC[2, 25]),
        (2, 5, b""),
        (2, 202, b"preview"),
        (3, 20, b"\0\x09"),
    ]
    fields += [(*key, value) for key, value in IPTC.items() if isinstance(value, bytes)]
    iptc = b"".join(struct.pack(">BBBH", 28, *key, len(value)) + value for *key, value in fields)
    if kind == "TIFF":
        buffer = io.BytesIO()
        tiff.write(buffer, np.full((9, 9, 3), 99, np.uint8), {33723: iptc})
        return buffer.getvalue()
    named = b"8BIM\x04\x04" + b"\x03abc" + struct.pack(">I", len(iptc)) + iptc
    segment = b"Photoshop 3.0\0" + named + bytes(len(iptc) % 2) + b"8BIM\x04\x0c\0\0\0\0\0\4tiny"
    content = encoded(Pillow.new("RGB", (9, 9)), "JPEG")
    return content[:2] + b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment + content[2:]


@pytest.mark.parametrize("ending", [".jpg", ".tif"])
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_iptc_goes_from_jpeg_and_tiff_into_either_without_a_preview(kind, ending):
    content, _ = again(with_iptc(kind), ending)
    assert IptcImagePlugin.getiptcinfo(Pillow.open(io.BytesIO(content))) == IPTC
    assert b"preview" not in content
    assert b"tiny" not in content
    assert opened(again(with_iptc(kind), ".png")[0]).size == (9, 9)


def test_damaged_iptc_is_left_out():
    for damaged in (b"\x1b\x02\x19", b"\x1c\x63\x19"):
        content = with_iptc("JPEG").replace(b"\x1c\x02\x19", damaged, 1)
        assert "photoshop" not in opened(again(content, ".jpg")[0]).info


def test_the_comment_of_a_jpeg_goes_into_a_jpeg():
    content = encoded(Pillow.new("RGB", (9, 9)), "JPEG", comment="Ada's, © 2024".encode())
    assert opened(again(content, ".jpg")[0]).info["comment"] == "Ada's, © 2024".encode()
    long = encoded(Pillow.new("RGB", (9, 9)), "JPEG", comment=b"a" * 65_400)
    assert "comment" not in opened(again(long, ".jpg")[0]).info


def test_the_texts_of_a_png_go_into_a_png():
    info = png_info()
    info.add_text("Author", "Ada")
    info.add_itxt("Title", "Das Meer, 海", lang="de")
    info.add_text("Copyright", "© Ada", zip=True)
    info.add_text("Comment", "a" * 65_400)
    info.add_text("dpi", "of no use")
    shot = Pillow.new("RGB", (9, 9))
    still = encoded(shot, pnginfo=info)
    moving = encoded(shot, save_all=True, append_images=[Pillow.new("RGB", (9, 9), "red")])
    moving = moving[:33] + still[33 : still.index(b"IDAT") - 4] + moving[33:]
    for content in (still, moving):
        written = Pillow.open(io.BytesIO(again(content, ".png")[0]))
        said = {key: str(text) for key, text in written.text.items() if "xmp" not in key}
        assert said == {"Author": "Ada", "Title": "Das Meer, 海", "Copyright": "© Ada"}
        assert written.text["Title"].lang == "de"
        assert b"Ada" in written.info["xmp"]
    assert "Author" not in opened(again(still, ".jpg")[0]).info


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_a_sheet_does_not_have_the_sides_of_its_photograph(ending):
    frame = only(photograph())
    wide = images.Picture(torch.zeros(1, 3, 50, 90))
    buffer = io.BytesIO()
    results.write(buffer, ending, iter([originals.Frame(wide, frame.about)]))
    exif = opened(buffer.getvalue()).getexif()
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert (details[40962], details[40963]) == (90, 50)
    assert details[36867] == "2024:01:02 03:04:05"
    assert (exif[315], exif.get_ifd(ExifTags.IFD.GPSInfo)[1]) == ("Ada", "N")


def test_xmp_does_not_state_the_sides_of_the_old_file():
    xmp = (
        b'<a tiff:ImageWidth="40" exif:PixelXDimension=\'40\' dc:creator="Ada">'
        b"<tiff:ImageLength>30</tiff:ImageLength><exif:PixelYDimension>30</exif:PixelYDimension></a>"
    )
    content = encoded(Pillow.new("RGB", (40, 30)), "JPEG", xmp=xmp)
    assert only(content).about.xmp == b'<a dc:creator="Ada"></a>'


def test_xmp_of_spaces_is_read_at_once():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", " " * 10**6)
    began = time.perf_counter()
    only(encoded(Pillow.new("RGB", (8, 8)), pnginfo=info))
    assert time.perf_counter() - began < 5


def test_sixteen_bits_keep_what_describes_them():
    buffer = io.BytesIO()
    frame = only(DEEP["TIFF"])
    about = only(photograph("JPEG", icc_profile=colours.srgb_profile())).about
    for ending in (".png", ".tif"):
        buffer = io.BytesIO()
        results.write(buffer, ending, iter([originals.Frame(frame.picture, about)]))
        image = opened(buffer.getvalue())
        assert image.getexif()[315] == "Ada"
        assert image.getexif().get_ifd(ExifTags.IFD.Exif)[36867] == "2024:01:02 03:04:05"
        assert image.info["dpi"] == pytest.approx((200, 300), abs=0.1)
        assert image.info["icc_profile"] == colours.srgb_profile()
        assert b"Ada" in bytes(image.info["xmp"])


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif"])
def test_the_resolution_is_turned_with_the_picture(ending):
    image = opened(again(photograph(), ending)[0])
    assert image.info["dpi"] == pytest.approx((200, 300), abs=0.1)


def test_a_result_says_that_it_is_srgb_where_its_photograph_said_what_it_was():
    srgb = colours.srgb_profile()
    for ending in (".jpg", ".png", ".webp", ".tif", ".avif"):
        assert "icc_profile" not in opened(again(photograph(), ending)[0]).info
        tagged, _ = again(photograph(icc_profile=srgb), ending)
        assert opened(tagged).info["icc_profile"] == srgb


def test_the_thumbnail_of_the_photograph_is_left_out():
    thumbnail = encoded(Pillow.new("RGB", (8, 8)), "JPEG")
    at = 8 + 2 + 4  # header, an empty directory, the place of the next
    tags = struct.pack("<HHHIIHHII", 2, 513, 4, 1, at + 30, 514, 4, 1, len(thumbnail)) + bytes(4)
    exif = b"II*\0" + struct.pack("<IHI", 8, 0, at) + tags + thumbnail
    content = encoded(Pillow.new("RGB", (16, 16)), "JPEG", exif=b"Exif\0\0" + exif)
    assert thumbnail in content
    assert thumbnail not in again(content, ".jpg")[0]


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"?"])
def test_damaged_exif_is_left_out(exif):
    content, _ = again(encoded(Pillow.new("RGB", (8, 8)), "PNG", exif=exif), ".jpg")
    assert "exif" not in opened(content).info


def test_what_is_too_long_for_a_jpeg_is_left_out():
    exif = Pillow.Exif()
    exif[270] = "x" * 70_000
    long = encoded(Pillow.new("RGB", (8, 8)), "PNG", exif=exif)
    assert "exif" not in opened(again(long, ".jpg")[0]).info
    assert "exif" in opened(again(long, ".png")[0]).info


# --- how it is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jpg", ".webp", ".avif"])
def test_quality_is_size(ending):
    noise = Pillow.effect_noise((64, 64), 80).convert("RGB")
    sizes = [len(again(encoded(noise), ending, quality=q)[0]) for q in (10, 60, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] * 2 < sizes[2]


def test_what_is_clear_lies_on_white_where_a_format_has_no_alpha():
    clear = Pillow.new("RGBA", (8, 8), (0, 0, 0, 0))
    half = Pillow.new("RGBA", (8, 8), (0, 0, 0, 128))
    for ending in (".jpg", ".bmp"):
        assert levels(only(again(encoded(clear), ending)[0]).picture).min() >= 254
        assert levels(only(again(encoded(half), ending)[0]).picture) == pytest.approx(127, abs=2)


def test_a_gif_is_clear_or_not():
    shades = Pillow.new("RGBA", (2, 1), (9, 8, 7, 100))
    shades.putpixel((1, 0), (9, 8, 7, 200))
    alpha = only(again(encoded(shades), ".gif")[0]).picture.alpha
    assert alpha.flatten().tolist() == [0, 255]


def test_only_the_first_page_is_read_and_that_is_said():
    pages = [Pillow.new("RGB", (6, 5), colour) for colour in ("red", "blue")]
    frame = only(encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    assert frame.about.notes == ("only its first page was read",)
    assert_close(images.to_floats(frame.picture.rgb)[0, :, 0, 0], torch.tensor([1.0, 0, 0]))


def test_the_second_view_of_a_stereo_photograph_is_no_frame():
    views = [Pillow.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frame = only(encoded(views[0], "MPO", save_all=True, append_images=views[1:]))
    assert (frame.about.kind, frame.about.plays) == ("MPO", None)


# --- what is not read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"/* XPM */\nstatic char *a[] = {};\n",
        b"P9 1 1 255\n0",
    ],
    ids=["PostScript", "PDF", "SVG", "XPM", "nothing"],
)
def test_programs_and_drawings_are_no_pictures(content):
    with pytest.raises(ImageError, match=r"a\.jpg: this is not a picture that can be read"):
        only(content, name="a.jpg")


def test_heif_is_told_by_its_content(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    grey = np.full((12, 16, 3), 40_000, np.uint16)
    photo = tmp_path / "DSC0001.HIF"
    with photo.open("wb") as file:  # ten bits, as cameras write them
        heif.encode("RGB;16", (16, 12), grey.tobytes(), file)
    assert only(photo).picture.rgb.shape == (1, 3, 12, 16)


def test_heic_says_which_package_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"a\.heic: to read HEIC takes another package: pip"):
        only(b"\0\0\0\x18ftypheic" + bytes(100), name="a.heic")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="expected a file, got a pipe or a device"):
        only(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", sorted(results.MOST_PIXELS_A_SIDE))
def test_a_format_holds_as_many_pixels_a_side_as_is_said(kind):
    ending, most = images.ENDINGS.get(kind, ".jpg"), results.MOST_PIXELS_A_SIDE[kind]
    largest, larger = (images.Picture(torch.zeros(1, 3, 2, n)) for n in (most, most + 1))
    results.check_sides(largest, ending, "a")
    written = io.BytesIO()
    results.write(written, ending, iter([originals.Frame(largest, originals.About())]))
    assert only(written.getvalue()).picture.rgb.shape[3] == most
    with pytest.raises(ImageError, match=f"at most {most:,} pixels a side"):
        results.check_sides(larger, ending, "a")
