"""However little memory there is, the picture is the same; below the least it is refused."""

import pytest
import torch

from fnst import strips
from fnst.errors import ImageError
from fnst.network import TransformerNetwork
from fnst.rows import ScratchFile, Store
from fnst.stylize import stylize

HUNDREDTH = 0.01 / 255  # of a grey level
LEVEL = 1 / 255


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TransformerNetwork(width=4, blocks=1).eval()


@pytest.fixture
def image():
    return torch.rand(1, 3, 90, 150)


def needs(network, image):
    return [way.needs for way in strips._ways(network, image)]


def apart(one, other):
    return (one - other).abs().max().item()


def test_every_way_paints_the_same_picture(network, image):
    whole = stylize(network, image)
    for way in strips._ways(network, image):
        assert apart(way.take(None), whole) < LEVEL


def test_the_least_memory_is_as_exact_as_any(network, image):
    least = min(needs(network, image))
    assert apart(strips.stylize(network, image, max_memory=least), stylize(network, image)) < LEVEL


def test_ways_are_tried_from_the_fastest_and_need_less_and_less_of_what_waits(network, image):
    found = needs(network, image)
    assert found[-1] == min(found)
    assert found[0] > found[-1]


def test_below_the_least_it_is_said_how_much_that_is(network, image):
    with pytest.raises(ImageError, match=r"a picture of 150x90 takes at least .* and 1 kB may be"):
        strips.stylize(network, image, max_memory=1000)


def test_wide_and_tall_pictures_are_painted_alike_in_strips(network, image):
    last = [*strips._ways(network, image)][-1]
    assert apart(last.take(None), stylize(network, image)) < HUNDREDTH


def test_eight_bits_stay_eight_bits(network, image):
    bytes_ = (image * 255).round().to(torch.uint8)
    painted = strips.stylize(network, bytes_, max_memory=min(needs(network, bytes_)))
    assert painted.dtype == torch.uint8
    assert (painted.int() - stylize(network, bytes_).int()).abs().max() <= 1


@pytest.mark.parametrize("kind", [Store, ScratchFile])
def test_what_waits_comes_back_as_it_was(kind, tmp_path):
    store = kind(3, 5, torch.float32) if kind is Store else kind(3, 5, tmp_path)
    row, again = torch.rand(5), torch.empty(5)
    with store:
        store.write(2, row)
        store.write(0, torch.zeros(4))
        store.read(2, again)
    assert torch.equal(row, again)
    assert list(tmp_path.iterdir()) == []
