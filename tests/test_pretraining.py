"""A network that visits paintings in turn ends near all of them."""

import pytest
import torch
from torch.testing import assert_close

from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.pretraining import reptile
from fnst.training import Learner, adam, train


def photos():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.rand(1, 3, 16, 16, generator=generator)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TransformerNetwork(width=2, blocks=1)


@pytest.fixture
def paintings(extract):
    shades = (0.1, 0.5, 0.9)
    return [
        PerceptualLoss(
            extract,
            torch.full((1, 3, 16, 16), shade) + 0.05 * torch.rand(1, 3, 16, 16),
            content_layer="deep",
            style_layers={"shallow": 1.0},
            weights=Weights(),
        )
        for shade in shades
    ]


def visits(network, paintings, **options):
    settings = {"rounds": 6, "steps": 3, "first_share": 0.5, "last_share": 0.5}
    return reptile(
        network, paintings, photos(), schedule=lambda step: 0.001, **(settings | options)
    )


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_every_painting_is_visited_before_any_is_again(network, paintings):
    visited = [painting for _, painting, _ in visits(network, paintings)]
    assert sorted(visited[:3]) == sorted(visited[3:]) == [0, 1, 2]


def test_a_visit_moves_the_network_a_share_of_the_way_that_training_goes(network, paintings):
    trained = TransformerNetwork(**network.architecture)
    trained.load_state_dict(network.state_dict())
    before = weights_of(network)
    learner = Learner(trained, paintings[1], adam(trained, 0.001))
    for _ in train(learner, photos(), steps=3, schedule=lambda step: 0.001):
        pass
    list(visits(network, paintings[1:2], rounds=1, first_share=0.25))
    assert_close(weights_of(network), torch.lerp(before, weights_of(trained), 0.25))


def test_shares_fall_from_the_first_to_the_last(network, paintings):
    before = weights_of(network)
    list(visits(network, paintings[:1], rounds=2, first_share=1.0, last_share=0.0))
    after = weights_of(network)
    assert not torch.equal(after, before)
    torch.manual_seed(0)
    again = TransformerNetwork(**network.architecture)
    list(visits(again, paintings[:1], rounds=1, first_share=1.0, last_share=0.0))
    assert_close(after, weights_of(again))  # the second visit left no trace


def test_losses_are_told_of_every_visit(network, paintings):
    told = [losses.total for _, _, losses in visits(network, paintings)]
    assert len(told) == 6
    assert all(total > 0 for total in told)
