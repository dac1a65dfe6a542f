"""Any picture in, the same size out."""

import pytest
import torch
from torch.testing import assert_close

from fnst.errors import DeviceError
from fnst.network import TransformerNetwork
from fnst.stylize import device, stylize


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


@pytest.mark.parametrize(("h", "w"), [(16, 16), (20, 64)])
def test_multiples_of_four_are_what_the_network_itself_draws(network, h, w):
    image = torch.rand(1, 3, h, w)
    with torch.no_grad():
        assert_close(stylize(network, image), network(image))


def test_other_sizes_are_extended_by_their_edge_below_and_at_the_right(network):
    image = torch.rand(1, 3, 18, 21)
    extended = torch.cat([image, *[image[:, :, -1:]] * 2], 2)
    extended = torch.cat([extended, *[extended[..., -1:]] * 3], 3)
    with torch.no_grad():
        assert_close(stylize(network, image), network(extended)[..., :18, :21])


def test_the_picture_is_left_as_it_was_and_no_graph_is_kept(network):
    image = torch.rand(1, 3, 17, 17)
    before = image.clone()
    assert not stylize(network, image).requires_grad
    assert torch.equal(image, before)


def test_the_best_device_is_one_that_is_here():
    torch.zeros(1, device=device())
    torch.zeros(1, device=device("auto"))


def test_the_processor_is_always_here():
    assert device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(DeviceError, match=f"there is no {name} in this machine; use --device cpu"):
        device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:-2"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(DeviceError, match="expected a device such as cpu, cuda or mps, got"):
        device(name)
