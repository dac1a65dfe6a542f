"""A picture in strips is the picture: every network, size and strip height."""

import copy
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fnst.fused import Box
from fnst.network import TransformerNetwork
from fnst.passage import Passage, Statistics, room, stages
from fnst.rows import Store
from fnst.stylize import stylize

HUNDREDTH = 0.01 / 255  # of a grey level

KINDS = tuple(product(("stride", "max_pool"), ("bilinear", "folded", "transposed")))


def network(downsampling, upsampling, width=4, blocks=2):
    torch.manual_seed(blocks)
    made = TransformerNetwork(
        width=width, blocks=blocks, downsampling=downsampling, upsampling=upsampling
    )
    for weight in made.parameters():  # as if trained: norms have scales and shifts of their own
        if weight.ndim == 1:
            weight.data += torch.randn(len(weight)) / 4
    return made.eval()


NETWORKS = {kind: network(*kind) for kind in KINDS}


def in_strips(network, image, height, dtype=torch.float32, progress=None):
    count, size = room(stages(network), *image.shape[2:])
    stylized = torch.empty_like(image)
    with Store(count, size, dtype) as store:
        Passage(network, image, store, height, progress).write(stylized)
        assert len(store.free) == count  # no row is forgotten to be forgotten
    return stylized


def apart(one, other):
    return (one.double() - other.double()).abs().max().item()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    h=st.integers(8, 90),  # smaller ones vary so little that norms magnify rounding
    w=st.integers(8, 90),
    height=st.integers(1, 20).map(lambda n: 4 * n),
)
def test_strips_of_any_height_make_the_picture_that_the_whole_pass_makes(kind, h, w, height):
    image = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(h * 100 + w))
    # In float64, as the native kernel for small maps is itself a hundredth of a level off.
    whole = stylize(copy.deepcopy(NETWORKS[kind]).double(), image.double())
    assert apart(in_strips(NETWORKS[kind], image, height), whole) < HUNDREDTH


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "blocks"), [(1, 0), (3, 1), (16, 5)])
def test_networks_of_any_width_and_depth(kind, width, blocks):
    image = torch.rand(1, 3, 61, 47)
    made = network(*kind, width, blocks)
    assert apart(in_strips(made, image, 8), stylize(made, image)) < HUNDREDTH


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_photograph_larger_than_the_native_norm_is_exact_for(kind, astronaut):
    image = nn.functional.interpolate(astronaut, (522, 531), mode="bicubic").clamp(0, 1)
    whole = stylize(NETWORKS[kind], image)
    assert whole.std() > 0.01
    assert apart(in_strips(NETWORKS[kind], image, 32), whole) < HUNDREDTH


@pytest.mark.parametrize("kind", KINDS)
def test_eight_bit_pictures_come_out_in_eight_bits(kind):
    image = torch.randint(0, 256, (1, 70, 45, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    stylized = in_strips(NETWORKS[kind], image, 12)
    exact = stylize(NETWORKS[kind], image.float() / 255) * 255
    assert stylized.dtype == torch.uint8
    assert apart(stylized, exact) < 0.51
    assert stylized.stride() == image.stride()


def test_rows_in_half_precision_are_less_than_a_level_off():
    image = torch.rand(1, 3, 96, 80)
    made = network("stride", "folded", 16, 5)
    halves = in_strips(made, image, 16, torch.float16)
    assert HUNDREDTH < apart(halves, stylize(made, image)) < 1 / 255


def test_the_picture_is_left_as_it_was():
    image = torch.rand(1, 3, 33, 21)
    before = image.clone()
    in_strips(NETWORKS["stride", "folded"], image, 8)
    assert torch.equal(image, before)


def test_tiles_with_statistics_of_their_own_would_be_far_off():
    """What the statistics of the whole picture are for."""
    image = torch.cat((torch.rand(1, 3, 48, 64) * 0.2, torch.rand(1, 3, 48, 64)), 2)
    made = NETWORKS["stride", "folded"]
    tiles = torch.cat([stylize(made, tile) for tile in image.split(48, 2)], 2)
    assert apart(tiles, stylize(made, image)) > 10 / 255


def test_progress_goes_from_strip_to_strip_to_all():
    told = []
    image = torch.rand(1, 3, 50, 20)
    in_strips(NETWORKS["stride", "folded"], image, 16, progress=lambda *step: told.append(step))
    done, (total, *others) = [step[0] for step in told], {step[1] for step in told}
    assert done == sorted(set(done))
    assert (done[-1], others) == (total, [])
    assert len(done) > 30


@pytest.mark.parametrize("box", [Box(0, 40, 7), Box(2, 30, 3), Box(1, 39, 6)])
def test_merged_statistics_are_those_of_everything_in_the_box_together(box):
    maps = torch.randn(1, 5, 40, 7) * 3 + 100
    statistics = Statistics(5, torch.device("cpu"), box)
    for strip in maps.split((1, 20, 3, 16), 2):
        statistics.add(strip.contiguous(memory_format=torch.channels_last))
    mean, variance = statistics.moments()
    first, height, width = box
    exact = maps[..., first : first + height, first : first + width].double()
    torch.testing.assert_close(mean.double(), exact.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        variance.double(), exact.var((0, 2, 3), correction=0), rtol=1e-5, atol=0
    )


def test_a_network_is_cut_at_its_norms_and_its_maps_are_known():
    found = stages(TransformerNetwork(width=8, blocks=1))
    kept = [(stage.channels, str(stage.scale), stage.is_kept) for stage in found]
    assert kept == [
        (8, "1", False),
        (16, "1/2", True),
        (32, "1/4", True),
        (32, "1/4", True),  # within the block
        (32, "1/4", True),
        (16, "1/2", True),
        (8, "1", False),
        (3, "1", False),
    ]
    assert [stage.holds for stage in found] == [
        False,
        False,
        False,
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_layer_that_nobody_taught_strips_is_named():
    made = network("stride", "folded")
    made.layers.append(nn.Hardswish())
    with pytest.raises(TypeError, match="no way is known to apply a Hardswish to strips"):
        in_strips(made, torch.rand(1, 3, 20, 20), 8)
