"""What a reader may steer: how strong, in whose colours, how large the strokes, what mix, where.

A control wraps a ``Paint`` into another one, so that they compose; ``compose`` puts all of them
around what paints, in the one order that is documented. Each works on pictures in [0, 1] and on
those of 256 levels alike, and goes through large ones in bands of rows, so that a picture of 48
megapixels does not become several copies in float.

References:
    [G16] Gatys, Bethge, Hertzmann, Shechtman. Preserving Color in Neural Artistic Style Transfer.
          2016. https://arxiv.org/abs/1606.05897
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from fnst import images
from fnst.errors import ImageError, ParamsError
from fnst.oklab import to_oklab, to_srgb
from fnst.stylize import Image, Paint, from_floats, to_floats

Floats = Float[Tensor, "1 3 h w"]  # sRGB in [0, 1]
AnySize = Float[Tensor, "1 3 _ _"] | UInt8[Tensor, "1 3 _ _"]  # a picture of a size of its own
Mask = UInt8[Tensor, "1 1 h w"]  # 0 keeps the photograph, 255 takes what was painted

STRONGEST = 1.5
STROKES = (0.25, 16.0)  # the smallest and the largest; what lies outside is no longer a painting

# Below strength 1, lightness (where strokes are) runs ahead and colour lags behind. Chosen by us,
# looking at eight photographs: a plain cross-fade at 0.25 looks like a faded photograph, and this
# like one that was drawn over.
LIGHTNESS, COLOUR = 0.7, 1.5  # exponents of the strength

# How far keeping colours may stretch or squeeze the lightness; chosen by us: with [G16]'s own
# stretch, unlimited, skies over flat styles become white.
STRETCH = 4 / 3

# How much larger strokes are sharpened; chosen by us: half as much is soft at size 3, twice as much
# draws stairs along edges. Detail of the photograph instead comes out as noise on the strokes.
CRISPNESS = 1.0

# Pixels of a band, some twenty floats of memory each; chosen by us: faster than larger ones.
BAND = 1 << 19


@dataclass(frozen=True)
class Controls:
    """How to steer; as it is made, nothing is steered.

    Raises:
        ParamsError: when a number is outside its bounds.
    """

    stroke_size: float = 1.0
    strength: float = 1.0
    keep_colors: bool = False
    mask: Mask | None = None
    mask_name: str = "masked"  # in names of results
    most_pixels: int = images.MOST_PIXELS  # of what small strokes take to paint

    def __post_init__(self) -> None:
        _check("strength", self.strength, 0.0, STRONGEST)
        _check("stroke size", self.stroke_size, *STROKES)

    @property
    def label(self) -> str:
        """What to add to a result's name, so that other controls give another name."""
        parts = (
            f"-stroke{self.stroke_size:g}" if self.stroke_size != 1 else "",
            f"-strength{self.strength:g}" if self.strength != 1 else "",
            "-colors" if self.keep_colors else "",
            f"-{self.mask_name}" if self.mask is not None else "",
        )
        return "".join(parts)


def compose(paints: Sequence[tuple[Paint, float]], controls: Controls) -> Paint:
    """What paints with all controls: strokes of each, their blend, strength, colours, mask.

    Args:
        paints: what is blended, each with its weight; mostly one.
        controls: how to steer it.
    """
    stroked = partial(stroke_size, size=controls.stroke_size, most_pixels=controls.most_pixels)
    paint = blend([(stroked(p), weight) for p, weight in paints])
    paint = strength(paint, controls.strength)
    if controls.keep_colors:
        paint = keep_colors(paint)
    return paint if controls.mask is None else masked(paint, controls.mask)


# --- strength -------------------------------------------------------------------------------------


def strength(paint: Paint, amount: float) -> Paint:
    """Paint less or more: 0 is the photograph, 1 what ``paint`` makes, above it painted twice.

    Between 0 and 1 lightness runs ahead of colour, both in OkLab. Above 1 the painting is painted
    once more and mixed in, at 1.5 entirely. Going on from the photograph through the painting and
    beyond was tried: colours invert, and the style loss grows tenfold where painting twice lowers
    it.
    """
    if amount == 1:
        return paint

    def repaint(photo: Image) -> Image:
        if amount == 0:
            return photo
        painted = paint(photo)
        if amount < 1:
            return by_bands(partial(_towards, amount**LIGHTNESS, amount**COLOUR), photo, painted)
        share = (amount - 1) / (STRONGEST - 1)
        return by_bands(partial(_towards, share, share), painted, paint(painted))

    return repaint


