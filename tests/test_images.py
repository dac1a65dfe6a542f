"""Whatever comes in is upright sRGB in [0, 1], or one clear error; what goes out is whole."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageCms, ImageOps
from torch.testing import assert_close

from fnst import colours, images
from fnst.errors import ImageError
from fnst.images import Door, Picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image, ending="PNG", **options):
    """The bytes of a Pillow image."""
    buffer = io.BytesIO()
    image.save(buffer, ending, **options)
    return buffer.getvalue()


def filled(mode, colour, size=(8, 8), **options):
    return encoded(Pillow.new(mode, size, colour), **options)


def colour_of(content):
    """The one colour of a picture, 0-255."""
    rgb = images.load(content).rgb
    assert (rgb == rgb[:, :, :1, :1]).all()
    return tuple((rgb[0, :, 0, 0] * 255).round().int().tolist())


def noise(h, w):
    return torch.randint(0, 256, (1, 3, h, w)).float() / 255


# --- reading --------------------------------------------------------------------------------------


def test_pixels_come_in_rows_of_red_green_blue_between_0_and_1():
    image = Pillow.new("RGB", (3, 2))
    image.putpixel((2, 0), (255, 0, 51))
    rgb = images.load(encoded(image)).rgb
    assert rgb.shape == (1, 3, 2, 3)
    assert rgb.dtype == torch.float32
    assert_close(rgb[0, :, 0, 2], torch.tensor([1.0, 0.0, 0.2]))
    assert rgb.sum() == rgb[0, :, 0, 2].sum()


# Where the first row and the first column of the stored pixels belong (EXIF 2.3, tag 0x0112).
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_as_their_exif_says(orientation):
    upright = np.random.default_rng(0).integers(0, 256, (2, 3, 3), np.uint8)
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = Pillow.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    rgb = images.load(encoded(stored, exif=exif)).rgb
    assert_close(rgb[0].permute(1, 2, 0), torch.from_numpy(upright) / 255)


def test_squares_are_turned_too():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    image = Pillow.new("RGB", (64, 64))
    image.paste(WHITE, (0, 0, 64, 32))  # the stored top is the right side
    square = images.load_square(encoded(image, exif=exif), 64)
    assert (square[:, 40:] == 255).all()
    assert (square[:, :24] == 0).all()


@pytest.mark.parametrize(
    ("content", "colour"),
    [
        (filled("L", 100), (100, 100, 100)),
        (filled("1", 1), WHITE),
        (filled("CMYK", (0, 255, 255, 0), ending="TIFF"), RED),
        (filled("CMYK", (0, 0, 0, 0), ending="JPEG"), WHITE),
        (filled("RGBA", (9, 8, 7, 50)), (9, 8, 7)),
        (filled("LA", (9, 50)), (9, 9, 9)),
        (filled("I;16", 65535), WHITE),
        (filled("I;16", 32896), (128, 128, 128)),  # 257 times 128
        (filled("I;16", 257), (1, 1, 1)),
        (filled("F", 1.0, ending="TIFF"), WHITE),
    ],
    ids=[
        "grey",
        "black and white",
        "CMYK",
        "CMYK jpeg",
        "RGBA",
        "grey with alpha",
        "16 bits, white",
        "16 bits, grey",
        "16 bits, dark",
        "float",
    ],
)
def test_every_kind_of_pixel_becomes_srgb(content, colour):
    assert colour_of(content) == colour


def test_alpha_is_set_apart():
    picture = images.load(filled("RGBA", (*RED, 51), size=(3, 2)))
    assert picture.alpha is not None
    assert_close(picture.alpha, torch.full((1, 1, 2, 3), 0.2))
    assert images.load(filled("RGB", RED)).alpha is None


def test_alpha_is_turned_with_its_picture():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    picture = images.load(filled("RGBA", (*RED, 51), size=(3, 2), exif=exif))
    assert picture.alpha.shape == (1, 1, 3, 2)
    assert picture.rgb.shape == (1, 3, 3, 2)


def test_a_palette_keeps_its_colours_and_its_transparent_one():
    image = Pillow.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    picture = images.load(encoded(image, transparency=0))
    assert_close(picture.rgb[0, :, 0].T, torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))
    assert_close(picture.alpha[0, 0, 0], torch.tensor([0.0, 1.0]))


# --- colour profiles ------------------------------------------------------------------------------

# The colorants of sRGB in an ICC profile (IEC 61966-2-1, adapted to D50).
COLORANTS = {
    "red": (0.4360, 0.2225, 0.0139),
    "green": (0.3851, 0.7169, 0.0971),
    "blue": (0.1431, 0.0606, 0.7141),
}
D50 = (0.9642, 1.0, 0.8249)


def profile(red="red", green="green", blue="blue", gamma=2.2):
    """A display profile (ICC.1:2001) with these colorants and one gamma."""

    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(n * 65536)) for n in numbers)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": b"XYZ " + bytes(4) + fixed(*D50)}
    for letter, name in zip("rgb", (red, green, blue), strict=True):
        tags[f"{letter}XYZ".encode()] = b"XYZ " + bytes(4) + fixed(*COLORANTS[name])
        tags[f"{letter}TRC".encode()] = curve
    table, body = struct.pack(">I", len(tags)), b""
    for signature, content in tags.items():
        at = 128 + 4 + 12 * len(tags) + len(body)
        table += signature + struct.pack(">II", at, len(content))
        body += content
    size = struct.pack(">I", 128 + len(table) + len(body))
    head = size + bytes(4) + struct.pack(">I", 0x02400000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + fixed(*D50) + bytes(48) + table + body


def grey_profile(gamma=1.8):
    """A profile of grey with one gamma, or with sRGB's curve if that is None."""

    def fixed(*numbers):
        return b"".join(struct.pack(">i", round(n * 65536)) for n in numbers)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round((gamma or 1) * 256)) + bytes(2)
    if gamma is None:  # IEC 61966-2-1, as a parametric curve of ICC.1:2004-10, 10.15
        numbers = fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + numbers
    white = b"XYZ " + bytes(4) + fixed(*D50)
    at = 128 + 4 + 2 * 12
    table = struct.pack(">I", 2) + struct.pack(">4sII", b"wtpt", at, len(white))
    table += struct.pack(">4sII", b"kTRC", at + len(white), len(curve))
    body = table + white + curve
    size = struct.pack(">I", 128 + len(body))
    head = size + bytes(4) + struct.pack(">I", 0x02400000) + b"mntrGRAYXYZ " + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + fixed(*D50) + bytes(48) + body


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", 100), ("LA", (100, 50)), ("I;16", 100 * 257)], ids=str
)
def test_a_profile_of_grey_is_followed(mode, colour):
    content = filled(mode, colour, icc_profile=grey_profile(1.8))
    # light (100 / 255) ** 1.8 = 0.1854, of which sRGB's curve makes 1.055 * 0.1854 ** (1 / 2.4)
    # - 0.055 = 0.4680
    assert colour_of(content) == pytest.approx((119, 119, 119), abs=1)
    square = images.load_square(filled(mode, colour, (64, 64), icc_profile=grey_profile(1.8)), 64)
    assert square[32, 32].tolist() == pytest.approx((119, 119, 119), abs=1)


