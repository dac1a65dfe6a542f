"""params.yaml's values arrive in the loss that they are meant for."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from fnst import criterion, features, images, params
from fnst.errors import CheckpointError, ImageError, ParamsError
from fnst.images import Picture
from fnst.losses import Weights, moments

LOSS = params.Loss("small", "relu2_1", {"relu1_1": 0.5, "relu3_1": 0.25}, grid_weight=7.0)
STYLE = params.Style(
    "wave.png", size=48, content_weight=2.0, style_weight=3.0, variation_weight=5.0
)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wave.png"
    images.save(Picture(torch.rand(1, 3, 64, 80)), path)
    return path


def made(picture, vgg, loss=LOSS, dtype=torch.float32):
    return criterion.loss(
        loss, STYLE, picture=picture, vgg=vgg, device=torch.device("cpu"), dtype=dtype
    )


# --- the loss -------------------------------------------------------------------------------------


def test_every_value_of_the_loss_is_in_its_place(picture, small_vgg_file):
    loss = made(picture, small_vgg_file)
    assert loss.content_layer == "relu2_1"
    assert loss.style_layers == {"relu1_1": 0.5, "relu3_1": 0.25}
    assert loss.weights == Weights(content=2.0, style=3.0, variation=5.0, grid=7.0)


def test_strength_multiplies_what_the_painting_counts_and_nothing_else():
    stronger = dataclasses.replace(STYLE, strength=4.0)
    assert criterion.weights(LOSS, stronger) == Weights(2.0, 12.0, variation=5.0, grid=7.0)


def test_the_target_is_the_painting_at_its_size(picture, small_vgg_file):
    loss = made(picture, small_vgg_file)
    painting = images.fit(images.load(picture).rgb, 48)
    maps = features.load(small_vgg_file)(painting, ["relu3_1"])["relu3_1"]
    assert_close(loss.get_buffer("covariance_relu3_1"), moments(maps).covariance)


def test_the_loss_network_convolves_in_the_precision_that_was_chosen(picture, small_vgg_file):
    loss = made(picture, small_vgg_file, dtype=torch.bfloat16)
    assert loss.extract.convolutions[0].weight.dtype == torch.bfloat16
    assert loss.extract.colours.weight.dtype == torch.float32
    terms = loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    assert terms.total.dtype == torch.float32


def test_on_a_gpu_what_judges_rounds_no_float32(picture, small_vgg_file, rounding):
    made(picture, small_vgg_file)
    assert not rounding()


def test_a_layer_that_is_not_there_is_refused_before_training(picture, small_vgg_file):
    other = params.Loss("small", "relu2_9", {"relu1_1": 1.0})
    with pytest.raises(ParamsError, match="no layer 'relu2_9'"):
        made(picture, small_vgg_file, other)


def test_what_is_no_picture_or_no_network_is_refused(picture, small_vgg_file):
    with pytest.raises(ImageError, match="not a picture"):
        made(small_vgg_file, small_vgg_file)
    with pytest.raises(CheckpointError, match="no VGG"):
        made(picture, picture)


def test_a_painting_is_seen_with_its_short_side_at_size(picture):
    assert criterion.painting(picture, 32).shape == (1, 3, 32, 40)
    assert criterion.painting(picture, 128).shape == (1, 3, 128, 160)


# --- what fetch left ------------------------------------------------------------------------------


def test_the_only_file_is_found_however_deep_it_lies(tmp_path):
    path = tmp_path / "networks" / "vgg.pth"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert criterion.only_file(tmp_path) == path


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_none_or_several_are_refused(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImageError, match=rf"`dvc repro fetch` puts there, got {len(names)}"):
        criterion.only_file(tmp_path)
    with pytest.raises(ImageError, match="got 0"):
        criterion.only_file(tmp_path / "missing")
