"""Numbers on held-out photographs: how well a painter does on what it never saw.

Every photograph is painted and scored at several sizes; a mean over photographs comes with the
interval in which it would lie for other photographs of the kind.

References:
    [E93] Efron, Tibshirani. An Introduction to the Bootstrap. 1993; chapter 13, the percentile
          interval.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from fnst import images, quality
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

# Of the bootstrap: how often means are drawn, which share of them the interval holds, and the seed,
# so that the same scores have the same interval.
RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0

# What metrics.json says of the smallest size, and in short of the others.
HEADLINES = (
    *("content", "style", "total", "relative_style", "relative_total"),
    *("grid_ratio", "border_ratio", "clipped", "flat", "ssim", "perceptual", "sifid"),
)
IN_SHORT = ("total", "relative_total", "grid_ratio", "border_ratio")


@dataclass(frozen=True)
class Score:
    """What one photograph, painted at one size, scores.

    ``values`` holds, by name:

    - ``content``, ``style``, ``total``: the weighted losses; lower is better.
    - ``relative_style``, ``relative_total``: shares of what the untouched photograph scores: 1 is
      no better than doing nothing. Its content loss is zero, so that there is no relative content.
    - ``content_LAYER``, ``style_LAYER``, ``relative_style_LAYER``: see ``PerceptualLoss.by_layer``.
    - ``grid_ratio``: ``quality.grid`` over the photograph's own; 1 is no grid.
    - ``border_ratio``, ``clipped``, ``flat``: see ``quality``.
    - ``ssim``, ``perceptual``: likeness to, and distance from, the photograph.
    - ``sifid``, ``relative_sifid``: distance from the painting's texture; again as a share of the
      untouched photograph's.
    """

    photo: str
    size: int  # the short side that was asked for, pixels
    values: Mapping[str, float]


@dataclass(frozen=True)
class Mean:
    """The mean of one number over photographs, and the interval in which to expect it.

    It is the percentile interval of the bootstrap ([E93]), which cannot be wider than the numbers
    themselves: of two photographs it is their span, which holds the true mean half of the time; of
    one it is a point, and tells nothing.
    """

    mean: float
    low: float
    high: float


def evaluate(
    paint: Paint,
    loss: PerceptualLoss,
    painting: AnySize,
    photos: Iterable[tuple[str, AnySize]],
    sizes: Sequence[int],
) -> Iterator[Score]:
    """Paint and score each named photograph at each size, in float32.

    A photograph is never enlarged: of the sizes, it is scored at those that it reaches, and at its
    own in place of the smallest when it reaches none.

    Args:
        paint: what is judged, such as ``partial(stylize, network)``.
        loss: by what; pictures are looked at on the device of ``painting``.
        painting: the style picture as the loss sees it, see ``build.painting``.
        photos: names and photographs, of any size.
        sizes: short sides, pixels; ``metrics`` makes its headlines of the smallest.

    Raises:
        ImageError: when a photograph is smaller than 48 pixels.
    """
    texture = Texture.of(loss.extract(painting, (quality.TEXTURE,))[quality.TEXTURE])
    for name, photo in photos:
        for size in reached(photo, sizes, name):
            fitted = images.fit(photo.to(painting.device), min(size, *photo.shape[2:]))
            yield Score(name, size, _values(paint, loss, texture, fitted))


def reached(photo: AnySize, sizes: Sequence[int], name: str) -> list[int]:
    """The sizes at which a photograph is scored, smallest first; see ``evaluate``."""
    side = min(photo.shape[2:])
    if side < LEAST_SIDE:
        raise ImageError(
            f"{name}: expected a photograph of at least {LEAST_SIDE} pixels a side, got {side}; "
            "leave it out."
        )
    return [size for size in sorted(sizes) if size <= side] or [min(sizes)]


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
            if not name.startswith("content")
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
    terms = loss(image, photo)
    layers = loss.by_layer(image, photo)
    return {
        "content": terms.content.item(),
        "style": terms.style.item(),
        "total": terms.total.item(),
        **{name: value.item() for name, value in layers.items()},
        "sifid": quality.texture_distance(Texture.of(maps[quality.TEXTURE]), texture),
    }


def means(scores: Iterable[Score]) -> dict[int, dict[str, Mean]]:
    """By size, smallest first, and by name: every number's mean over the photographs."""
    sizes: dict[int, list[Score]] = {}
    for score in scores:
        sizes.setdefault(score.size, []).append(score)
    return {
        size: {name: mean([s.values[name] for s in sizes[size]]) for name in sizes[size][0].values}
        for size in sorted(sizes)
    }


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent numbers, one per photograph, with its bootstrap interval."""
    count = len(values)
    drawn = np.random.default_rng(SEED).multinomial(count, [1 / count] * count, RESAMPLES)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn @ np.array(values) / count, [tail, 1 - tail])
    return Mean(float(np.mean(values)), float(low), float(high))


def metrics(scores: Sequence[Score]) -> dict[str, float]:
    """The flat numbers of metrics.json: those of the smallest size, in short those of the others.

    ``total_low`` and ``total_high`` bound the mean total; ``total_512`` is that of another size.
    """
    smallest, *others = by_size = means(scores)
    found = {name: by_size[smallest][name].mean for name in HEADLINES}
    found |= {"total_low": by_size[smallest]["total"].low}
    found |= {"total_high": by_size[smallest]["total"].high}
    for size in others:
        found |= {f"{name}_{size}": by_size[size][name].mean for name in IN_SHORT}
    count = len({score.photo for score in scores})
    return {name: round(value, 6) for name, value in found.items()} | {
        "size": smallest,
        "photographs": count,
    }


def as_row(score: Score) -> dict[str, str | float]:
    """A score as one row of the table of photographs."""
    return {"photo": score.photo, "size": score.size, **score.values}