def _towards(lightness: float, colour: float, one: Floats, other: Floats) -> Floats:
    """From one picture to another, by these shares of the way in lightness and in colour."""
    shares = one.new_tensor([lightness, colour, colour]).view(1, 3, 1, 1)
    return to_srgb(to_oklab(one).lerp(to_oklab(other), shares))


# --- colours --------------------------------------------------------------------------------------


def keep_colors(paint: Paint) -> Paint:
    """The painting's lightness in the photograph's colours, in OkLab.

    The lightness gets the photograph's mean, and its spread within bounds, as [G16] (section 4):
    otherwise a dark style would take a bright photograph's colours away.
    """

    def repaint(photo: Image) -> Image:
        painted = paint(photo)
        (middle, spread), (wanted, wanted_spread) = _lightness(painted), _lightness(photo)
        stretch = min(max(wanted_spread / max(spread, 1e-6), 1 / STRETCH), STRETCH)
        recolour = partial(_recolour, stretch, wanted - stretch * middle)
        return by_bands(recolour, photo, painted)

    return repaint


def _recolour(stretch: float, shift: float, photo: Floats, painted: Floats) -> Floats:
    lightness = to_oklab(painted)[:, :1] * stretch + shift
    return to_srgb(torch.cat((lightness, to_oklab(photo)[:, 1:]), 1))


def _lightness(image: Image) -> tuple[float, float]:
    """Mean and standard deviation of a picture's lightness."""
    pixels, total, squares = 0, 0.0, 0.0
    for rows in _bands(image):
        lightness = to_oklab(to_floats(image[..., rows, :]))[:, 0].double()
        pixels += lightness.numel()
        total += lightness.sum().item()
        squares += lightness.square().sum().item()
    mean = total / pixels
    return mean, math.sqrt(max(0.0, squares / pixels - mean**2))


# --- strokes --------------------------------------------------------------------------------------


def stroke_size(paint: Paint, size: float, most_pixels: int = images.MOST_PIXELS) -> Paint:
    """Paint with strokes that are ``size`` times as large; the picture's size stays.

    A network's strokes have a size in pixels. So it paints a picture that is so many times smaller,
    or larger, and that is resized back; what was enlarged is made crisp again.
    """
    if size == 1:
        return paint

    def repaint(photo: Image) -> Image:
        h, w = photo.shape[-2:]
        inner = max(1, round(h / size)), max(1, round(w / size))
        _check_pixels(inner, size, most_pixels)
        painted = _resize(paint(_resize(photo, inner)), (h, w))
        if size < 1:
            return painted
        radius = max(1, round(size / 2))
        return by_bands(partial(_crisp, radius), painted, margin=2 * radius)

    return repaint


def _crisp(radius: int, image: Floats) -> Floats:
    """Sharpen edges to ``radius`` pixels, without halos: no pixel leaves the range around it."""
    around = _pooled(F.avg_pool2d, image, 2 * radius, count_include_pad=False)
    sharp = torch.lerp(around, image, 1 + CRISPNESS)
    lightest = _pooled(F.max_pool2d, image, radius)
    darkest = -_pooled(F.max_pool2d, -image, radius)
    return sharp.clamp(darkest, lightest)


def _pooled(pool: Callable[..., Tensor], image: Floats, radius: int, **options: bool) -> Floats:
    """Pool over squares, first down and then across, which is less work."""
    side = 2 * radius + 1
    down = pool(image, (side, 1), 1, (radius, 0), **options)
    return pool(down, (1, side), 1, (0, radius), **options)


def _check_pixels(shape: tuple[int, int], size: float, most_pixels: int) -> None:
    h, w = shape
    if h * w > most_pixels:
        raise ImageError(
            f"expected a stroke size that takes at most {most_pixels / 1e6:.0f} megapixels to "
            f"paint, got {size:g}, which takes {w}x{h}; choose a larger one, or say --allow-huge."
        )


# --- blends ---------------------------------------------------------------------------------------


def blend(paints: Sequence[tuple[Paint, float]]) -> Paint:
    """Mix what several paint of the same photograph, by weight, in OkLab."""
    (first, _), *others = paints
    if not others:
        return first

    def repaint(photo: Image) -> Image:
        mixed, total = first(photo), paints[0][1]
        for paint, weight in others:
            total += weight
            share = weight / total  # a running mean, so that two pictures are held, and not all
            mixed = by_bands(partial(_towards, share, share), mixed, paint(photo))
        return mixed

    return repaint


