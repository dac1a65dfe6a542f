"""params.yaml's values arrive in the network that a training begins with."""

import dataclasses

import pytest
import torch

from fnst import build, checkpoint, params
from fnst.errors import ParamsError

SHAPE = params.Network(width=4, blocks=1, downsampling="max_pool", upsampling="transposed")


def weights_of(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_the_network_has_the_shape_that_params_give():
    assert build.network(SHAPE, seed=0).architecture == {
        "width": 4,
        "blocks": 1,
        "downsampling": "max_pool",
        "upsampling": "transposed",
    }


def test_its_weights_depend_on_the_seed_alone():
    one = weights_of(build.network(SHAPE, seed=3))
    torch.rand(7)
    assert torch.equal(weights_of(build.network(SHAPE, seed=3)), one)
    assert not torch.equal(weights_of(build.network(SHAPE, seed=4)), one)


def test_a_network_begins_with_the_weights_of_another(tmp_path):
    other = build.network(SHAPE, seed=9)
    checkpoint.save(tmp_path, other, style="any", training={})
    begun = build.network(SHAPE, seed=0, start=tmp_path)
    assert torch.equal(weights_of(begun), weights_of(other))
    assert all(weights.requires_grad for weights in begun.parameters())


def test_a_network_of_another_shape_is_nothing_to_begin_with(tmp_path):
    checkpoint.save(tmp_path, build.network(SHAPE, seed=0), style="any", training={})
    wider = dataclasses.replace(SHAPE, width=8)
    with pytest.raises(ParamsError, match=r"begin with is .*'width': 4.* wants .*'width': 8"):
        build.network(wider, seed=0, start=tmp_path)


def test_the_base_fits_the_recipe_that_begins_with_it():
    recipe = params.load().recipes["laptop"]
    assert recipe.train.init == "base"
    begun = build.network(recipe.network, seed=0, start=checkpoint.BASE)
    assert weights_of(begun).isfinite().all()


def test_building_leaves_everybody_elses_random_numbers_alone():
    torch.manual_seed(5)
    known = torch.rand(3)
    torch.manual_seed(5)
    build.network(SHAPE, seed=0)
    assert torch.equal(torch.rand(3), known)
