"""Artefacts of known size are found at that size; what nobody sees is not found."""

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from fnst import quality
from fnst.quality import Texture


def noise(size=128, deviation=0.05):
    """A grey picture with the same power at every frequency."""
    return (0.5 + deviation * torch.randn(1, 1, size, size)).expand(1, 3, -1, -1)


def stripes(period, amplitude, size=128):
    """Upright stripes: a cosine along rows."""
    row = amplitude * torch.cos(2 * torch.pi * torch.arange(size) / period)
    return row.expand(1, 3, size, size)


def flat(value, size=64):
    return torch.full((1, 3, size, size), value)


# --- grid -----------------------------------------------------------------------------------------


def test_noise_has_no_grid():
    assert quality.grid(noise()) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_one_colour_has_no_grid(value):
    assert quality.grid(flat(value)) == pytest.approx(1)


@pytest.mark.parametrize("size", [128, 256])
def test_stripes_of_period_4_stick_out_as_far_as_they_must(size):
    # Under a Hann window a cosine of amplitude a has the power (a w / 4)^2 in its bin, and noise
    # of deviation s has 3 w s^2 / 8 in every one.
    amplitude, deviation = 0.06, 0.05
    expected = 1 + amplitude**2 * size / (6 * deviation**2)
    found = quality.grid(noise(size, deviation) + stripes(4, amplitude, size))
    assert found == pytest.approx(expected, rel=0.15)


def test_stripes_of_period_2_count_like_those_of_period_4_with_twice_the_power():
    # At the highest frequency both halves of the cosine meet in one bin: (a w / 2)^2.
    amplitude, deviation = 0.05, 0.05
    expected = 1 + 4 * amplitude**2 * 128 / (6 * deviation**2)
    found = quality.grid(noise(128, deviation) + stripes(2, amplitude))
    assert found == pytest.approx(expected, rel=0.15)


def test_stripes_across_are_found_like_upright_ones():
    image = noise() + stripes(4, 0.1)
    assert quality.grid(image.transpose(2, 3)) == pytest.approx(quality.grid(image))


def test_a_checkerboard_is_found_although_its_rows_change_sign():
    board = torch.ones(128, 128)
    board[::2, ::2] = board[1::2, 1::2] = -1
    assert quality.grid(noise() + 0.05 * board) > 20


@pytest.mark.parametrize("period", [3, 5, 8, 16])
def test_stripes_of_other_periods_are_no_grid(period):
    assert quality.grid(noise() + stripes(period, 0.1)) == pytest.approx(1, abs=0.35)


def test_a_grid_below_what_eight_bits_can_show_does_not_count():
    assert quality.grid(flat(0.5) + stripes(4, 1e-5, 64)) == pytest.approx(1, abs=0.01)


def test_a_grid_moved_by_some_pixels_is_the_same_grid():
    image = noise() + stripes(4, 0.1)
    moved = noise() + stripes(4, 0.1).roll(1, 3)
    assert quality.grid(moved) == pytest.approx(quality.grid(image), rel=0.2)


def test_sides_that_are_no_multiple_of_4_have_their_bins_too():
    image = (noise() + stripes(4, 0.1))[..., :126, :127]
    assert quality.grid(image) > 8


def test_a_photograph_has_no_grid_until_every_fourth_column_is_brighter(astronaut):
    own = quality.grid(astronaut)
    assert own < 1.6
    astronaut = astronaut.clone()
    astronaut[..., ::4] *= 1.1
    assert quality.grid(astronaut) > 3 * own


# --- border ---------------------------------------------------------------------------------------


def test_a_painter_that_looks_at_single_pixels_has_no_border():
    photo = torch.rand(1, 3, 64, 80)
    assert quality.border(torch.square, photo, photo.square()) == pytest.approx(1)


def test_reflection_padding_shows_no_border_and_zeros_do():
    photo = torch.rand(1, 3, 64, 80)

    def painter(mode):
        blur = nn.Conv2d(3, 3, 9, padding=4, padding_mode=mode).requires_grad_(False)
        return quality.border(blur, photo, blur(photo))

    assert painter("reflect") == pytest.approx(1, abs=0.01)
    assert painter("zeros") > 100


def test_an_error_of_twice_the_interiors_in_the_outer_pixels_is_a_ratio_of_two():
    photo = flat(0.5)
    frame = flat(0.2)
    frame[..., 16:-16, 16:-16] = 0.1
    assert quality.border(lambda wide: wide, photo, photo + frame) == pytest.approx(2, rel=1e-3)


