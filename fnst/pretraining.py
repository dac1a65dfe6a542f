"""Learning to learn paintings: a network from which a new style is a few steps away.

Trained on one painting after the other, and moved each time only part of the way there, a network
ends where all of them are near, and so are others that it never saw.

References:
    [N18] Nichol, Achiam, Schulman. On First-Order Meta-Learning Algorithms. 2018.
          https://arxiv.org/abs/1803.02999
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from fnst.losses import PerceptualLoss
from fnst.training import Batch, Learner, Losses, Schedule, adam, train


def reptile(
    network: nn.Module,
    paintings: Sequence[PerceptualLoss],
    photos: Iterator[Batch],
    *,
    rounds: int,
    steps: int,
    schedule: Schedule,
    first_share: float,
    last_share: float,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Iterator[tuple[int, int, Losses | None]]:
    """Reptile ([N18], algorithm 1), with a fresh Adam for every visit to a painting.

    Args:
        network: what learns, in place.
        paintings: a loss for each; all are visited before any is again.
        photos: batches, of which every visit takes the next.
        rounds: visits in all.
        steps: of Adam in each visit.
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
    order = _endless(len(paintings), random.Random(seed))
    for number in range(1, rounds + 1):
        painting = next(order)
        before = [weights.detach().clone() for weights in network.parameters()]
        learner = Learner(network, paintings[painting], adam(network, schedule(1)), dtype)
        visit = train(learner, photos, steps=steps, schedule=schedule, report_every=steps)
        ((_, losses),) = deque(visit, maxlen=1)
        done = (number - 1) / max(1, rounds - 1)
        _part_of_the_way(network, before, first_share + done * (last_share - first_share))
        yield number, painting, losses


@torch.no_grad()
def _part_of_the_way(network: nn.Module, before: Sequence[torch.Tensor], share: float) -> None:
    for weights, was in zip(network.parameters(), before, strict=True):
        weights.copy_(torch.lerp(was, weights, share))


def _endless(count: int, rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(range(count), count)
