"""What follows a convolution, at once: Triton's kernels compute what PyTorch's own do.

Without a GPU they run in Triton's interpreter (see conftest.py), and are compiled for an H200 that
need not be there.
"""

import subprocess
import sys
import warnings

import pytest
import torch
from torch.testing import assert_close

from fnst import fused
from fnst.engine import Engine
from fnst.fused import Box, Finish
from fnst.network import Region, TransformerNetwork

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

pytest.importorskip("triton", reason="there is no Triton for this system")

FINISHES = {
    "reflected": Finish(True, 1, "reflect"),
    "reflected further": Finish(True, 4, "reflect"),
    "its edge repeated": Finish(True, 2, "replicate"),
    "not padded": Finish(True, 0, "reflect"),
    "added": Finish(False, 1, "reflect", added_around=1),
    "added, unpadded": Finish(False, 2, "replicate", added_around=0),
}


@pytest.fixture
def in_parts(monkeypatch):
    """Kernels see so few numbers at a time that even small maps have several parts and tiles."""
    from fnst import kernels

    monkeypatch.setattr(kernels, "GROUP", 4)
    monkeypatch.setattr(kernels, "TILE", 32)  # 8 positions
    monkeypatch.setattr(kernels, "SUMMING", 12)  # for two images and groups: 3 parts of 2 tiles
    monkeypatch.setattr(kernels, "WRITING", 8)  # 2 programs for 6 tiles


def inputs(finish, *, c=5, h=7, w=6, dtype=torch.float32):
    torch.manual_seed(0)
    further = 2 * finish.added_around
    maps = 3 * torch.randn(2, c, h, w) + 10
    added = None if finish.relu else torch.randn(2, c, h + further, w + further).to(dtype)
    given = (maps.to(dtype), torch.randn(c), torch.randn(c), added)
    return [t if t is None else t.to(DEVICE).requires_grad_() for t in given]


def gradients(result, given):
    pulls = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    wanted = [tensor for tensor in given if tensor is not None]
    return torch.autograd.grad(result, wanted, pulls.to(result.dtype))


