"""An engine draws what the exact pass draws, whatever takes a layer's place."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from fnst import passage, strips
from fnst.engine import Engine, Recorded, choose_dtype
from fnst.errors import ImageError
from fnst.network import Residual, TransformerNetwork
from fnst.rewrites import Blocks, Smoothed, Winograd
from fnst.stylize import stylize

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

LEVEL = 1 / 255


@pytest.fixture
def network():
    return TransformerNetwork(width=8, blocks=2).eval()


def needs(network, image):
    return strips.whole_needs(image, passage.widest(network))


@pytest.mark.parametrize(("h", "w"), [(9, 40), (17, 23), (64, 48), (500, 521)])
def test_fp32_is_the_exact_pass_to_a_hundredth_of_a_grey_level(network, h, w):
    image = torch.rand(1, 3, h, w)
    assert_close(Engine(network)(image), stylize(network, image), atol=LEVEL / 100, rtol=0)


@pytest.mark.parametrize(("h", "w"), [(17, 23), (64, 48)])
def test_bf16_is_a_few_levels_off(network, h, w):
    image = torch.rand(1, 3, h, w)
    painted = Engine(network, precision="bf16")(image)
    assert painted.dtype == torch.float32
    off = (painted - stylize(network, image)).abs()
    assert off.max() < 12 * LEVEL
    assert off.mean() < LEVEL


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 40), (3, 2)])
def test_the_smallest_pictures_are_painted_too(network, precision, h, w):
    """In which norms magnify any rounding, so that no two ways agree."""
    painted = Engine(network, precision=precision)(torch.rand(1, 3, h, w))
    assert painted.shape == (1, 3, h, w)
    assert painted.min() >= 0
    assert painted.max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_original_projects_variant_is_painted_too(precision):
    network = TransformerNetwork(
        width=8, blocks=1, downsampling="max_pool", upsampling="transposed"
    )
    image = torch.rand(1, 3, 33, 20)
    within = LEVEL / 100 if precision == "fp32" else 12 * LEVEL
    painted = Engine(network, precision=precision)(image)
    assert_close(painted, stylize(network, image), atol=within, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_come_out_as_bytes(network, precision):
    image = torch.randint(0, 256, (1, 3, 20, 31), dtype=torch.uint8)
    engine = Engine(network, precision=precision)
    painted, known = engine(image), engine(image / 255)
    assert painted.dtype == torch.uint8
    assert_close(painted, known.mul(255).round().byte(), atol=1, rtol=0)


def test_the_network_that_was_given_stays_as_it_was(network):
    before = {name: values.clone() for name, values in network.state_dict().items()}
    network.train()
    Engine(network)(torch.rand(1, 3, 16, 16))
    assert network.training
    assert all(weights.requires_grad for weights in network.parameters())
    for name, values in network.state_dict().items():
        assert torch.equal(values, before[name])


def test_a_picture_that_memory_does_not_suffice_for_passes_in_strips(network, monkeypatch):
    image = torch.rand(1, 3, 700, 400)
    whole = Engine(network)(image)
    narrow = Engine(network, max_memory=110_000_000)
    monkeypatch.setattr(narrow, "fast", None)  # that would paint it whole
    assert_close(narrow(image), whole, atol=LEVEL / 50, rtol=0)


def test_what_memory_would_just_suffice_for_passes_in_strips_too(network, monkeypatch):
    image = torch.rand(1, 3, 300, 200)
    engine = Engine(network, max_memory=int(1.2 * needs(network, image)))
    monkeypatch.setattr(engine, "fast", None)  # in pieces, it would take more than that
    assert engine(image).shape == image.shape


def test_a_picture_costs_no_other_pass_than_its_own(network, monkeypatch):
    image = torch.rand(1, 3, 64, 48)
    engine = Engine(network)
    monkeypatch.setattr("fnst.passage.stages", None)  # runs the network to see how wide it is
    assert engine(image).shape == image.shape


def test_on_many_cores_more_memory_is_kept_for_them(network, monkeypatch):
    image = torch.rand(1, 3, 300, 200)
    engine = Engine(network, max_memory=int(1.3 * needs(network, image)))
    whole = engine(image)
    monkeypatch.setattr(engine, "fast", None)  # that would paint it whole
    with pytest.raises(TypeError):
        engine(image)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1000)
    assert_close(engine(image), whole, atol=LEVEL / 50, rtol=0)


def test_a_picture_for_which_memory_ran_out_is_painted_in_other_ways(network, monkeypatch):
    def lack(network, image):
        raise RuntimeError("CUDA error: out of memory")

    image = torch.rand(1, 3, 64, 48)
    known = stylize(network, image)
    monkeypatch.setattr("fnst.engine.stylize", lack)
    assert_close(Engine(network)(image), known, atol=LEVEL / 100, rtol=0)


def test_other_errors_than_a_lack_of_memory_are_raised(network, monkeypatch):
    def fail(network, image):
        raise RuntimeError("wrong shape")

    monkeypatch.setattr("fnst.engine.stylize", fail)
    with pytest.raises(RuntimeError, match="wrong shape"):
        Engine(network)(torch.rand(1, 3, 64, 48))


def test_several_pictures_at_once_are_never_taken_for_one(network):
    with pytest.raises(ValueError, match="one picture at a time, got 2"):
        Engine(network, max_memory=1000)(torch.rand(2, 3, 64, 48))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_picture_comes_out_flat(network, value):
    """Norms magnify what is uneven by three hundred, each."""
    image = torch.full((1, 3, 512, 500), value)
    painted = Engine(network)(image)
    assert painted.std((2, 3)).max() < LEVEL / 100
    assert_close(painted, stylize(network, image), atol=LEVEL / 10, rtol=0)


def test_a_nearly_flat_picture_is_painted_as_the_plain_pass_does(network):
    image = torch.zeros(1, 3, 512, 500)
    image[..., 240:250, 10:300] = 1 / 255
    assert_close(Engine(network)(image), stylize(network, image), atol=LEVEL / 10, rtol=0)


def test_what_even_strips_cannot_do_is_refused(network):
    with pytest.raises(ImageError, match="allow more, or make it smaller"):
        Engine(network, max_memory=1000)(torch.rand(1, 3, 64, 64))


def test_on_a_cpu_each_precision_has_its_own_quick_layers(network):
    exact = {type(layer) for layer in Engine(network).fast.modules()}
    rounded = {type(layer) for layer in Engine(network, precision="bf16").fast.modules()}
    assert exact & {Winograd, Smoothed, Blocks} == {Winograd, Smoothed, Blocks}
    assert rounded & {Winograd, Smoothed, Blocks} == {Smoothed, Blocks}
    blocks = [block for block in Engine(network).fast.layers if isinstance(block, Residual)]
    assert not any(isinstance(layer, nn.Conv2d) for block in blocks for layer in block.layers)


def test_without_being_asked_a_cpu_computes_in_float32():
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("fp32", cpu) == torch.float32
    assert choose_dtype("bf16", cpu) == torch.bfloat16


def test_layers_that_are_recorded_draw_the_same_in_every_size():
    layers = nn.Conv2d(3, 3, 3, padding=1)
    recorded = Recorded(layers)
    for side in (8, 8, 8, 8, 8, 12, 8):
        photos = torch.rand(1, 3, side, side)
        assert torch.equal(recorded(photos), layers(photos))


@needs_gpu
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1), ("bf16", 12)])
def test_a_gpu_paints_the_same_before_and_after_it_records(network, precision, within):
    engine = Engine(network, device="cuda", precision=precision)
    for side in (64, 64, 64, 64, 64, 64, 48, 64):
        image = torch.rand(1, 3, side, 60)
        assert_close(engine(image), stylize(network, image), atol=within * LEVEL, rtol=0)
