"""A network that has learnt several paintings, at once or one after the other, is near all."""

import pytest
import torch
from torch.testing import assert_close

from fnst.losses import PerceptualLoss, Weights
from fnst.network import InstanceNorm, TransformerNetwork
from fnst.pretraining import learn_together, reptile
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
    shades = (0.0, 0.25, 0.5)
    return [
        PerceptualLoss(
            extract,
            torch.full((1, 3, 16, 16), shade) + 0.5 * torch.rand(1, 3, 16, 16),
            content_layer="deep",
            style_layers={"shallow": 1.0},
            weights=Weights(),
        )
        for shade in shades
    ]


def together(network, paintings, **options):
    settings = {"visits": 6, "steps": 2, "schedule": lambda step: 0.001}
    return learn_together(network, paintings, photos(), **(settings | options))


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def norms_of(network):
    found = [module for module in network.modules() if isinstance(module, InstanceNorm)]
    return torch.cat([weights.detach() for norm in found for weights in norm.parameters()])


def convolutions_of(network):
    found = [module for module in network.modules() if not isinstance(module, InstanceNorm)]
    return torch.cat(
        [p.detach().flatten() for each in found for p in each.parameters(recurse=False)]
    )


def again():
    torch.manual_seed(0)
    return TransformerNetwork(width=2, blocks=1)


def test_every_painting_is_visited_before_any_is_again(network, paintings):
    order = [painting for _, painting, _ in together(network, paintings)]
    assert sorted(order[:3]) == sorted(order[3:]) == [0, 1, 2]
    assert order == [painting for _, painting, _ in together(network, paintings)]


def test_one_painting_alone_is_learnt_as_by_training(network, paintings):
    def schedule(step):
        return 0.001 / step

    trained = again()
    learner = Learner(trained, paintings[1], adam(trained, 0.001))
    for _ in train(learner, photos(), steps=6, schedule=schedule):
        pass
    list(together(network, paintings[1:2], visits=3, schedule=schedule))
    assert_close(weights_of(network), weights_of(trained))


def test_each_painting_has_norms_of_its_own_and_their_mean_is_kept(network, paintings):
    before = norms_of(network)
    ((_, painting, _),) = together(network, paintings, visits=1)
    alone = again()
    list(together(alone, paintings[painting : painting + 1], visits=1))
    assert not torch.equal(norms_of(network), before)
    assert_close(norms_of(network) - before, (norms_of(alone) - before) / 3)


def test_all_paintings_teach_the_same_convolutions(network, paintings):
    ((_, painting, _),) = together(network, paintings, visits=1)
    alone, two = again(), again()
    list(together(alone, paintings[painting : painting + 1], visits=1))
    assert torch.equal(convolutions_of(network), convolutions_of(alone))
    list(together(two, paintings, visits=2))
    assert not torch.equal(convolutions_of(two), convolutions_of(network))


def test_losses_are_told_of_every_visit_and_fall(network, paintings):
    totals = [losses.total for *_, losses in together(network, paintings[1:], visits=40)]
    assert len(totals) == 40
    assert sum(totals[-4:]) < 0.8 * sum(totals[:4])


# --- one after the other --------------------------------------------------------------------------


def one_by_one(network, paintings, **options):
    settings = {"visits": 6, "steps": 3, "first_share": 0.5, "last_share": 0.5}
    return reptile(
        network, paintings, photos(), schedule=lambda step: 0.001, **(settings | options)
    )


def test_one_by_one_every_painting_is_visited_before_any_is_again(network, paintings):
    visited = [painting for _, painting, _ in one_by_one(network, paintings)]
    assert sorted(visited[:3]) == sorted(visited[3:]) == [0, 1, 2]


def test_a_visit_moves_the_network_a_share_of_the_way_that_training_goes(network, paintings):
    trained = TransformerNetwork(**network.architecture)
    trained.load_state_dict(network.state_dict())
    before = weights_of(network)
    learner = Learner(trained, paintings[1], adam(trained, 0.001))
    for _ in train(learner, photos(), steps=3, schedule=lambda step: 0.001):
        pass
    list(one_by_one(network, paintings[1:2], visits=1, first_share=0.25))
    assert_close(weights_of(network), torch.lerp(before, weights_of(trained), 0.25))


def test_shares_fall_from_the_first_to_the_last(network, paintings):
    before = weights_of(network)
    list(one_by_one(network, paintings[:1], visits=2, first_share=1.0, last_share=0.0))
    after = weights_of(network)
    assert not torch.equal(after, before)
    once = again()
    list(one_by_one(once, paintings[:1], visits=1, first_share=1.0, last_share=0.0))
    assert_close(after, weights_of(once))  # the second visit left no trace


def test_losses_are_told_of_every_visit_to_one(network, paintings):
    told = [losses.total for _, _, losses in one_by_one(network, paintings)]
    assert len(told) == 6
    assert all(total > 0 for total in told)