def test_a_profile_of_grey_is_followed_in_pictures_that_are_turned():
    exif = Pillow.Exif()
    exif[0x0112] = 6
    content = filled("I;16", 100 * 257, icc_profile=grey_profile(1.8), exif=exif)
    assert colour_of(content) == pytest.approx((119, 119, 119), abs=1)


def test_a_profile_of_grey_leaves_alpha_as_it_is():
    picture = images.load(filled("LA", (100, 51), icc_profile=grey_profile(1.8)))
    assert_close(picture.alpha, torch.full((1, 1, 8, 8), 0.2))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_profile_says_what_the_numbers_mean(mode):
    swapped = profile(red="green", green="blue", blue="red")
    red = (*RED, 255)[: len(mode)]
    assert colour_of(filled(mode, red, icc_profile=swapped)) == pytest.approx(GREEN, abs=2)


def test_linear_light_is_brightened_to_srgb():
    linear = profile(gamma=1.0)
    # sRGB's own curve (IEC 61966-2-1): 1.055 * (128 / 255) ** (1 / 2.4) - 0.055 = 0.7372
    grey = colour_of(filled("RGB", (128, 128, 128), icc_profile=linear))
    assert grey == pytest.approx((188, 188, 188), abs=1)


def test_squares_follow_the_profile_too():
    swapped = profile(red="green", green="blue", blue="red")
    content = filled("RGB", RED, size=(128, 128), ending="JPEG", icc_profile=swapped)
    assert images.load_square(content, 64)[32, 32].tolist() == pytest.approx(GREEN, abs=3)


