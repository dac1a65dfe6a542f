"""Pixels of any mode, depth and profile, as Pillow holds them, become sRGB of eight bits."""

import io
from functools import lru_cache

import numpy as np
from jaxtyping import Float32
from PIL import Image as Pillow
from PIL import ImageCms

SRGB = ImageCms.createProfile("sRGB")


def to_srgb(image: Pillow.Image) -> Pillow.Image:
    """Convert any mode to 8-bit sRGB, through the embedded profile where there is a usable one."""
    image = _plain(image)
    profile = image.info.get("icc_profile")
    found = transform(profile, image.mode) if profile else None
    if found:
        return found.apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def to_resize(image: Pillow.Image) -> Pillow.Image:
    """The picture in a mode that may be resized before it becomes sRGB, which is less work."""
    image = _plain(image)
    if image.mode in ("RGB", "L"):
        return image
    converted = to_srgb(image)
    converted.info.pop("icc_profile", None)  # it has been followed, or was of no use
    return converted


def _plain(image: Pillow.Image) -> Pillow.Image:
    """Eight bits, no palette, and no alpha beside colours; everything else stays."""
    if is_long_grey(image):
        levels = to_eight_bits(image)
        if profile := image.info.get("icc_profile"):
            levels.info["icc_profile"] = profile  # still to be followed
        return levels
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert(image.mode[:-1]) if image.mode in ("RGBA", "LA") else image


def is_long_grey(image: Pillow.Image) -> bool:
    """Whether it is grey of 16 or 32 bits, or in floats."""
    return image.mode.startswith("I") or image.mode == "F"


def srgb_profile() -> bytes:
    """The profile of sRGB, for a result to say what its numbers mean; always the same bytes."""
    made = ImageCms.ImageCmsProfile(SRGB).tobytes()
    return made[:24] + bytes(12) + made[36:]  # without the moment it was made (ICC.1:2001, 6.1.8)


def is_other(profile: bytes, mode: str) -> bool:
    """Whether numbers of this profile are other colours than sRGB's, and can be converted."""
    return transform(profile, mode) is not None


@lru_cache(maxsize=16)  # thousands of photographs have a handful of profiles
def transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """How pixels of this mode become sRGB; None where the plain numbers are the best guess."""
    if mode not in ("RGB", "CMYK", "L"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.buildTransform(source, SRGB, mode, "RGB")
    except (ImageCms.PyCMSError, ValueError, OSError):
        return None  # a broken profile says nothing
    return None if mode != "CMYK" and _changes_nothing(found, mode) else found


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether 17 levels of each colour, or of grey, stay what they are, but for rounding.

    sRGB's own do, and those of a grey profile with its curve.
    """
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    channels = np.meshgrid(*[levels] * len(mode))
    colours = np.stack(channels, -1).reshape(17, -1, len(mode))
    pixels = Pillow.fromarray(colours if mode == "RGB" else colours[..., 0])
    converted = np.asarray(transform.apply(pixels))
    return bool(np.abs(converted.astype(int) - colours).max() <= 1)


def to_eight_bits(image: Pillow.Image) -> Pillow.Image:
    """Scale 16-bit, 32-bit and float grey to 0-255; Pillow's own conversion would clip them."""
    levels = to_floats(image)
    levels *= 255
    return Pillow.fromarray(levels.round(out=levels).astype(np.uint8))


def to_floats(image: Pillow.Image) -> Float32[np.ndarray, "h w"]:
    """16-bit, 32-bit and float grey between 0 and 1."""
    values = np.array(image, dtype=np.float32)
    # In place, because a large picture has gigabytes of these; what is no number becomes black.
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    top = 65535.0 if image.mode.startswith("I") else max(1.0, float(values.max(initial=1.0)))
    np.clip(values, 0, top, out=values)
    values /= top
    return values
