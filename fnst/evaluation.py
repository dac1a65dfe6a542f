"""Numbers on held-out photographs: how well a painter does on what it never saw.

Every photograph is painted and scored at several sizes; a mean over photographs comes with the
interval in which the mean over all photographs of their kind lies.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float

from fnst import images, quality
from fnst.bootstrap import Mean, mean
from fnst.errors import ImageError
from fnst.losses import PerceptualLoss
from fnst.quality import Texture
from fnst.stylize import Paint

Photo = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]
AnySize = Float[torch.Tensor, "1 3 _ _"]  # the same, of a size of its own

# Below this side, in pixels, the loss network's deepest layers and a border have no room.
LEAST_SIDE = 48

# The painting itself, painted once more, has no style left to lose; its shares are of this.
NOTHING = 1e-9

# What metrics.json says of the smallest size, and in short of the others: whatever has a limit.
HEADLINES = (
    *("content", "style", "variation", "grid", "total", "relative_style", "relative_total"),
    *("grid_ratio", "border_ratio", "clipped", "flat", "ssim", "perceptual", "sifid"),
)
IN_SHORT = ("total", "relative_total", "grid_ratio", "border_ratio", "clipped", "flat")

# What a number is called, and what it tells; in the order of pages and tables.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "total": ("total", "content, style, variation and grid term: what training lowers"),
    "relative_total": ("total / photograph's", "share of what the untouched photograph scores"),
    "content": ("content", "distance from the photograph's structure, weighted"),
    "style": ("style", "distance from the painting's texture, weighted"),
    "relative_style": ("style / photograph's", "share of what the untouched photograph scores"),
    "variation": ("variation", "how much neighbouring pixels differ, weighted"),
    "grid": ("grid term", "how unequal means are by the place in squares of 4, weighted"),
    "grid_ratio": ("grid", "what sticks out of the spectrum at periods 2 and 4; 1 is none"),
    "border_ratio": ("border", "error in the outer 16 pixels over the rest; 1 is none"),
    "clipped": ("clipped", "share of pixels with every channel at an end"),
    "flat": ("flat", "share of the area in which nothing happens"),
    "ssim": ("structure", "SSIM of luma with the photograph; 1 is the same"),
    "perceptual": ("perceptual distance", "of the photograph, in the loss network's features"),
    "sifid": ("texture", "single-image FID to the painting; 0 is the same"),
    "relative_sifid": ("texture / photograph's", "share of what the untouched photograph scores"),
}


@dataclass(frozen=True)
class Score:
    """What one photograph, painted at one size, scores.

    ``values`` holds, by name:

    - ``content``, ``style``, ``variation``, ``grid``: the weighted terms of the loss, and
      ``total``, their sum; lower is better.
    - ``relative_style``, ``relative_total``: shares of what the untouched photograph scores: 1 is
      no better than doing nothing. Its content loss is zero, so that there is no relative content;
      nor are its variation and grid what a painting should come down to.
    - ``content_LAYER``, ``style_LAYER``, ``relative_style_LAYER``: see ``PerceptualLoss.explain``.
    - ``grid_ratio``: ``quality.grid`` over the photograph's own; 1 is no grid.
    - ``border_ratio``, ``clipped``, ``flat``: see ``quality``.
    - ``ssim``, ``perceptual``: likeness to, and distance from, the photograph.
    - ``sifid``, ``relative_sifid``: distance from the painting's texture; again as a share of the
      untouched photograph's.
    """

    photo: str
    size: int  # the short side that was asked for, pixels
    side: int  # the short side that it has: less, where the photograph is smaller
    values: Mapping[str, float]


def evaluate(
    paint: Paint,
    loss: PerceptualLoss,
    painting: AnySize,
    photos: Iterable[tuple[str, AnySize]],
    sizes: Sequence[int],
    sides: Sequence[int] = (),
) -> Iterator[Score]:
    """Paint and score each named photograph at each size, in float32.

    A photograph is never enlarged: of the sizes, it is scored at those that it reaches, and at its
    own in place of the smallest when it reaches none.

    Args:
        paint: what is judged, such as ``partial(stylize, network)``.
        loss: by what; pictures are looked at on the device of ``painting``.
        painting: the style picture as the loss sees it, see ``criterion.painting``.
        photos: names and photographs, of any size.
        sizes: short sides, pixels; ``metrics`` makes its headlines of the smallest.
        sides: the short side that each photograph came in, where any was enlarged since.

    Raises:
        ImageError: when a photograph is smaller than 48 pixels.
    """
    texture = Texture.of(loss.extract(painting, (quality.TEXTURE,))[quality.TEXTURE])
    for number, (name, photo) in enumerate(photos):
        check(name, photo)
        side = sides[number] if sides else min(photo.shape[2:])
        for size in reached(side, sizes):
            fitted = images.fit(photo.to(painting.device), min(size, side))
            yield Score(name, size, min(size, side), _values(paint, loss, texture, fitted))


def check(name: str, photo: AnySize) -> None:
    """Refuse what is too small to be judged, with an ImageError."""
    side = min(photo.shape[2:])
    if side < LEAST_SIDE:
        raise ImageError(
            f"{name}: expected a photograph of at least {LEAST_SIDE} pixels a side, got {side}; "
            "leave it out."
        )


def reached(side: int, sizes: Sequence[int]) -> list[int]:
    """The sizes at which a photograph of that short side is scored, smallest first."""
    return [size for size in sorted(set(sizes)) if size <= side] or [min(sizes)]


@torch.no_grad()
def total(paint: Paint, loss: PerceptualLoss, photo: Photo) -> float:
    """The weighted total of one photograph, painted at the size that it has; nothing else."""
    return float(loss(paint(photo), photo).total)


@torch.no_grad()
def _values(paint: Paint, loss: PerceptualLoss, texture: Texture, photo: Photo) -> dict[str, float]:
    stylized = paint(photo)
    maps, target = (loss.extract(image, quality.PERCEPTUAL) for image in (stylized, photo))
    now = _distances(loss, texture, stylized, photo, maps)
    before = _distances(loss, texture, photo, photo, target)
    return {
        **now,
        **{
            f"relative_{name}": now[name] / max(value, NOTHING)
            for name, value in before.items()
            if name.startswith(("style", "total", "sifid"))
        },
        "grid_ratio": quality.grid(stylized) / quality.grid(photo),
        "border_ratio": quality.border(paint, photo, stylized),
        "clipped": quality.clipped(stylized),
        "flat": quality.flat(stylized),
        "ssim": quality.ssim(stylized, photo),
        "perceptual": quality.perceptual(maps, target),
    }


def _distances(
    loss: PerceptualLoss,
    texture: Texture,
    image: Photo,
    photo: Photo,
    maps: Mapping[str, torch.Tensor],
) -> dict[str, float]:
    """What is told of the untouched photograph too, so that shares can be made of it."""
    terms, layers = loss.explain(image, photo)
    return {
        "content": terms.content.item(),
        "style": terms.style.item(),
        "variation": terms.variation.item(),
        "grid": terms.grid.item(),
        "total": terms.total.item(),
        **{name: value.item() for name, value in layers.items()},
        "sifid": quality.texture_distance(Texture.of(maps[quality.TEXTURE]), texture),
    }


def firsts(scores: Sequence[Score]) -> list[Score]:
    """One score of each photograph, in their order: that at the smallest size, which all have."""
    smallest = min(score.size for score in scores)
    return [score for score in scores if score.size == smallest]


def largest(scores: Sequence[Score]) -> list[Score]:
    """One score of each photograph, in their order: that at the largest size that it reaches."""
    following = [*(score.size for score in scores[1:]), 0]
    return [score for score, size in zip(scores, following, strict=True) if size <= score.size]


def means(scores: Iterable[Score]) -> dict[int, dict[str, Mean]]:
    """By size, smallest first, and by name: every number's mean over the photographs."""
    sizes: dict[int, list[Score]] = {}
    for score in scores:
        sizes.setdefault(score.size, []).append(score)
    return {
        size: {name: mean([s.values[name] for s in sizes[size]]) for name in sizes[size][0].values}
        for size in sorted(sizes)
    }