def test_a_broken_profile_is_as_none():
    assert colour_of(filled("RGB", (9, 8, 7), icc_profile=b"no profile at all")) == (9, 8, 7)


def test_a_profile_for_other_pixels_is_as_none():
    assert colour_of(filled("L", 77, icc_profile=profile())) == (77, 77, 77)


# --- what is no picture ---------------------------------------------------------------------------


def png(width, height, body=b""):
    """A PNG that promises ``width`` x ``height`` and holds what it holds."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("ending", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("load", [images.load, lambda content: images.load_square(content, 64)])
def test_a_truncated_picture_is_damaged(ending, load):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    whole = encoded(Pillow.fromarray(pixels), ending)
    load(whole)
    with pytest.raises(ImageError, match=r"damaged|cannot|can be read"):
        load(whole[: len(whole) // 2])


def test_text_under_a_pictures_name_is_no_picture(tmp_path):
    (tmp_path / "a.jpg").write_text("Dear diary")
    with pytest.raises(ImageError, match=r"a\.jpg: this is not a picture"):
        images.load(tmp_path / "a.jpg")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(ImageError, match="expected a picture, got a folder"):
        images.load(tmp_path)


def test_a_missing_picture_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"a\.jpg: there is no such file"):
        images.load(tmp_path / "a.jpg")


def test_nothing_at_all_is_no_picture():
    with pytest.raises(ImageError, match="the upload: this is not a picture"):
        images.load(b"", name="the upload")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [15_900, 20_000, 40_000])
@pytest.mark.parametrize("read", [images.load, images.size_of])
def test_a_bomb_is_refused_before_it_is_decoded(side, read):
    with pytest.raises(ImageError, match="expected at most 250 megapixels"):
        read(png(side, side))


def test_a_jpeg_that_holds_less_than_it_promises_is_not_filled_with_grey():
    content = bytearray(encoded(Pillow.new("RGB", (64, 64)), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 9000, 9000)
    with pytest.raises(ImageError, match=r"damaged \(\d+ bytes hold no 9000x9000 pixels\)"):
        images.load(bytes(content))


def test_the_most_compressed_jpegs_are_read():
    for options in ({}, {"progressive": True}, {"optimize": True}):
        content = encoded(Pillow.new("L", (4096, 4096)), "JPEG", quality=1, **options)
        assert images.size_of(content) == (4096, 4096)


def test_a_jpeg_with_pass_after_pass_is_refused():
    content = encoded(Pillow.new("RGB", (64, 64)), "JPEG", progressive=True)
    scan = content[content.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError, match="expected at most 100 passes over its pixels, got 210"):
        images.load(content[:-2] + scan * 200 + content[-2:])


def test_up_to_the_limit_pictures_are_welcome():
    assert images.size_of(png(15_800, 15_800)) == (15_800, 15_800)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 GB"),
        OSError("out of memory when reading image file"),  # Pillow's decoders
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_lack_of_memory_is_no_damage(error):
    content = encoded(Pillow.new("RGB", (8, 6)))
    with pytest.raises(ImageError) as found, images.opened(content, name="a.png"):
        raise error
    assert str(found.value) == (
        "a.png: there is not enough memory to read this picture of 8x6; close other programs, or "
        "make it smaller first."
    )


def test_memory_may_be_lacking_before_the_size_is_known(monkeypatch):
    def refuse(*args, **options):
        raise MemoryError

    monkeypatch.setattr(Pillow, "open", refuse)
    with pytest.raises(ImageError, match="not enough memory to read this picture; close other"):
        images.load(b"", name="a.webp")


# --- the limit of pixels --------------------------------------------------------------------------


def growing_gif(side, disposal=0):
    """Two frames, of which the second is so large that the picture grows with it."""
    control = b"!\xf9\x04" + bytes([disposal << 2, 0, 0, 0, 0])
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\2\2\x44\1\0"
    return filled("P", 0, ending="GIF").removesuffix(b";") + control + frame + b";"


@pytest.mark.parametrize(
    ("brands", "ending"),
    [(b"mif1heic", ".jpg"), (b"msf1hevc", ".jpg"), (b"mif1avif", ".avif"), (b"avif", ".avif")],
)
def test_what_avif_and_heic_share_is_told_by_all_its_brands(brands, ending, monkeypatch):
    heif = Pillow.OPEN.get("HEIF", (None, lambda prefix: prefix[4:8] == b"ftyp"))
    monkeypatch.setitem(Pillow.OPEN, "HEIF", heif)
    monkeypatch.setattr(images, "_formats", lambda file: ["AVIF", "HEIF"])
    box = b"ftyp" + brands[:4] + bytes(4) + brands
    content = (4 + len(box)).to_bytes(4, "big") + box + b"avif in the pixels"
    assert images.ending_of(content) == ending


def test_whoever_asks_for_an_ending_leaves_the_limit_as_it_was():
    for content in (encoded(Pillow.new("RGB", (8, 8))), growing_gif(65_535), b"nothing"):
        images.ending_of(content)
        assert Pillow.MAX_IMAGE_PIXELS == images.MOST_PIXELS


@pytest.mark.parametrize("content", [encoded(Pillow.new("RGB", (8, 8))), b"", b"nothing"])
def test_a_door_without_a_limit_sets_none_for_others_when_it_is_closed(content):
    with contextlib.suppress(ImageError):
        images.read(content, most_pixels=2**62)
    assert Pillow.MAX_IMAGE_PIXELS == images.MOST_PIXELS


def test_of_two_doors_without_a_limit_the_last_brings_it_back():
    content = encoded(Pillow.new("RGB", (8, 8)))
    with Door(content, most_pixels=2**62):
        with Door(content, most_pixels=2**62):
            pass
        assert Pillow.MAX_IMAGE_PIXELS is None
    assert Pillow.MAX_IMAGE_PIXELS == images.MOST_PIXELS


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("PNG", ".png"), ("PPM", ".png"), *(i for i in images.ENDINGS.items() if i[0] != "HEIF")],
)
def test_the_ending_is_that_of_the_format(kind, ending):
    assert images.ending_of(encoded(Pillow.new("RGB", (8, 8)), kind)) == ending
    assert images.ending_of(b"nothing") == images.ending_of(b"") == ".png"


def test_the_ending_of_what_is_huge_is_known_too():
    content = encoded(Pillow.new("RGB", (8, 8)), "BMP")
    huge = content[:18] + struct.pack("<ii", 60_000, 60_000) + content[26:]
    assert images.ending_of(huge) == ".bmp"


# --- squares and sizes ----------------------------------------------------------------------------


def test_a_square_is_the_centre_of_the_picture():
    image = Pillow.new("RGB", (120, 40), RED)
    image.paste(BLUE, (40, 0, 80, 40))
    square = images.load_square(encoded(image), 40)
    assert square.shape == (40, 40, 3)
    assert square.dtype == np.uint8
    assert (square == BLUE).all()


def test_large_jpegs_are_decoded_no_smaller_than_they_are_needed():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, np.arange(256) % 8 < 4] = 255
    square = images.load_square(encoded(Pillow.fromarray(stripes), "JPEG"), 64)
    assert (square[:, ::2] > 230).all()  # four pixels of a stripe have become one
    assert (square[:, 1::2] < 25).all()


def straightforward(content, size):
    """What a square is: decoded, turned, made sRGB, cropped and resized, one after the other."""
    with Pillow.open(io.BytesIO(content)) as image:
        image.draft("RGB", (size, size))
        turned = ImageOps.exif_transpose(image)
        if turned.mode.startswith("I;16"):
            levels = np.asarray(turned, np.float64) / 65535 * 255
            turned = Pillow.fromarray(levels.round().astype(np.uint8))
        if "transparency" in turned.info:
            turned = turned.convert("RGBA")
        plain = turned.convert("RGB")
        if icc := image.info.get("icc_profile"):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            plain = ImageCms.profileToProfile(turned, source, colours.SRGB, outputMode="RGB")
        side = min(plain.size)
        left, top = (plain.width - side) // 2, (plain.height - side) // 2
        centre = plain.crop((left, top, left + side, top + side))
        return np.asarray(centre.resize((size, size), Pillow.Resampling.BICUBIC))


def scene(mode="RGB", size=(150, 110)):
    """Noise over soft colours, in any mode."""
    soft = Pillow.effect_noise((8, 8), 90).resize(size, Pillow.Resampling.BICUBIC)
    return Pillow.merge("RGB", (soft, soft.rotate(180), Pillow.effect_noise(size, 60))).convert(
        mode
    )


def turned(orientation, ending):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return encoded(scene(), ending, exif=exif)


@pytest.mark.parametrize(
    "content",
    [
        *(turned(i, ending) for i in STORED for ending in ("JPEG", "PNG")),
        encoded(scene("CMYK"), "JPEG"),
        encoded(scene("CMYK"), "TIFF"),
        encoded(scene("L"), "JPEG"),
        encoded(scene("1")),
        encoded(scene("LA")),
        encoded(scene("RGBA")),
        encoded(scene().quantize(40)),
        encoded(scene().quantize(40), transparency=3),
        encoded(Pillow.fromarray(np.arange(110 * 150, dtype=np.uint16).reshape(110, 150) * 3)),
        encoded(scene(size=(900, 700)), "JPEG"),
        encoded(scene(size=(900, 700)), "JPEG", progressive=True),
        encoded(scene(size=(900, 700)), "WEBP"),
        encoded(scene(size=(64, 64))),
    ],
)
def test_a_square_is_what_the_straightforward_way_gives(content):
    for size in (64, 100):
        found = images.load_square(content, size).astype(int)
        # torch and Pillow round the filter's weights to different numbers of bits
        assert np.abs(found - straightforward(content, size)).max() <= 1


def test_a_profile_for_other_pixels_changes_no_square():
    image = scene("CMYK")
    content, plain = (encoded(image, "JPEG", **o) for o in ({"icc_profile": profile()}, {}))
    assert np.array_equal(images.load_square(content, 64), images.load_square(plain, 64))


def test_the_profile_of_srgb_itself_costs_at_most_a_level():
    srgb = ImageCms.ImageCmsProfile(colours.SRGB).tobytes()
    content = encoded(scene(size=(300, 300)), "JPEG", icc_profile=srgb)
    found = images.load_square(content, 100).astype(int)
    assert np.abs(found - straightforward(content, 100)).max() <= 2


@pytest.mark.parametrize("gamma", [1.8, 2.2])
def test_resizing_before_following_a_profile_differs_by_a_level_where_colours_are_soft(gamma):
    soft = Pillow.linear_gradient("L").resize((200, 200), Pillow.Resampling.BICUBIC)
    image = Pillow.merge("RGB", (soft, soft.rotate(90), soft.rotate(180)))
    content = encoded(image, icc_profile=profile(gamma=gamma))
    difference = images.load_square(content, 100).astype(int) - straightforward(content, 100)
    assert (np.abs(difference) <= 1).mean() > 0.99


def test_what_is_no_number_is_black_and_nobody_is_warned():
    values = np.full((8, 8), 0.5, np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    rgb = images.load(encoded(Pillow.fromarray(values), "TIFF")).rgb
    assert (rgb[0, 0, 0, :3] == 0).all()
    assert_close(rgb[0, 0, 1], torch.full((8,), 0.5))


@pytest.mark.parametrize(
    ("content", "waits"),
    [
        (encoded(scene(size=(400, 400)), "JPEG"), False),
        (encoded(scene(size=(400, 400)), "JPEG", progressive=True), True),
        (encoded(scene(size=(400, 400)), "PNG"), True),
        (encoded(scene(size=(99, 99)), "PNG"), False),
    ],
    ids=["decoded reduced", "progressive", "PNG", "small"],
)
def test_only_a_picture_that_takes_much_memory_waits_for_others(content, waits, monkeypatch):
    entered = []

    class Lock:
        def __enter__(self):
            entered.append(True)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(images, "LARGE_PIXELS", 100 * 100)
    monkeypatch.setattr(images, "_one_large_picture", Lock())
    images.load_square(content, 64)
    assert bool(entered) == waits


def test_squares_are_made_of_photographs_not_of_programs():
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"
    with Pillow.open(io.BytesIO(program)) as image:
        assert image.format == "EPS"  # Pillow would run it
    with pytest.raises(ImageError, match=r"a\.jpg: this is not a picture that can be read"):
        images.load_square(program, 64, name="a.jpg")


def test_the_short_side_is_fitted():
    assert images.fit(noise(30, 60), 15).shape == (1, 3, 15, 30)
    assert images.fit(noise(60, 30), 90).shape == (1, 3, 180, 90)
    assert images.fit(noise(33, 100), 33).shape == (1, 3, 33, 100)


def test_fitting_stays_a_picture():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1.0  # bicubic overshoots beside such an edge
    fitted = images.fit(image, 40)
    assert fitted.min() == 0
    assert fitted.max() == 1


def test_fitting_averages_rather_than_skips():
    """The mean of 64 random pixels deviates an eighth as much as one of them, 0.29 / 8."""
    assert images.fit(noise(128, 128), 16).std() < 0.06


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".png", ".PNG", ".tif", ".tiff"])
def test_a_lossless_picture_comes_back_exactly(tmp_path, ending):
    picture = Picture(noise(5, 7), torch.randint(0, 256, (1, 1, 5, 7)).float() / 255)
    images.save(picture, tmp_path / f"a{ending}")
    back = images.load(tmp_path / f"a{ending}")
    assert torch.equal(back.rgb, picture.rgb)
    assert torch.equal(back.alpha, picture.alpha)


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".webp"])
def test_a_lossy_picture_comes_back_nearly(tmp_path, ending):
    rgb = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    images.save(Picture(rgb), tmp_path / f"a{ending}")
    assert (images.load(tmp_path / f"a{ending}").rgb - rgb).abs().max() < 0.03


def test_jpeg_leaves_alpha_out(tmp_path):
    images.save(Picture(noise(8, 8), torch.rand(1, 1, 8, 8)), tmp_path / "a.jpg")
    assert images.load(tmp_path / "a.jpg").alpha is None


def test_values_are_rounded_and_kept_between_black_and_white():
    rgb = torch.tensor([-0.5, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.5]).expand(1, 3, 1, 5)
    back = images.load(images.encode(Picture(rgb), ".png")).rgb[0, 0, 0] * 255
    assert_close(back, torch.tensor([0.0, 0, 1, 255, 255]))


@pytest.mark.parametrize(
    ("name", "width"), [("a.webp", 16_384), ("a.jpg", 65_536)], ids=["webp", "jpeg"]
)
def test_what_a_format_cannot_hold_leaves_the_earlier_file(tmp_path, name, width, capfd):
    images.save(Picture(noise(4, 4)), tmp_path / name)
    earlier = (tmp_path / name).read_bytes()
    with pytest.raises(ImageError, match=rf"{name} cannot be written: (?!None)"):
        images.save(Picture(torch.zeros(1, 3, 1, width)), tmp_path / name)
    assert (tmp_path / name).read_bytes() == earlier
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_in_the_way_is_reported(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ImageError, match=r"a\.png cannot be written: Is a directory"):
        images.save(Picture(noise(4, 4)), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.psd", r"expected an ending that fnst writes \(\.jpg, .*\), got \.psd"),
        ("a", "got none"),
        ("missing/a.png", "its folder does not exist"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(tmp_path, name, sentence):
    with pytest.raises(ImageError, match=sentence):
        images.check_writable(tmp_path / name)
    with pytest.raises(ImageError, match=sentence):
        images.save(Picture(noise(4, 4)), tmp_path / name)


# --- sheets ---------------------------------------------------------------------------------------


def test_a_sheet_holds_its_pictures_under_headings_and_over_captions():
    before, after = torch.zeros(1, 3, 20, 40), torch.ones(1, 3, 30, 60)
    sheet = images.sheet([("one", [before, after]), ("two", [before, after])], ["before", "after"])
    # 16 pixels between columns and around them; 34 above, and 34 + 16 below each row.
    assert sheet.shape == (1, 3, 34 + 2 * (30 + 50), 16 + 40 + 16 + 60 + 16)
    for top in (34, 34 + 80):
        assert_close(sheet[..., top : top + 20, 16:56], before)
        assert_close(sheet[..., top : top + 30, 72:132], after)
    paper = torch.tensor(images.PAPER).view(3, 1) / 255
    assert_close(sheet[0, :, :, 0], paper.expand(3, 194))


def test_a_sheet_of_small_pictures_is_as_wide_as_its_captions():
    picture = torch.ones(1, 3, 64, 64)
    caption = "chelsea.png, at 64 pixels: content 0.5, style 0.7"
    sheets = [images.sheet([(text, [picture])], [""]) for text in (caption, f"{caption}, total")]
    assert sheets[0].shape[3] < sheets[1].shape[3]
    paper = torch.tensor(images.PAPER).view(3, 1, 1) / 255
    for sheet in sheets:
        written = (sheet[0, :, 34 + 64 :] - paper).abs().amax((0, 1)).nonzero()
        assert 16 <= sheet.shape[3] - written.max() <= 20


def test_a_sheet_says_what_it_shows():
    picture = torch.ones(1, 3, 64, 64)
    plain = images.sheet([("", [picture])], [""])
    assert not torch.equal(images.sheet([("caption", [picture])], [""]), plain)
    assert not torch.equal(images.sheet([("", [picture])], ["heading"]), plain)
