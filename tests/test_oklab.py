"""Colours as people see them: known colours, a way there and back, and what no screen shows."""

import pytest
import torch
from torch.testing import assert_close

from fnst.oklab import to_oklab, to_srgb


def colour(*values):
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("srgb", "lab"),  # of Ottosson's post and of CSS Color 4's sample conversions
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 1, 1), (1, 0, 0)),
        ((1, 0, 0), (0.6280, 0.2249, 0.1258)),
        ((0, 1, 0), (0.8664, -0.2339, 0.1795)),
        ((0, 0, 1), (0.4520, -0.0325, -0.3115)),
    ],
)
def test_known_colours(srgb, lab):
    assert_close(to_oklab(colour(*srgb)), colour(*lab), atol=1e-4, rtol=0)


def test_all_colours_come_back():
    levels = torch.linspace(0, 1, 18)
    every = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).flatten(2)[None]
    assert_close(to_srgb(to_oklab(every)), every, atol=1e-4, rtol=0)


def test_what_no_screen_shows_gets_paler_and_keeps_lightness_and_hue():
    dark_yellow = torch.cat((colour(0.3, 0, 0)[:, :1], to_oklab(colour(1, 1, 0))[:, 1:]), 1)
    shown = to_srgb(dark_yellow)
    assert shown.min() >= 0
    assert shown.max() <= 1
    lightness, *axes = to_oklab(shown).flatten().tolist()
    assert lightness == pytest.approx(0.3, abs=2e-3)
    wanted = dark_yellow.flatten()[1:]
    cosine = torch.cosine_similarity(torch.tensor(axes), wanted, dim=0)
    assert cosine > 0.999
    assert 0.2 < torch.tensor(axes).norm() / wanted.norm() < 0.6


def test_paling_takes_no_more_than_it_must():
    shown = to_srgb(torch.cat((colour(0.5, 0, 0)[:, :1], to_oklab(colour(1, 0, 0))[:, 1:]), 1))
    assert min(shown.min(), 1 - shown.max()) < 0.02  # it lies on the edge of what can be shown


def test_only_what_lies_outside_is_changed():
    inside = colour(0.2, 0.5, 0.7)
    both = torch.cat((to_oklab(inside), 3 * to_oklab(inside)), 3)
    assert_close(to_srgb(both)[..., :1], inside, atol=1e-4, rtol=0)


def test_lightness_beyond_black_and_white_is_black_and_white():
    lab = torch.cat((colour(-0.1, 0.1, 0), colour(1.1, 0.1, 0.1)), 3)
    assert_close(to_srgb(lab), torch.cat((colour(0, 0, 0), colour(1, 1, 1)), 3), atol=2e-3, rtol=0)
