"""Any picture in, the same size out."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from fnst.engine import Engine
from fnst.network import InstanceNorm, Region, TransformerNetwork
from fnst.stylize import beyond, region, stylize


@pytest.fixture
def network():
    return TransformerNetwork(width=4, blocks=1).eval()


@pytest.mark.parametrize(
    ("h", "w"), [(1, 1), (1, 40), (5, 3), (15, 16), (17, 23), (18, 33), (64, 48)]
)
def test_every_size_is_kept(network, h, w):
    stylized = stylize(network, torch.rand(2, 3, h, w))
    assert stylized.shape == (2, 3, h, w)
    assert stylized.isfinite().all()
    assert stylized.min() >= 0
    assert stylized.max() <= 1


class PlainNorm(nn.Module):
    """An instance norm of a picture's own statistics, which lies in one reflected by 32 pixels."""

    def __init__(self, norm, h, w):
        super().__init__()
        self.norm, self.h, self.w = norm, h, w

    def forward(self, maps):
        scale = -(-(self.h + 64) // 4) * 4 // maps.shape[2]
        first, h, w = 32 // scale, math.ceil(self.h / scale), math.ceil(self.w / scale)
        own = maps[..., first : first + h, first : first + w].flatten(2)
        mean, variance = own.mean(2)[..., None, None], own.var(2, correction=0)[..., None, None]
        normal = (maps - mean) / torch.sqrt(variance + 1e-5)
        return normal * self.norm.weight.view(-1, 1, 1) + self.norm.bias.view(-1, 1, 1)


@pytest.mark.parametrize(("h", "w"), [(36, 64), (38, 43), (95, 40)])
def test_a_picture_is_painted_as_the_middle_of_its_own_reflections(network, h, w):
    image = torch.rand(1, 3, h, w)
    below, right = -h % 4, -w % 4
    reflected = F.pad(image, (32, 32 + right, 32, 32 + below), mode="reflect")
    plain = copy.deepcopy(network)
    for parent in (plain.layers, plain.layers[9].layers):
        for index, layer in enumerate(parent):
            if isinstance(layer, InstanceNorm):
                parent[index] = PlainNorm(layer, h, w)
    with torch.no_grad():
        drawn = plain(reflected)[..., 32 : 32 + h, 32 : 32 + w]
    assert_close(stylize(network, image), drawn, atol=1e-5, rtol=0)


def test_what_lies_beyond_its_edges_changes_no_statistics_of_a_picture(network, monkeypatch):
    """Its middle comes out the same however far it is reflected."""
    image = torch.rand(1, 3, 160, 160)
    usual = stylize(network, image)[..., 64:96, 64:96]
    monkeypatch.setattr("fnst.stylize.MARGIN", 48)
    assert_close(stylize(network, image)[..., 64:96, 64:96], usual, atol=2 / 255, rtol=0)
    monkeypatch.setattr("fnst.stylize.region", lambda h, w: None)
    assert (stylize(network, image)[..., 64:96, 64:96] - usual).abs().max() > 2 / 255


def test_a_picture_that_is_smaller_than_what_is_reflected_counts_with_its_reflections():
    assert region(31, 500) == Region(0, 96, 564, 96)
    assert region(32, 33) == Region(32, 32, 33, 96)
    assert Region(32, 33, 35, 100).box(4) == (8, 9, 9)


@pytest.mark.parametrize(
    ("side", "start"), [(1, [0, 0, 0, 0]), (2, [0, 1, 0, 1]), (3, [0, 1, 2, 1])]
)
def test_a_short_side_is_reflected_to_and_fro(side, start):
    places = beyond(side)
    assert len(places) % 4 == 0
    assert len(places) >= side + 64
    assert places[32 : 32 + side].tolist() == list(range(side))
    assert places[32:36].tolist() == start


def test_borders_are_painted_as_if_the_picture_went_on(network):
    image = torch.rand(1, 3, 96, 96)
    larger = F.pad(image, (64, 64, 64, 64), mode="reflect")
    with torch.no_grad():
        bare = network(image)
    whole = stylize(network, larger)[..., 64:-64, 64:-64]
    edge = torch.ones(96, 96, dtype=torch.bool)
    edge[16:-16, 16:-16] = False
    ours, without = (
        (painted - whole).abs().mean((0, 1))[edge].mean()
        for painted in (stylize(network, image), bare)
    )
    assert ours < 0.5 * without


def test_the_picture_is_left_as_it_was_and_no_graph_is_kept(network):
    image = torch.rand(1, 3, 17, 17)
    before = image.clone()
    assert not stylize(network, image).requires_grad
    assert torch.equal(image, before)


def test_on_a_gpu_what_paints_rounds_no_float32(network, rounding):
    Engine(network)
    assert not rounding()
