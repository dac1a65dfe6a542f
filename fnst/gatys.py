"""The same loss, lowered on the pixels themselves: what a network in one pass is compared with.

Gatys et al. repaint a photograph by optimisation. How many iterations of that reach the loss of a
network's single pass says how well it was trained: figure 5 of Johnson et al.

References:
    [G16] Gatys, Ecker, Bethge. Image Style Transfer Using Convolutional Neural Networks. CVPR 2016.
    [J16] Johnson, Alahi, Fei-Fei. Perceptual Losses for Real-Time Style Transfer and
          Super-Resolution. 2016. https://arxiv.org/abs/1603.08155; section 4.1 and figure 5
    [L89] Liu, Nocedal. On the Limited Memory BFGS Method for Large Scale Optimization. 1989.
    [B82] Bertsekas. Projected Newton Methods for Optimization Problems with Simple Constraints.
          SIAM Journal on Control and Optimization, 1982.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor

from fnst import images
from fnst.losses import PerceptualLoss
from fnst.photos import Photos

Photo = Float[Tensor, "1 3 h w"]  # sRGB in [0, 1]
AnySize = Float[Tensor, "1 3 _ _"]  # the same, of a size of its own
Square = Float[Tensor, "1 3 s s"]  # the same, as high as wide
Objective = Callable[[Tensor], tuple[float, Tensor]]  # a point -> its value and gradient

# How many steps the curvature is told from: [L89] finds 3 to 7 enough, and more gained nothing.
MEMORY = 5

# The first step has no curvature to go by: it moves pixels by this much in the mean; chosen by us.
FIRST_MOVE = 0.05

# A step is taken when the value falls by at least this share of what the slope promises ([B82],
# eq. 12); else it is halved, at most so often.
ENOUGH, HALVINGS = 1e-4, 20


# Curvature is believed where a step and its change of gradient agree by at least this cosine; the
# line search looks at the value alone and cannot promise it. Chosen by us.
AGREE = 1e-8


def subjects(photos: Photos, count: int, size: int) -> list[Square]:
    """The first so many photographs of a set as squares of that side; of their own, if smaller."""
    chosen = range(min(count, len(photos)))
    return [images.fit(photos.whole(i), min(size, photos.side(i))) for i in chosen]


def repaint(loss: PerceptualLoss, photo: Photo, iterations: int) -> Iterator[tuple[Photo, float]]:
    """Lower the loss on a photograph's own pixels: every picture and its total, itself first.

    Pixels stay in [0, 1], and the total never rises.
    """

    def objective(image: Tensor) -> tuple[float, Tensor]:
        image = image.detach().requires_grad_()
        total = loss(image, photo).total.sum()
        (gradient,) = torch.autograd.grad(total, image)
        return total.item(), gradient

    return descend(objective, photo, iterations)


def curve(
    loss: PerceptualLoss,
    photos: Sequence[AnySize],
    iterations: int,
    told: Callable[[int, float], None] = lambda done, total: None,
    *,
    begun: Sequence[Sequence[float]] = (),
    keep: Callable[[Sequence[Sequence[float]]], None] = lambda curves: None,
) -> list[float]:
    """The mean total of photographs after each iteration on their pixels, untouched first.

    Args:
        loss: what is lowered.
        photos: one after the other, at the size that they have.
        iterations: of L-BFGS for each.
        told: after each, how many are done in all, ``iterations + 1`` a photograph, and the total.
        begun: the curves of the first photographs, where they are known.
        keep: called with all curves after each photograph.
    """
    curves = [*begun]
    for photo in photos[len(begun) :]:
        curve: list[float] = []
        for _, total in repaint(loss, photo, iterations):
            curve.append(total)
            told(len(curves) * (iterations + 1) + len(curve), total)
        curves.append(curve)
        keep(curves)
    return [fmean(each) for each in zip(*curves, strict=True)]


def as_rows(curve: Sequence[float]) -> list[dict[str, int | float]]:
    """A curve as the rows of a table."""
    return [{"iteration": iteration, "total": total} for iteration, total in enumerate(curve)]


def descend(objective: Objective, start: Tensor, iterations: int) -> Iterator[tuple[Tensor, float]]:
    """Lower an objective of values in [0, 1] by L-BFGS ([L89]), projected ([B82]).

    Yields ``iterations + 1`` points, ``start`` first; where it can fall no further, the last again.
    """
    point = start.clamp(0, 1)
    value, gradient = objective(point)
    curvature = Curvature()
    yield point, value
    for _ in range(iterations):
        # Values at their bounds that want to go beyond stay; the others move as if alone.
        free = ~((point <= 0) & (gradient > 0) | (point >= 1) & (gradient < 0))
        slope = gradient * free
        found = _search(objective, point, value, gradient, -curvature.solve(slope) * free)
        if found is None:  # what was learnt does not hold here
            curvature = Curvature()
            found = _search(objective, point, value, gradient, -curvature.solve(slope))
        if found is not None:
            curvature.learn(found[0] - point, found[2] - gradient)
            point, value, gradient = found
        yield point, value


def _search(
    objective: Objective, point: Tensor, value: float, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, float, Tensor] | None:
    """The first point along the projected direction that is lower enough, if there is one."""
    for halvings in range(HALVINGS):
        tried = torch.add(point, direction, alpha=0.5**halvings).clamp_(0, 1)
        promised = _dot(gradient, tried - point)
        if promised >= 0:
            return None
        lower, its_gradient = objective(tried)
        if lower <= value + ENOUGH * promised and lower < value:
            return tried, lower, its_gradient
    return None


class Curvature:
    """The inverse Hessian as the last steps tell it ([L89], the two-loop recursion)."""

    def __init__(self) -> None:
        self.pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=MEMORY)

    def learn(self, step: Tensor, change: Tensor) -> None:
        """Take up how the gradient changed along a step, unless it says that there is a hill."""
        agreement = _dot(step, change)
        if agreement > AGREE * (_dot(step, step) * _dot(change, change)) ** 0.5:
            self.pairs.append((step, change, agreement))

    def solve(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian times a gradient."""
        if not self.pairs:
            size = gradient.abs().mean().clamp_min(torch.finfo(gradient.dtype).tiny)
            return gradient * (FIRST_MOVE / size)
        shares = []
        result = gradient.clone()
        for step, change, agreement in reversed(self.pairs):
            shares.append(_dot(step, result) / agreement)
            result.sub_(change, alpha=shares[-1])
        _, change, agreement = self.pairs[-1]
        result.mul_(agreement / _dot(change, change))
        for (step, change, agreement), share in zip(self.pairs, reversed(shares), strict=True):
            result.add_(step, alpha=share - _dot(change, result) / agreement)
        return result