# --- clipped and flat -----------------------------------------------------------------------------


def test_clipped_is_where_every_channel_is_at_an_end():
    image = flat(0.5)
    image[..., :16] = 1.0  # a quarter is white
    image[:, 0, :, 16:32] = 0.0  # a quarter has no red, and green and blue still tell something
    assert quality.clipped(image) == 0.25


def test_what_rounds_to_an_end_is_at_the_end():
    assert quality.clipped(flat(0.4 / 255)) == 1
    assert quality.clipped(flat(0.6 / 255)) == 0


def test_flat_is_where_nothing_happens_in_a_square():
    image = torch.rand(1, 3, 64, 64)
    image[..., :32, :] = 0.5
    assert quality.flat(image) == 0.5
    image[:, 2, :32, :] += torch.linspace(0, 0.5, 64)  # a slope in one channel is something
    assert quality.flat(image) == 0


# --- structure ------------------------------------------------------------------------------------


def test_ssim_is_that_of_scikit_image(astronaut):
    other = (astronaut.sqrt() + 0.05 * torch.randn_like(astronaut)).clamp(0, 1)
    expected = structural_similarity(
        quality.luma(astronaut)[0, 0].numpy(),
        quality.luma(other)[0, 0].numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
    )
    assert quality.ssim(other, astronaut) == pytest.approx(float(expected), abs=1e-4)


def test_ssim_of_the_same_picture_is_one_and_of_its_negative_below_zero(astronaut):
    assert quality.ssim(astronaut, astronaut) == pytest.approx(1)
    assert quality.ssim(1 - astronaut, astronaut) < 0


def test_the_perceptual_distance_knows_directions_of_features_and_not_their_length():
    right = dict.fromkeys(quality.PERCEPTUAL, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    up = dict.fromkeys(quality.PERCEPTUAL, torch.tensor([0.0, 3.0]).view(1, 2, 1, 1))
    further = {layer: 5 * maps for layer, maps in right.items()}
    assert quality.perceptual(right, further) == 0
    assert quality.perceptual(right, up) == pytest.approx(2)


def test_a_moved_picture_is_perceptually_nearer_than_another(small_vgg, astronaut):
    from fnst.features import VGG

    extract = VGG(*small_vgg)
    here, moved, other = (
        extract(image, quality.PERCEPTUAL)
        for image in (astronaut, astronaut.roll(1, 3), astronaut.flip(2))
    )
    assert 0 < quality.perceptual(moved, here) < quality.perceptual(other, here)


# --- texture --------------------------------------------------------------------------------------


def test_the_same_features_elsewhere_are_the_same_texture():
    maps = torch.rand(1, 5, 20, 20)
    shuffled = maps.flatten(2)[..., torch.randperm(400)].view_as(maps)
    same = quality.texture_distance(Texture.of(shuffled), Texture.of(maps))
    assert same == pytest.approx(0, abs=1e-6)


def test_textures_of_independent_channels_differ_by_means_and_deviations():
    def texture(means, deviations):
        return Texture(torch.tensor(means).double(), torch.tensor(deviations).double().diag() ** 2)

    target = texture([1.0, 2.0], [3.0, 1.0])
    other = texture([0.0, 2.0], [1.0, 4.0])
    # (1 - 0)^2 + (3 - 1)^2 + (1 - 4)^2, of 1 + 4 + 9 + 1
    assert quality.texture_distance(other, target) == pytest.approx(14 / 15)
    assert quality.texture_distance(target, target) == pytest.approx(0, abs=1e-12)


def test_nothing_is_as_far_from_a_texture_as_that_has_energy():
    target = Texture.of(torch.rand(1, 4, 9, 9))
    black = Texture.of(torch.zeros(1, 4, 9, 9))
    assert quality.texture_distance(black, target) == pytest.approx(1)


def test_the_texture_distance_knows_no_unit():
    ours, theirs = torch.rand(1, 4, 9, 9), torch.rand(1, 4, 9, 9)
    plain = quality.texture_distance(Texture.of(ours), Texture.of(theirs))
    scaled = quality.texture_distance(Texture.of(7 * ours), Texture.of(7 * theirs))
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_the_texture_of_no_numbers_is_no_number():
    target = Texture.of(torch.rand(1, 3, 8, 8))
    for spoilt in (math.nan, math.inf):
        maps = torch.rand(1, 3, 8, 8)
        maps[0, 0, 0, 0] = spoilt
        assert math.isnan(quality.texture_distance(Texture.of(maps), target))