def counts(scores: Iterable[Score]) -> dict[int, int]:
    """By size, smallest first: how many photographs reached it."""
    return dict(sorted(Counter(score.size for score in scores).items()))


def spans(scores: Iterable[Score]) -> dict[int, str]:
    """By size, smallest first: the sides that its photographs have, such as `96 to 256`."""
    sides: dict[int, list[int]] = {}
    for score in scores:
        sides.setdefault(score.size, []).append(score.side)
    ends = {size: sorted({min(sides[size]), max(sides[size])}) for size in sorted(sides)}
    return {size: " to ".join(map(str, both)) for size, both in ends.items()}


def metrics(scores: Sequence[Score]) -> dict[str, float]:
    """The flat numbers of metrics.json: those of the smallest size, in short those of the others.

    ``total_low`` and ``total_high`` bound the mean total; ``total_512`` is that of another size,
    with ``total_low_512`` and ``total_high_512``, and ``photographs_512`` how many reached it.
    """
    smallest, *others = by_size = means(scores)
    found = {name: by_size[smallest][name].mean for name in HEADLINES}
    for size in others:
        found |= {f"{name}_{size}": by_size[size][name].mean for name in IN_SHORT}
    for size in by_size:
        total, where = by_size[size]["total"], "" if size == smallest else f"_{size}"
        found |= {f"total_low{where}": total.low, f"total_high{where}": total.high}
    reached = counts(scores)
    return {name: round(value, 6) for name, value in found.items()} | {
        "size": smallest,
        "photographs": reached[smallest],
        **{f"photographs_{size}": reached[size] for size in others},
    }


def as_row(score: Score) -> dict[str, str | int | float]:
    """A score as one row of the table of photographs."""
    return {
        "picture": f"{score.photo}, {score.side} px",
        "photo": score.photo,
        "size": score.size,
        "side": score.side,
        **score.values,
    }


def as_rows(by_size: Mapping[int, Mapping[str, Mean]]) -> list[dict[str, str | int | float]]:
    """What ``means`` found, as the rows of a table."""
    return [
        {"size": size, "number": name, **asdict(found)}
        for size, numbers in by_size.items()
        for name, found in numbers.items()
    ]
