"""Learning what paintings have in common: a network from which a new style is a few steps away.

Two ways. Either several paintings are learnt at once: they share the convolutions, and each has
scales and shifts of its own in the norms, which are enough to tell styles apart ([D17]); the
network keeps their mean. Or it is trained on one painting after the other, and moved each time only
part of the way there: it ends where all of them are near, and so are others that it never saw
([N18]). docs/recipe.md compares them.

References:
    [D17] Dumoulin, Shlens, Kudlur. A Learned Representation for Artistic Style. ICLR 2017.
          https://arxiv.org/abs/1610.07629; sections 2.2 and 3.3
    [N18] Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. 2018.
          https://arxiv.org/abs/1803.02999
"""

import copy
import random
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from torch import nn

from fnst.losses import PerceptualLoss
from fnst.network import InstanceNorm
from fnst.training import Batch, Learner, Losses, Schedule, adam, train

# The visit's number from 1, that of its painting, and the losses over its steps.
Visits = Iterator[tuple[int, int, Losses | None]]


def learn_together(
    network: nn.Module,
    paintings: Sequence[PerceptualLoss],
    photos: Iterator[Batch],
    *,
    visits: int,
    steps: int,
    schedule: Schedule,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Visits:
    """Learn several paintings by turns, each with an Adam of its own.

    Args:
        network: what learns, in place; its norms become the mean over the paintings' at the end.
        paintings: a loss for each; all are visited before any is again.
        photos: batches, of which every step takes the next.
        visits: to paintings, in all.
        steps: updates in each visit.
        schedule: learning rate of each of the ``visits * steps`` updates.
        dtype: of convolutions.
        seed: of the order of paintings.

    Yields:
        The visit's number from 1, that of its painting, and the losses over its steps.

    Raises:
        DivergedError: when a visit's losses are no numbers, or many times those of its first step.
    """
    own = [_with_its_own_norms(network) for _ in paintings]
    learners = [
        Learner(each, painting, adam(each, schedule(1)), dtype)
        for each, painting in zip(own, paintings, strict=True)
    ]
    for visit, turn in enumerate(islice(_endless(len(paintings), seed), visits), start=1):
        later = partial(_later, schedule, (visit - 1) * steps)
        yield visit, turn, _visit(learners[turn], photos, steps, later)
    _take_mean_norms(network, own)


def reptile(
    network: nn.Module,
    paintings: Sequence[PerceptualLoss],
    photos: Iterator[Batch],
    *,
    visits: int,
    steps: int,
    schedule: Schedule,
    first_share: float,
    last_share: float,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Visits:
    """Reptile ([N18], algorithm 1), with a fresh Adam for every visit to a painting.

    Args:
        network: what learns, in place.
        paintings: a loss for each; all are visited before any is again.
        photos: batches, of which every visit takes the next.
        visits: to paintings, in all.
        steps: updates in each visit.
        schedule: learning rate of these steps.
        first_share: how far the network goes towards what a visit made of it, at first.
        last_share: the same at the end; linear in between.
        dtype: of convolutions.
        seed: of the order of paintings.

    Yields:
        The visit's number from 1, that of its painting, and the losses over its steps.

    Raises:
        DivergedError: when a visit's losses are no numbers, or many times those of its first step.
    """
    for visit, turn in enumerate(islice(_endless(len(paintings), seed), visits), start=1):
        before = [weights.detach().clone() for weights in network.parameters()]
        learner = Learner(network, paintings[turn], adam(network, schedule(1)), dtype)
        losses = _visit(learner, photos, steps, schedule)
        done = (visit - 1) / max(1, visits - 1)
        _part_of_the_way(network, before, first_share + done * (last_share - first_share))
        yield visit, turn, losses


def _visit(
    learner: Learner, photos: Iterator[Batch], steps: int, schedule: Schedule
) -> Losses | None:
    """Make these steps; the losses over all of them."""
    learning = train(learner, photos, steps=steps, schedule=schedule, report_every=steps)
    ((_, losses),) = deque(learning, maxlen=1)
    return losses


def _later(schedule: Schedule, made: int, step: int) -> float:
    return schedule(made + step)


def _norms(network: nn.Module) -> list[InstanceNorm]:
    return [module for module in network.modules() if isinstance(module, InstanceNorm)]


def _with_its_own_norms(network: nn.Module) -> nn.Module:
    """A copy in which all but the norms is the same parameter as in the other copies."""
    own = {id(weights) for norm in _norms(network) for weights in norm.parameters()}
    shared = {id(weights): weights for weights in network.parameters() if id(weights) not in own}
    return copy.deepcopy(network, shared)


@torch.no_grad()
def _take_mean_norms(network: nn.Module, own: Sequence[nn.Module]) -> None:
    for norm, *theirs in zip(_norms(network), *map(_norms, own), strict=True):
        for weights, *others in zip(
            norm.parameters(), *(each.parameters() for each in theirs), strict=True
        ):
            weights.copy_(torch.stack(others).mean(0))


@torch.no_grad()
def _part_of_the_way(network: nn.Module, before: Sequence[torch.Tensor], share: float) -> None:
    for weights, was in zip(network.parameters(), before, strict=True):
        weights.copy_(torch.lerp(was, weights, share))


def _endless(count: int, seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield from rng.sample(range(count), count)