def _dot(one: Tensor, other: Tensor) -> float:
    return torch.dot(one.flatten(), other.flatten()).item()


@dataclass(frozen=True)
class Anchor:
    """Where a network falls on the curve of the pixels themselves."""

    curve: Sequence[float]  # mean totals, iteration by iteration; the untouched photographs' first
    total: float  # the network's, on the same photographs
    photographs: Sequence[tuple[str, int]] = ()  # their names and short sides, where they are known

    @property
    def longest(self) -> int:
        """How many iterations the curve has."""
        return len(self.curve) - 1

    @property
    def is_beyond(self) -> bool:
        """Whether the network is better than the curve ever gets: ``iterations`` is but a bound."""
        return self.total < self.curve[-1]

    @property
    def is_better(self) -> bool:
        """Whether the network is better than doing nothing; a total that is no number never is."""
        return self.total < self.curve[0]

    @property
    def iterations(self) -> float:
        """After how many iterations the curve reaches the network's total, interpolated.

        Zero when the network is no better than the photographs, or its total is no number; never
        more than ``longest``.
        """
        if not self.is_better:
            return 0.0
        for iteration, (before, after) in enumerate(pairwise(self.curve)):
            if self.total >= after:
                return iteration + (before - self.total) / (before - after)
        return float(self.longest)

    @property
    def metrics(self) -> dict[str, float]:
        """The same for metrics.json; its iterations are the longest where more would be needed."""
        return {
            "gatys_iterations": round(self.iterations, 2),
            "gatys_longest": self.longest,
            "gatys_total": round(self.total, 6),
        }

    def __str__(self) -> str:
        if self.is_beyond:
            return f"more than {_counted(self.longest)}"
        if self.is_better and self.iterations < 0.5:
            return f"less than {_counted(1)}"
        return _counted(round(self.iterations))


def _counted(iterations: int) -> str:
    return f"{iterations} iteration{'' if iterations == 1 else 's'}"
