"""Layers that take another's place draw what it drew."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fnst.network import BILINEAR, NEAREST, ByRows, FoldedUpsampling
from fnst.rewrites import Blocks, Folded, Smoothed, Winograd, _parts, doubling

DTYPES = pytest.mark.parametrize(
    ("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-12)], ids=["fp32", "fp64"]
)


def convolution(inputs, outputs, size, *, bias=True):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, padding_mode="reflect", bias=bias)


@DTYPES
@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 4), (6, 11), (12, 8), (9, 61), (41, 38)])
def test_winograds_convolution_is_the_plain_one(dtype, within, h, w, monkeypatch):
    monkeypatch.setattr("fnst.rewrites.TILES", 7)  # so that the last chunk is a smaller one
    layer = convolution(6, 5, 3).to(dtype)
    maps = torch.randn(2, 6, h, w, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert_close(Winograd(layer).by_tiles(maps), layer(maps), atol=within, rtol=0)


@torch.inference_mode()
def test_winograds_convolution_is_the_same_on_several_cores():
    layer = Winograd(convolution(6, 5, 3))
    maps = torch.randn(2, 6, 33, 350)  # rows of 88 tiles: two pieces each
    alone = layer.by_tiles(maps)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        together = layer.by_tiles(maps)
    finally:
        torch.set_num_threads(before)
    assert_close(together, alone, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("side", "by_tiles"), [(127, False), (128, True)])
def test_small_maps_are_convolved_as_the_layer_does(side, by_tiles, monkeypatch):
    layer = Winograd(convolution(1, 2, 3))
    nothing = torch.zeros(1, 2, side, side)
    monkeypatch.setattr(layer, "by_tiles", lambda maps: nothing)
    assert (layer(torch.rand(1, 1, side, side)) is nothing) == by_tiles


def test_long_rows_of_tiles_are_cut_into_equal_pieces():
    parts = list(_parts(torch.zeros(6, 6, 3, 70, 1)))
    assert [part.shape[2:4] for part in parts] == [(1, 35)] * 6
    parts = list(_parts(torch.zeros(6, 6, 7, 20, 1)))
    assert [part.shape[2:4] for part in parts] == [(3, 20), (3, 20), (1, 20)]


def test_only_a_bilinear_doubling_is_smoothed():
    assert isinstance(doubling(FoldedUpsampling(2, 2, BILINEAR)), Smoothed)
    assert isinstance(doubling(FoldedUpsampling(2, 2, NEAREST)), Folded)


@torch.inference_mode()
def test_winograds_convolution_keeps_the_memorys_layout():
    maps = torch.randn(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    drawn = Winograd(convolution(4, 4, 3)).by_tiles(maps)
    assert drawn.is_contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def test_an_impulse_draws_the_kernel():
    layer = convolution(1, 1, 3, bias=False)
    maps = torch.zeros(1, 1, 9, 9)
    maps[0, 0, 4, 4] = 1
    drawn = Winograd(layer).by_tiles(maps)[0, 0]
    assert_close(drawn[3:6, 3:6], layer.weight[0, 0].flip(0, 1), atol=1e-6, rtol=0)
    drawn[3:6, 3:6] = 0
    assert drawn.abs().max() < 1e-6


@DTYPES
@pytest.mark.parametrize("taps", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@pytest.mark.parametrize(("h", "w"), [(4, 4), (5, 7), (9, 33)])
@pytest.mark.parametrize("made", [doubling, Folded])
def test_a_doubling_is_the_layers_own(made, dtype, within, taps, h, w):
    layer = FoldedUpsampling(6, 5, taps).to(dtype)
    maps = torch.randn(2, 6, h, w, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        assert_close(made(layer)(maps), layer(maps), atol=within, rtol=0)


@DTYPES
@pytest.mark.parametrize(("h", "w"), [(6, 6), (8, 20), (12, 10)])
def test_blocks_are_the_plain_convolution(dtype, within, h, w):
    layer = ByRows(4, 3, 9).to(dtype)
    maps = torch.randn(2, 4, h, w, dtype=dtype)
    with torch.inference_mode():
        assert_close(Blocks(layer)(maps), layer(maps), atol=within, rtol=0)