@dataclass(frozen=True)
class Ingredient:
    """A version of a style, and how much of it there is in a blend."""

    style: str | None  # None is the only one, or the first
    version: str | None = None  # a number or an alias; None is the champion
    weight: float = 1.0

    @property
    def number(self) -> int | None:
        return int(self.version) if self.version and self.version.isdecimal() else None

    @property
    def alias(self) -> str | None:
        return None if self.number else self.version


def ingredients(text: str) -> list[Ingredient]:
    """What ``great-wave:0.7,starry-night@3:0.3`` names; a style without a weight has 1.

    Raises:
        ParamsError: when it cannot be read, a weight is not above 0, or there is only one style.
    """
    found = [_ingredient(part.strip()) for part in text.split(",")]
    if len(found) < 2:
        raise ParamsError(f"expected at least two styles to blend, such as a:0.7,b:0.3, got {text}")
    return found


def _ingredient(text: str) -> Ingredient:
    name, _, weight = text.partition(":")
    style, at, version = name.partition("@")
    try:
        number = float(weight) if ":" in text else 1.0
    except ValueError:
        number = math.nan
    if not (style and 0 < number < math.inf and bool(at) == bool(version)):
        raise ParamsError(
            f"expected a style and its weight above 0, such as great-wave:0.7 or great-wave@3:0.7, "
            f"got {text!r}"
        )
    return Ingredient(style, version or None, number)


# --- masks ----------------------------------------------------------------------------------------


def masked(paint: Paint, mask: Mask) -> Paint:
    """Paint where a mask is white, keep the photograph where it is black, and mix where it is grey.

    The mask is stretched to each picture. Levels are mixed, as layers are in an image editor.
    """

    def repaint(photo: Image) -> Image:
        painted = paint(photo)
        h, w = photo.shape[-2:]
        shares = F.interpolate(mask, (h, w), mode="bilinear", antialias=True).to(photo.device)
        return by_bands(torch.lerp, photo, painted, shares.expand(photo.shape))

    return repaint


def load_mask(path: Path, most_pixels: int = images.MOST_PIXELS) -> Mask:
    """A picture's brightness as a mask, turned as its EXIF says; what is clear counts as black.

    Raises:
        ImageError: when it cannot be read, or has more than ``most_pixels``.
    """
    picture = images.load(path, most_pixels=most_pixels)
    brightness = picture.rgb.mean(1, keepdim=True)
    if picture.alpha is not None:
        brightness *= picture.alpha
    return brightness.mul_(255).round_().to(torch.uint8)


# --- pictures in bands ----------------------------------------------------------------------------


@torch.inference_mode()
def by_bands(function: Callable[..., Floats], *pictures: Image, margin: int = 0) -> Image:
    """Apply a function of pictures of one size, band by band; the result has the first's dtype.

    Args:
        function: of as many bands, in [0, 1]; its result has their size.
        pictures: each in its own dtype.
        margin: rows above and below that a row of the result depends on.
    """
    first = pictures[0]
    made = torch.empty_like(first)
    for rows in _bands(first):
        above = min(margin, rows.start)
        wider = slice(rows.start - above, rows.stop + margin)
        band = function(*(to_floats(picture[..., wider, :]) for picture in pictures))
        height = rows.stop - rows.start
        made[..., rows, :] = from_floats(band[..., above : above + height, :], first.dtype)
    return made


def _bands(image: Tensor) -> list[slice]:
    h, w = image.shape[-2:]
    rows = max(1, BAND // w)
    return [slice(top, min(top + rows, h)) for top in range(0, h, rows)]


def _resize(image: AnySize, shape: tuple[int, int]) -> AnySize:
    """Resize with antialiasing, in whichever dtype."""
    if image.dtype == torch.uint8 and image.device.type != "cpu":  # only CPUs resize levels
        return from_floats(_resize(to_floats(image), shape), image.dtype)
    resized = F.interpolate(image, shape, mode="bicubic", antialias=True)
    return resized.clamp_(0, 1) if resized.is_floating_point() else resized


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ParamsError(f"expected a {name} from {least:g} to {most:g}, got {value:g}.")
