"""Numbers on held-out photographs: how well a network does on what it never saw."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

import torch
from jaxtyping import Float

from fnst.losses import PerceptualLoss
from fnst.network import TransformerNetwork
from fnst.stylize import stylize

Photo = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]
AnySize = Float[torch.Tensor, "1 3 _ _"]  # the same, of a size of its own


@dataclass(frozen=True)
class Score:
    """The weighted losses of one stylized photograph; each lower is better.

    The relative ones are shares of what the untouched photograph scores: 1 is no better than
    doing nothing. Its content loss is zero, so that there is no relative content.
    """

    photo: str
    content: float
    style: float
    total: float
    relative_style: float
    relative_total: float


def evaluate(
    network: TransformerNetwork, loss: PerceptualLoss, photos: Iterable[tuple[str, AnySize]]
) -> Iterator[Score]:
    """Stylize and score each named photograph, in float32."""
    for name, photo in photos:
        with torch.no_grad():
            now = _terms(loss, stylize(network, photo), photo)
            before = _terms(loss, photo, photo)
        yield Score(
            photo=name,
            **now,
            relative_style=now["style"] / before["style"],
            relative_total=now["total"] / before["total"],
        )


def _terms(loss: PerceptualLoss, stylized: Photo, photo: Photo) -> dict[str, float]:
    terms = loss(stylized, photo)
    return {
        "content": terms.content.item(),
        "style": terms.style.item(),
        "total": terms.total.item(),
    }


def summarize(scores: Iterable[Score]) -> dict[str, float]:
    """The mean of every loss over the photographs, and how many there were."""
    rows = [as_row(score) for score in scores]
    means = {
        name: round(fmean(float(row[name]) for row in rows), 6)
        for name in rows[0]
        if name != "photo"
    }
    return {**means, "photographs": len(rows)}


def as_row(score: Score) -> Mapping[str, str | float]:
    """A score as one row of the table of photographs."""
    return asdict(score)
