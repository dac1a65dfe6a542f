"""Motion that is known is found again, and brings things to where they are."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from fnst import flow


@pytest.fixture
def scene():
    """Smooth patches, in which every place can be told from its neighbours."""
    torch.manual_seed(0)
    rough = F.interpolate(torch.rand(1, 1, 24, 32), (96, 128), mode="bicubic")
    return (rough - rough.min()) / (rough.max() - rough.min())


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (0, -2), (-5, 4)])
def test_a_shift_is_found(scene, x, y):
    after = torch.roll(scene, (y, x), (2, 3))
    inner = flow.motion(scene, after)[..., 16:-16, 16:-16]
    expected = torch.tensor([-x, -y], dtype=torch.float32).view(1, 2, 1, 1).expand_as(inner)
    assert (inner - expected).abs().median() < 0.1


def test_nothing_moves_where_there_is_nothing_to_see():
    flat = torch.full((1, 1, 64, 64), 0.5)
    assert_close(flow.motion(flat, flat), torch.zeros(1, 2, 64, 64))


def test_what_is_carried_along_arrives(scene):
    along = torch.zeros(1, 2, 96, 128)
    along[:, 0] = -3
    assert_close(flow.carry(scene, along)[..., 3:], scene[..., :-3], atol=1e-5, rtol=0)


def test_places_beyond_the_frame_are_told():
    along = torch.zeros(1, 2, 8, 8)
    along[:, 0] = -2
    inside = flow.inside(along)[0, 0]
    assert inside[:, :2].sum() == 0
    assert inside[:, 2:].all()


def test_motion_counts_the_pixels_of_its_own_size():
    along = torch.ones(1, 2, 10, 20)
    wide = flow.resize(along, 20, 60)
    assert_close(wide[:, 0], torch.full((1, 20, 60), 3.0))
    assert_close(wide[:, 1], torch.full((1, 20, 60), 2.0))


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_window_is_the_mean_around_each_place(size):
    maps = torch.rand(1, 2, 12, 15)
    padded = F.pad(maps, [size // 2] * 4, mode="replicate")
    assert_close(flow.window(maps, size), F.avg_pool2d(padded, size, 1))
