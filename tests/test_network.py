"""The network's own layers are the textbook ones, only computed faster."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F
from torch.testing import assert_close

from fnst import network
from fnst.network import (
    BILINEAR,
    NEAREST,
    FoldedUpsampling,
    InstanceNorm,
    Region,
    TransformerNetwork,
    fold,
)


def parameters(*, kind=nn.Module, of):
    return sum(
        p.numel() for m in of.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)
    )


# --- folded up-sampling ---------------------------------------------------------------------------


def by_neighbour(maps, weight, bias):
    doubled = F.interpolate(maps, scale_factor=2, mode="nearest")
    return F.conv2d(F.pad(doubled, (1, 1, 1, 1), mode="reflect"), weight, bias)


def by_bilinear(maps, weight, bias):
    beyond = F.pad(maps, (2, 2, 2, 2), mode="replicate")
    doubled = F.interpolate(beyond, scale_factor=2, mode="bilinear", align_corners=False)
    return F.conv2d(doubled[..., 3:-3, 3:-3], weight, bias)


@pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)
@pytest.mark.parametrize(
    ("taps", "plain_upsampling"), [(NEAREST, by_neighbour), (BILINEAR, by_bilinear)]
)
@pytest.mark.parametrize(("h", "w"), [(5, 8), (2, 2), (1, 3)])
def test_folded_upsampling_is_doubling_then_convolving(dtype, within, taps, plain_upsampling, h, w):
    layer = FoldedUpsampling(6, 4, taps).to(dtype)
    ours = torch.randn(2, 6, h, w, dtype=dtype, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()

    folded, plain = layer(ours), plain_upsampling(theirs, weight, bias)
    assert_close(folded, plain, atol=within, rtol=0)

    pull = torch.randn_like(plain)
    folded.backward(pull)
    plain.backward(pull)
    for got, known in ((ours, theirs), (layer.weight, weight), (layer.bias, bias)):
        assert_close(got.grad, known.grad, atol=100 * within, rtol=within)


def test_the_taps_meet_a_position_as_the_docstring_says():
    taps = torch.zeros(1, 1, 3, 3)
    taps[0, 0, 1] = torch.tensor([1.0, 10.0, 100.0])  # along the width; the middle row alone
    along = torch.tensor([100.0, 110.0, 11.0, 1.0])
    nothing = torch.zeros(4)
    assert_close(fold(taps, NEAREST)[0, 0], torch.stack([nothing, along, along, nothing]))


def checkerboard(upsampling):
    """How much a fixed grid of period 2 a layer draws into an arbitrary map, at the most."""
    maps = torch.randn(1, 8, 12, 12).mean((2, 3), keepdim=True).expand(1, 8, 12, 12)
    ramp = maps * torch.linspace(0, 1, 12)
    drawn = upsampling(ramp)[..., 4:-4, 4:-4]
    return (drawn[..., 2:] - 2 * drawn[..., 1:-1] + drawn[..., :-2]).abs().max()


def test_bilinear_upsampling_draws_no_grid_into_what_changes_slowly():
    torch.manual_seed(0)
    bilinear, nearest = (FoldedUpsampling(8, 4, taps) for taps in (BILINEAR, NEAREST))
    assert checkerboard(bilinear) < 1e-5
    assert checkerboard(nearest) > 1e-3


# --- instance norm --------------------------------------------------------------------------------


@pytest.fixture(params=["small", "large", "on a GPU"])
def path(request, monkeypatch):
    """Small maps take the native kernel, large ones go by strips, and those on a GPU by images."""
    if request.param != "small":
        monkeypatch.setattr(network, "ONE_PASS_POSITIONS", 0)
        monkeypatch.setattr(network, "STRIP_POSITIONS", 10)
    if request.param == "on a GPU":
        monkeypatch.setattr(network, "_normalize_strips", network._normalize_one)


def both_norms(channels, dtype=torch.float64):
    ours = InstanceNorm(channels).to(dtype)
    theirs = nn.InstanceNorm2d(channels, affine=True).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.uniform_(-2, 2))
        theirs.bias.copy_(ours.bias.uniform_(-2, 2))
    return ours, theirs


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_is_torchs_forward_and_backward(memory):
    ours, theirs = both_norms(3)
    maps = torch.randn(2, 3, 5, 7, dtype=torch.float64) * 3 + 10
    maps = maps.contiguous(memory_format=memory)
    mine, known = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    pull = torch.randn_like(maps)
    got, wanted = ours(mine), theirs(known)
    assert_close(got, wanted, atol=1e-12, rtol=0)
    got.backward(pull)
    wanted.backward(pull)
    assert_close(mine.grad, known.grad, atol=1e-12, rtol=0)
    assert_close(ours.weight.grad, theirs.weight.grad, atol=1e-11, rtol=0)
    assert_close(ours.bias.grad, theirs.bias.grad, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_instance_norm_of_a_part_normalizes_all_by_the_part(dtype, monkeypatch):
    monkeypatch.setattr(network, "STRIP_POSITIONS", 8)
    ours, _ = both_norms(3, torch.float64 if dtype == torch.float64 else torch.float32)
    maps = (torch.randn(2, 3, 11, 9) * 3 + 10).to(dtype)
    part = maps[..., 2:7, 2:6].double()
    variance, mean = torch.var_mean(part, (2, 3), correction=0, keepdim=True)
    known = (maps.double() - mean) / (variance + 1e-5).sqrt()
    known = known * ours.weight.double().view(-1, 1, 1) + ours.bias.double().view(-1, 1, 1)
    # as if maps of 11 rows were those of 22 at half the resolution
    got = ours(maps, Region(4, 9, 8, 22))
    assert got.dtype == dtype
    within = 1e-12 if dtype == torch.float64 else 0.05
    assert_close(got.double(), known, atol=within, rtol=within)


def test_through_the_norm_of_a_part_nothing_learns():
    maps = torch.randn(1, 2, 8, 8, requires_grad=True)
    assert not InstanceNorm(2)(maps, Region(0, 4, 4, 8)).requires_grad


@pytest.mark.usefixtures("path")
def test_instance_norms_backward_is_the_derivative_of_its_forward():
    layer, _ = both_norms(2)
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    apply = network._InstanceNorm.apply
    assert gradcheck(apply, (maps, layer.weight, layer.bias))


@pytest.mark.usefixtures("path")
def test_instance_norm_knows_a_map_of_two_values():
    maps = torch.tensor([[[[1.0, 3.0]]]])  # mean 2, deviation 1
    assert_close(InstanceNorm(1)(maps), torch.tensor([[[[-1.0, 1.0]]]]), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
def test_instance_norm_does_not_see_the_other_pictures_of_a_batch():
    layer, _ = both_norms(4, torch.float32)
    maps = torch.randn(3, 4, 6, 6)
    assert_close(layer(maps)[1:2], layer(maps[1:2]))


@pytest.mark.usefixtures("path")
def test_a_flat_map_becomes_its_bias():
    layer, _ = both_norms(2, torch.float32)
    known = layer.bias.view(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert_close(layer(torch.full((1, 2, 4, 4), 7.0)), known, atol=2e-3, rtol=0)


def test_large_maps_keep_their_digits():
    """A mean far from zero is where a variance in one pass goes wrong, in channels_last."""
    side = 513  # just above ONE_PASS_POSITIONS
    maps = (torch.randn(1, 2, side, side) + 300).contiguous(memory_format=torch.channels_last)
    ours, theirs = both_norms(2, torch.float32)
    known = theirs.double()(maps.double()).float()
    assert_close(ours(maps), known, atol=2e-4, rtol=0)


def test_the_statistics_of_millions_of_positions_keep_their_digits():
    """Sums of so many numbers in float32 would be 2e-3 off."""
    maps = (torch.randn(1, 4, 2000, 2000) + 3).contiguous(memory_format=torch.channels_last)
    _, mean, scale = network._normalize(maps, torch.ones(4), torch.zeros(4))
    assert_close(mean.double(), maps.double().mean((2, 3)), atol=1e-5, rtol=0)
    assert_close(scale.double(), maps.double().var((2, 3)).rsqrt(), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("path")
def test_bfloat16_maps_get_float32_statistics():
    layer = InstanceNorm(2)
    maps = (torch.randn(1, 2, 64, 64) + 4).bfloat16()
    mine = maps.clone().requires_grad_()
    normalized = layer(mine)
    assert normalized.dtype == torch.bfloat16
    _, mean, scale = network._normalize(maps, layer.weight, layer.bias)
    assert mean.dtype == scale.dtype == torch.float32
    assert_close(mean, maps.float().mean((2, 3)), atol=1e-5, rtol=0)
    known = nn.InstanceNorm2d(2)(maps.float())
    assert_close(normalized.float(), known, atol=0.02, rtol=0.01)
    normalized.sum().backward()
    assert mine.grad.dtype == torch.bfloat16
    assert layer.bias.grad.dtype == torch.float32
    assert_close(layer.bias.grad, torch.full((2,), 64.0 * 64))


@pytest.mark.parametrize(("is_half", "within"), [(False, 1e-5), (True, 1e-2)])
def test_a_convolution_by_rows_learns_as_the_plain_one_does(is_half, within):
    layer = network.ByRows(4, 3, 9)
    plain = nn.Conv2d(4, 3, 9, padding=4, padding_mode="reflect")
    plain.load_state_dict(layer.state_dict())
    maps = torch.rand(2, 4, 20, 30)
    pull = torch.rand(2, 3, 20, 30)
    found = []
    for each in (layer, plain):
        mine = maps.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            convolved = each(mine)
        convolved.backward(pull.to(convolved.dtype))
        found.append([convolved, mine.grad, each.weight.grad, each.bias.grad])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < within * theirs.norm()


# --- the whole network ----------------------------------------------------------------------------


def test_the_default_network_has_the_papers_parameters():
    made = TransformerNetwork()
    assert parameters(of=made) == 1_679_235
    assert parameters(of=made, kind=InstanceNorm) == 3_200


FORMS = [
    (down, up) for down in ("stride", "max_pool") for up in ("bilinear", "folded", "transposed")
]


@pytest.mark.parametrize(("down", "up"), FORMS)
@pytest.mark.parametrize(("h", "w"), [(16, 16), (20, 36), (64, 24)])
def test_every_form_keeps_the_size_and_the_range_of_a_picture(down, up, h, w):
    made = TransformerNetwork(width=4, blocks=1, downsampling=down, upsampling=up)
    stylized = made(torch.rand(2, 3, h, w))
    assert stylized.shape == (2, 3, h, w)
    assert stylized.min() >= 0
    assert stylized.max() <= 1


@pytest.mark.parametrize(("down", "up"), FORMS)
def test_every_form_has_the_parameters_of_the_default(down, up):
    made = TransformerNetwork(downsampling=down, upsampling=up)
    assert parameters(of=made) == 1_679_235


def test_a_flat_picture_gives_a_flat_picture_up_to_its_edges():
    """Every convolution sees a reflection beyond the edge, nowhere black."""
    made = TransformerNetwork(width=4, blocks=1).double()
    stylized = made(torch.full((1, 3, 24, 24), 0.3, dtype=torch.float64))
    assert_close(stylized, stylized[..., :1, :1].expand_as(stylized), atol=1e-5, rtol=0)


def test_forms_halve_and_double_each_their_own_way():
    kinds = {type(m) for m in TransformerNetwork(width=1).modules()}
    assert FoldedUpsampling in kinds
    assert not kinds & {nn.ConvTranspose2d, nn.MaxPool2d}
    other = TransformerNetwork(width=1, downsampling="max_pool", upsampling="transposed")
    kinds = {type(m) for m in other.modules()}
    assert FoldedUpsampling not in kinds
    assert kinds >= {nn.ConvTranspose2d, nn.MaxPool2d}


def test_width_and_blocks_are_what_was_asked_for():
    made = TransformerNetwork(width=4, blocks=3)
    assert sum(isinstance(m, network.Residual) for m in made.modules()) == 3
    assert made.layers[0].out_channels == 4
    assert made.architecture == {
        "width": 4,
        "blocks": 3,
        "downsampling": "stride",
        "upsampling": "bilinear",
    }


def test_the_network_can_be_rebuilt_from_what_it_says_of_itself():
    made = TransformerNetwork(width=4, blocks=1, downsampling="max_pool", upsampling="transposed")
    again = TransformerNetwork(**made.architecture)
    again.load_state_dict(made.state_dict())
    photos = torch.rand(1, 3, 16, 16)
    assert torch.equal(again(photos), made(photos))


def test_a_residual_block_carries_its_input_around():
    block = network.Residual(4)
    for parameter in block.layers[-1].parameters():
        nn.init.zeros_(parameter)
    maps = torch.randn(1, 4, 5, 5)
    assert torch.equal(block(maps), maps)


def test_the_output_is_float32_even_where_convolutions_are_not():
    made = TransformerNetwork(width=4, blocks=1)
    photos = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = made(photos)
    assert fast.dtype == torch.float32
    assert_close(fast, made(photos), atol=0.05, rtol=0)
