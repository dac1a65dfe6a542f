"""What another runtime draws from the exported file is what fnst draws."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch

from fnst import checkpoint, export
from fnst.checkpoint import Checkpoint
from fnst.errors import CheckpointError
from fnst.network import TransformerNetwork
from fnst.stylize import stylize

SIZES = [(37, 50), (64, 96), (9, 200)]
FORMS = [("stride", "bilinear"), ("stride", "folded"), ("max_pool", "transposed")]


def trained(folder, **architecture):
    network = TransformerNetwork(width=4, blocks=2, **architecture)
    checkpoint.save(folder, network, style="dots", training={})
    return checkpoint.load(folder)


@pytest.fixture
def style(tmp_path):
    return trained(tmp_path / "model")


def session(model):
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def draw(model, photo):
    (drawn,) = session(model).run(None, {"photo": photo})
    return drawn


@pytest.mark.parametrize(("down", "up"), FORMS)
def test_floats_are_drawn_as_fnst_draws_them_in_any_size(tmp_path, down, up):
    style = trained(tmp_path, downsampling=down, upsampling=up)
    running = session(export.graph(style, pixels="float", layout="nchw"))
    for h, w in SIZES:
        photo = torch.rand(1, 3, h, w)
        (drawn,) = running.run(None, {"photo": photo.numpy()})
        known = stylize(style.network, photo)
        np.testing.assert_allclose(drawn, known.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 30), (2, 3)])
def test_the_smallest_pictures_come_out_in_their_size(style, h, w):
    """In which norms magnify any rounding, so that no two runtimes agree."""
    assert draw(export.graph(style), np.zeros((1, h, w, 3), np.uint8)).shape == (1, h, w, 3)


@pytest.mark.parametrize(("h", "w"), SIZES)
def test_a_decoded_picture_goes_in_and_a_picture_comes_out(style, h, w):
    photo = np.random.default_rng(0).integers(0, 256, (1, h, w, 3), dtype=np.uint8)
    drawn = draw(export.graph(style), photo)
    assert drawn.dtype == np.uint8
    known = stylize(style.network, torch.from_numpy(photo).permute(0, 3, 1, 2))
    off = np.abs(drawn.astype(int) - known.permute(0, 2, 3, 1).numpy())
    assert off.max() <= 1
    assert off.mean() < 0.01


@pytest.mark.parametrize(("pixels", "layout"), [("uint8", "nchw"), ("float", "nhwc")])
def test_pixels_and_layout_are_what_was_asked_for(style, pixels, layout):
    photo = np.random.default_rng(0).integers(0, 256, (1, 20, 31, 3), dtype=np.uint8)
    usual = draw(export.graph(style), photo)
    axes, back = ((0, 3, 1, 2), (0, 2, 3, 1)) if layout == "nchw" else ((0, 1, 2, 3),) * 2
    given = photo.transpose(axes)
    given = given if pixels == "uint8" else given.astype(np.float32) / 255
    drawn = draw(export.graph(style, pixels=pixels, layout=layout), given).transpose(back)
    levels = drawn if pixels == "uint8" else (drawn * 255).round()
    assert np.abs(levels.astype(int) - usual).max() <= 1


def test_pictures_of_a_batch_do_not_see_each_other(style):
    photos = np.random.default_rng(0).integers(0, 256, (3, 18, 25, 3), dtype=np.uint8)
    model = export.graph(style)
    alone = np.concatenate([draw(model, photos[i : i + 1]) for i in range(3)])
    assert np.abs(draw(model, photos).astype(int) - alone).max() <= 1


def test_a_large_map_keeps_its_digits(style):
    """Where a runtime's instance norm adds up a million numbers."""
    photo = torch.rand(1, 3, 1024, 1024)
    drawn = draw(export.graph(style, pixels="float", layout="nchw"), photo.numpy())
    np.testing.assert_allclose(drawn, stylize(style.network, photo).numpy(), atol=1 / 2550, rtol=0)


def test_the_file_says_what_it_is(style, tmp_path):
    export.write(tmp_path / "dots.onnx", style, version=3)
    running = onnxruntime.InferenceSession(
        tmp_path / "dots.onnx", providers=["CPUExecutionProvider"]
    )
    said = running.get_modelmeta()
    assert said.producer_name == "fnst"
    assert said.custom_metadata_map == {
        "format": "fnst-style/1",
        "style": "dots",
        "version": "3",
        "weights_sha256": style.card["weights_sha256"],
        "colours": "sRGB, RGB, 0 to 255, nhwc; in and out; any height and width",
    }
    (photo,), (stylized,) = running.get_inputs(), running.get_outputs()
    assert (photo.name, stylized.name) == ("photo", "stylized")
    assert photo.shape == stylized.shape == ["batch", "height", "width", 3]


def test_the_graph_is_in_what_common_runtimes_read(style):
    model = export.graph(style)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 18)]
    assert model.ir_version == 8


def test_a_layer_that_cannot_be_exported_leaves_no_file(style, tmp_path):
    style.network.layers.append(torch.nn.Dropout())
    with pytest.raises(TypeError, match="no way is known to export a Dropout"):
        export.write(tmp_path / "dots.onnx", style)
    assert not (tmp_path / "dots.onnx").exists()


def test_without_onnx_one_sentence_says_what_to_install(style, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"pip install 'fnst\[export\]'"):
        export.graph(Checkpoint(style.network, style.card))
