"""The base: what is written, what its card says, and what is refused before hours are spent."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fnst import build, checkpoint, files, packing, params
from fnst.collection import Entry
from fnst.errors import ImageError, ParamsError
from fnst.network import TransformerNetwork
from stages import base

PARAMS = Path(base.__file__).parents[1] / "params.yaml"


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def project(tmp_path, small_vgg_file, monkeypatch):
    """A project with a small loss network, two photographs and two paintings."""
    values = yaml.safe_load(PARAMS.read_text())
    values["recipes"]["laptop"]["network"] |= {"width": 4, "blocks": 1}
    files.write(tmp_path / "params.yaml", yaml.safe_dump(values).encode())
    files.write(tmp_path / "data/raw/network/vgg.pth", small_vgg_file.read_bytes())
    found = [Entry(f"{i}.png", 1, str(i), lambda i=i: png(i)) for i in range(2)]
    packing.pack(found, tmp_path / "data/photos/train", size=128)
    files.write(tmp_path / "data/photos/report.json", b"two photographs")
    for name in ("day", "night"):
        files.write(tmp_path / f"{name}.png", png(len(name)))
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "BASE", tmp_path / "base")
    monkeypatch.setattr(base, "TOGETHER_STEPS", 1)
    monkeypatch.setattr(base, "REPTILE_STEPS", 1)
    return tmp_path


def make(method="together", photos="data/photos/train", *options):
    base.main([method, "--photos", photos, "--visits", "2", *options, "day.png", "night.png"])


@pytest.mark.parametrize("method", ["together", "reptile"])
def test_the_card_of_a_base_says_from_what_it_was_made(project, method):
    make(method)
    assert checkpoint.load(project / "base").card["training"] == {
        "how": f"stages.base {method}: 2 visits",
        "seed": 0,
        "loss": "vgg19-gatys",
        "photographs": 2,
        "photographs_sha256": files.sha256(project / "data/photos/report.json"),
        "paintings_sha256": {
            name: files.sha256(project / name) for name in ("day.png", "night.png")
        },
    }
    kept = load_file(project / "base/model.safetensors")
    begun = build.network(params.load().chosen.network, seed=0).state_dict()
    assert {weights.dtype for weights in kept.values()} == {torch.float16}
    assert any(not torch.equal(kept[name], begun[name].half()) for name in begun)


def test_a_base_is_gone_on_with(project):
    make()
    begun = files.sha256(project / "base/model.safetensors")
    make("reptile", "data/photos/train", "--start", "base")
    assert checkpoint.load(project / "base").card["training"]["start_sha256"] == begun
    assert files.sha256(project / "base/model.safetensors") != begun


def test_what_cannot_be_a_base_is_refused(project, capsys):
    with pytest.raises(ImageError, match="start: expected a packed photo set"):
        make(photos="start")
    (project / "data/photos/report.json").unlink()
    with pytest.raises(ImageError, match=r"train: expected report\.json beside the set"):
        make()
    with pytest.raises(SystemExit):
        base.main(["together", "--visits", "0", "day.png"])
    assert "expected 1 or more, got 0" in capsys.readouterr().err
    files.write(project / "data/photos/report.json", b"")
    other = TransformerNetwork(width=8, blocks=1)
    checkpoint.save(project / "start", other, style="wave", training={})
    with pytest.raises(ParamsError, match="'width': 8"):
        make("reptile", "data/photos/train", "--start", "start")
    assert not (project / "base").exists()


def test_the_base_that_comes_with_fnst_is_small():
    weights = checkpoint.BASE / checkpoint.WEIGHTS
    assert weights.stat().st_size <= 4_000_000
    assert {each.dtype for each in load_file(weights).values()} == {torch.float16}