# --- the kernels ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES)
def test_all_at_once_is_one_after_the_other_there_and_back(finish):
    given = inputs(finish)
    maps, weight, bias, added = given
    ours = fused.finished(maps, weight, bias, finish, added)
    known = fused.plain(maps, weight, bias, finish, added)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_close(ours, known, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(ours, given), gradients(known, given), strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("box", [Box(1, 4, 3), Box(0, 7, 5), Box(2, 1, 1)])
@pytest.mark.parametrize("name", ["reflected", "added"])
def test_the_statistics_may_be_those_of_a_part(name, box):
    finish = FINISHES[name]
    given = inputs(finish)
    maps, weight, bias, added = given
    ours = fused.finished(maps, weight, bias, finish, added, box)
    known = fused.plain(maps, weight, bias, finish, added, box)
    assert_close(ours, known, atol=1e-4, rtol=1e-5)
    with pytest.raises(NotImplementedError, match="no way back"):
        gradients(ours, given)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("name", ["reflected", "added"])
@pytest.mark.parametrize(("dtype", "digit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once(name, dtype, digit):
    finish = FINISHES[name]
    given = inputs(finish, dtype=dtype)
    maps, weight, bias, added = given
    ours = fused.finished(maps, weight, bias, finish, added)
    known = fused.plain(
        maps.float(), weight, bias, finish, None if added is None else added.float()
    )
    assert ours.dtype == dtype
    # the interpreter cuts off what it should round
    digit = digit if DEVICE.type == "cuda" else 2 * digit
    assert_close(ours.float(), known, rtol=digit, atol=1e-5)
    for one, other in zip(gradients(ours, given), gradients(known, given), strict=True):
        assert one.dtype == other.dtype
        assert_close(one.float(), other.float(), atol=0.05, rtol=0.05)


@pytest.mark.usefixtures("in_parts")
def test_maps_in_another_order_of_memory_give_the_same():
    finish = FINISHES["added"]
    maps, weight, bias, added = inputs(finish)
    turned = [each.contiguous(memory_format=torch.channels_last) for each in (maps, added)]
    ours = fused.finished(turned[0], weight, bias, finish, turned[1])
    assert torch.equal(fused.finished(maps, weight, bias, finish, added), ours)


def test_no_dimension_of_the_grid_is_larger_than_a_gpu_can_count():
    from fnst import kernels

    count = 7680 * 4320
    maps = torch.empty(2, 32, 7680, 4320, device="meta")
    _, *rest = kernels._Cut.of(maps, count).summing
    assert rest == [1, 2]
    maps = torch.empty(1, 256, 7680, 4320, device="meta")  # 130,000 tiles and more
    _, *rest = kernels._Cut.of(maps, count).writing(maps)
    assert rest == [4, 1]


def test_what_cannot_be_reflected_is_refused():
    maps, weight, bias, _ = inputs(FINISHES["reflected"], h=4)
    with pytest.raises(ValueError, match="maps of 4x6 cannot be reflected by 4"):
        fused.finished(maps, weight, bias, FINISHES["reflected further"])


@pytest.mark.usefixtures("in_parts")
def test_channels_that_are_far_from_zero_keep_their_digits():
    finish = Finish(False, 0, "reflect")
    torch.manual_seed(0)
    maps = (1000 + 0.1 * torch.randn(1, 4, 16, 16, dtype=torch.float64)).to(DEVICE)
    one, zero = torch.ones(4, device=DEVICE), torch.zeros(4, device=DEVICE)
    ours = fused.finished(maps.float(), one, zero, finish)
    known = fused.plain(maps.float().double(), one.double(), zero.double(), finish)
    assert_close(ours.double(), known, atol=2e-3, rtol=0)  # a digit of 1000 in float32 is 6e-5


@pytest.mark.usefixtures("in_parts")
def test_what_is_no_number_stays_none():
    finish = Finish(True, 1, "reflect")
    maps, weight, bias, _ = inputs(finish)
    broken = maps.detach().clone()
    broken[0, 2, 3, 3] = torch.nan
    result = fused.finished(broken, weight, bias, finish)
    assert result[0, 2].isnan().all()
    assert result[1].isfinite().all()


def test_the_kernels_can_be_compiled_for_an_h200(tmp_path):
    lines = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fnst import kernels

known = dict(CHANNELS=64, TILE=64, PARTS=128, RELU=True, ADDED=True, REFLECT=True, AROUND=1, SEEN=3)
maps = {"maps", "added", "result", "pulls", "to_maps", "to_added"}
sizes = {"c", *kernels.SIZES}
for kernel in (kernels._sum_up, kernels._finish, kernels._sum_up_pulls, kernels._pull):
    names = [parameter.name for parameter in kernel.params]
    types = {
        n: "constexpr" if n in known else "*bf16" if n in maps else "i32" if n in sizes
        else "fp32" if n == "epsilon" else "*fp32" for n in names
    }
    values = {(i,): known[n] for i, n in enumerate(names) if n in known}
    # addresses and channels are multiples of 16, of which the compiler makes use
    wide = [(i,) for i, n in enumerate(names) if n == "c" or "*" in types[n]]
    source = ASTSource(kernel, types, values, dict.fromkeys(wide, [["tt.divisibility", 16]]))
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=kernels.OPTIONS)
    print(made.asm["ptx"].count("ld.global.v4"), made.asm["ptx"].count("ld.global.b16"))
"""
    environment = {
        "PATH": "/usr/bin:/bin",
        "TRITON_CACHE_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", lines],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    loads = [line.split() for line in done.stdout.splitlines()]
    assert len(loads) == 4
    for of_sixteen_bytes, of_two in loads:
        assert int(of_sixteen_bytes) > 0
        assert int(of_two) == 0


# --- the network ----------------------------------------------------------------------------------


def test_a_piece_of_a_network_is_its_layers_as_well(monkeypatch):
    torch.manual_seed(0)
    piece = TransformerNetwork(width=4, blocks=1).to(DEVICE).layers[:-1]
    photos = torch.rand(1, 3, 16, 16).to(DEVICE)
    known = piece(photos)
    monkeypatch.setattr(fused, "serves", lambda device, dtype: True)
    assert_close(piece(photos), known, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"downsampling": "max_pool"},
        {"upsampling": "folded"},
        {"upsampling": "transposed"},
        {"blocks": 0},
    ],
    ids=str,
)
def test_a_network_at_once_is_its_layers(variant, monkeypatch):
    torch.manual_seed(0)
    network = TransformerNetwork(**{"width": 4, "blocks": 2} | variant).to(DEVICE)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    photos = torch.rand(2, 3, 20, 24).to(DEVICE)
    weights = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    monkeypatch.setattr(fused, "serves", lambda device, dtype: True)
    at_once, of_part = network(photos), network(photos, Region(4, 10, 13, 20))
    monkeypatch.setattr(fused, "serves", lambda device, dtype: False)
    by_layers = network(photos)
    assert_close(at_once, by_layers, atol=1e-4, rtol=0)
    assert_close(of_part, network(photos, Region(4, 10, 13, 20)), atol=1e-4, rtol=0)
    for one, other in zip(gradients(at_once, weights), gradients(by_layers, weights), strict=True):
        assert_close(one, other, atol=1e-3, rtol=1e-3)


# --- whether they are used ------------------------------------------------------------------------


@pytest.fixture
def _untried():
    fused._works.cache_clear()
    yield
    fused._works.cache_clear()


def test_maps_on_a_cpu_are_not_served():
    assert not fused.serves(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("how", ["plain", "rounded", "autocast"])
def test_the_kernels_are_asked_for_in_the_dtype_of_the_maps_in_between(how, monkeypatch):
    asked = []
    monkeypatch.setattr(fused, "serves", lambda device, dtype: asked.append(dtype))
    network = TransformerNetwork(width=4, blocks=1)
    if how == "rounded":
        network = Engine(network, precision="bf16").fast
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"), torch.no_grad():
        network(torch.rand(1, 3, 16, 16))
    assert asked == [torch.float32 if how == "plain" else torch.bfloat16]


@pytest.mark.usefixtures("_untried")
def test_kernels_that_fail_are_not_used_and_that_is_said(monkeypatch):
    def fails(way, device, dtype):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(fused, "_tried", fails)
    with pytest.warns(UserWarning, match="not used on .*Failed to find C compiler"):
        assert not fused._works(DEVICE, torch.float32)


@pytest.mark.usefixtures("_untried")
def test_kernels_that_compute_something_else_are_not_used(monkeypatch):
    known = {fused.finished: 1.0, fused.plain: 1.01}
    monkeypatch.setattr(fused, "_tried", lambda way, *_: [torch.tensor([known[way]])])
    with pytest.warns(UserWarning, match="not used on .*not close"):
        assert not fused._works(DEVICE, torch.float32)


@pytest.mark.usefixtures("_untried")
@pytest.mark.parametrize("dtype", fused.TOLERANCES)
def test_kernels_that_work_are_used_even_while_nothing_may_learn(dtype):
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fused._works(DEVICE, dtype)


@needs_gpu
@pytest.mark.usefixtures("_untried")
def test_this_gpu_is_served():
    assert fused.serves(torch.device("cuda", 0), torch.bfloat16)
    assert not fused.serves(torch.device("cuda", 0), torch.float64)
