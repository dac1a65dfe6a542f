"""What was painted stays where the photographs are the same, and only there."""

import pytest
import torch
from torch.nn import functional as F

from fnst.steady import Shown, steadied, trust

LEVEL = 1 / 255


@pytest.fixture
def photo():
    torch.manual_seed(0)
    rough = F.interpolate(torch.rand(1, 3, 16, 24), (96, 144), mode="bicubic").clamp(0, 1)
    return rough.mul(255).round().to(torch.uint8)


def painted(seed, like):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, like.shape, generator=generator, dtype=torch.uint8)


def apart(one, other):
    return (one.float() - other.float()).abs().mean().item()


def test_a_scene_that_stands_still_hardly_flickers(photo):
    first, second = painted(1, photo), painted(2, photo)
    shown = steadied(Shown(photo, first), photo, second)
    assert shown.dtype == torch.uint8
    assert apart(shown, first) < 0.2 * apart(second, first)


def test_after_a_cut_the_frame_is_shown_as_it_was_painted(photo):
    other = 255 - photo.flip(3)
    new = painted(2, photo)
    assert torch.equal(steadied(Shown(photo, painted(1, photo)), other, new), new)


def test_strokes_go_with_what_they_lie_on(photo):
    first, second = painted(1, photo), painted(2, photo)
    moved = torch.roll(photo, 4, 3)
    shown = steadied(Shown(photo, first), moved, second)[..., 16:-16]
    assert apart(shown, torch.roll(first, 4, 3)[..., 16:-16]) < 0.4 * apart(second, first)


def test_what_came_into_the_picture_is_new(photo):
    after = photo.clone()
    after[..., 30:60, 50:90] = 0
    new = painted(2, photo)
    shown = steadied(Shown(photo, painted(1, photo)), after, new)
    assert apart(shown[..., 36:54, 56:84], new[..., 36:54, 56:84]) < 1


def test_a_shade_that_is_cast_is_a_change(photo):
    bright = photo.float() / 255
    still = torch.zeros(1, 2, *photo.shape[2:])
    assert trust(bright, bright, still).mean() > 0.99
    assert trust(bright, 0.8 * bright, still).mean() < 0.1
