"""Any picture, within a limit of memory, as the whole pass makes it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fnst import memory, strips
from fnst.errors import ImageError
from fnst.network import TransformerNetwork
from fnst.stylize import stylize as whole

ROOT = Path(__file__).parents[1]
HUNDREDTH = 0.01 / 255  # of a grey level
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TransformerNetwork(width=8, blocks=2).eval()


@pytest.fixture(scope="module")
def image():
    """So long that each way takes another amount."""
    return torch.rand(1, 3, 1500, 33)


def apart(one, other):
    return (one.double() - other.double()).abs().max().item()


@pytest.mark.parametrize("turn", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_every_way_makes_the_same_picture(network, image, turn, dtype):
    image = image[:, :, :100]
    image = image if dtype == torch.float32 else image.mul(255).to(dtype)
    image = image.transpose(2, 3) if turn else image
    expected, level = whole(network, image), 1 if dtype == torch.uint8 else 1 / 255
    ways = list(strips._ways(network, image))
    assert len(ways) == 1 + 3 * 4
    for way in ways:
        stylized = way.take(None)
        assert (stylized.shape, stylized.dtype) == (image.shape, dtype)
        assert apart(stylized, expected) <= level  # an eighth of a grey level may round up


def test_ways_go_from_fast_to_frugal_and_all_but_half_precision_are_exact(network, image):
    image, expected = image[:, :, :100], whole(network, image[:, :, :100])
    ways = list(strips._ways(network, image))
    exact = [apart(way.take(None), expected) < HUNDREDTH for way in ways]
    assert exact == [True] + [True] * 4 + [False] * 4 + [True] * 4
    needs = [way.needs for way in ways]
    assert min(needs) == needs[-1]
    assert max(needs) == needs[0]


def test_the_first_way_that_fits_is_taken(network, image, monkeypatch):
    ways = list(strips._ways(network, image))
    taken = []

    def note(index):
        return lambda progress: taken.append(index) or image

    noted = [strips.Way(way.needs, note(i)) for i, way in enumerate(ways)]
    monkeypatch.setattr(strips, "_ways", lambda *_: iter(noted))
    for way in ways:
        strips.stylize(network, image, max_memory=way.needs)
    assert taken[0] == 0
    assert all(ways[index].needs <= way.needs for index, way in zip(taken, ways, strict=True))
    assert len(set(taken)) > 4


def test_less_than_the_least_is_one_sentence_that_says_the_least(network, image):
    with pytest.raises(ImageError) as raised:
        strips.stylize(network, image, max_memory=MEGABYTE)
    words = str(raised.value)
    assert words.startswith("a picture of 33x1500 takes at least ")
    assert words.endswith(" of memory, and 1 MB may be used; allow more, or make it smaller.")
    least = min(way.needs for way in strips._ways(network, image))
    assert strips.stylize(network, image, max_memory=least).shape == image.shape


def test_numbers_too_large_for_half_precision_go_to_the_file(image):
    network = TransformerNetwork(width=4, blocks=1).eval()
    network.layers[3].weight.data *= 1e8  # a norm follows: the picture is an ordinary one
    image = image[:, :, :64]
    halves = list(strips._ways(network, image))[5]
    assert (
        apart(strips.stylize(network, image, max_memory=halves.needs), whole(network, image))
        < HUNDREDTH
    )


def test_when_the_system_has_less_memory_than_it_said_the_next_way_is_tried(network, image):
    def fail(progress):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    there = list(strips._ways(network, image))[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips, "_ways", lambda *_: iter([strips.Way(1, fail), there]))
        stylized = strips.stylize(network, image, max_memory=there.needs)
    assert apart(stylized, whole(network, image)) < HUNDREDTH


def test_an_error_that_is_not_a_lack_of_memory_is_not_hidden(network, image, monkeypatch):
    def fail(progress):
        raise RuntimeError("something else")

    monkeypatch.setattr(strips, "_ways", lambda *_: iter([strips.Way(1, fail)]))
    with pytest.raises(RuntimeError, match="something else"):
        strips.stylize(network, image, max_memory=MEGABYTE)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 90), (90, 1), (17, 16)])
def test_odd_pictures_come_out_the_same_size(network, h, w):
    image = torch.rand(1, 3, h, w)
    for way in strips._ways(network, image):
        stylized = way.take(None)
        assert stylized.shape == image.shape
        assert stylized.isfinite().all()


def test_progress_is_told_and_ends(network, image):
    told = []
    needs = list(strips._ways(network, image))[1].needs
    strips.stylize(
        network, image, max_memory=needs, progress=lambda done, all_: told.append((done, all_))
    )
    assert told[-1][0] == told[-1][1]
    assert told == sorted(told)


PROGRAM = """
import sys, torch
from fnst import memory, strips
from fnst.network import TransformerNetwork
torch.set_num_threads(1)
network = TransformerNetwork(width=32, blocks=0).eval()
before = memory.peak()
image = torch.zeros(1, 800, 1000, 3, dtype=torch.uint8).random_(0, 256).permute(0, 3, 1, 2)
strips.stylize(network, image, max_memory=int(sys.argv[1]))
print(memory.peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a peak may begin with the parent's")
@pytest.mark.parametrize("megabytes", [140, 115, 80])  # float32, float16, a file
def test_the_limit_holds(megabytes):
    limit = megabytes * MEGABYTE
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(limit)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < limit


def test_a_turned_network_does_to_the_transpose_what_the_network_does(network):
    image = torch.rand(1, 3, 40, 60)
    turned = strips._turned(network)
    assert apart(whole(turned, image.transpose(2, 3)).transpose(2, 3), whole(network, image)) < (
        HUNDREDTH
    )


def test_what_is_free_without_asking_is_enough_for_a_small_picture(network):
    budget = memory.budget(torch.device("cpu"))
    assert strips.stylize(network, torch.rand(1, 3, 20, 20), max_memory=budget).shape[2:] == (
        20,
        20,
    )
