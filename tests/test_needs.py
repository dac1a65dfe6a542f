"""What a recipe needs is told before anything is transferred, and refused when it does not fit."""

import hashlib
import shutil
import zipfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.server import serving
from fnst import assets, needs, params, selection, sources
from fnst.errors import AssetError

ROOT = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FNST_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FNST_MIRROR", raising=False)
    shutil.copytree(ROOT / "data" / "styles", tmp_path / "project" / "data" / "styles")
    return tmp_path / "project"


@pytest.fixture
def ask(root):
    """The needs of a recipe whose photographs are changed as told, one row each."""

    def rows(recipe="laptop", **photos):
        wanted = replace(params.load(ROOT / "params.yaml"), recipe=recipe)
        changed = replace(wanted.chosen, photos=replace(wanted.chosen.photos, **photos))
        recipes = {**wanted.recipes, recipe: changed}
        return needs.needs(replace(wanted, recipes=recipes), root / "data")

    return rows


def one(found, use):
    (need,) = [need for need in found.each if need.use == use]
    return need


def test_a_new_machine_has_coco_still_to_transfer(ask):
    found = ask("coco")
    train, held_out = one(found, "train"), one(found, "held out")
    assert (train.source, train.photographs, train.transfer) == (
        "coco-2017-test",
        40_670,
        6_646_970_404,
    )
    assert train.whence == "images.cocodataset.org"
    assert (held_out.photographs, held_out.transfer) == (500, 81_558_533)  # a tenth of the split
    assert found.packed == (40_670 * 288**2 + 500 * 480**2) * 3
    assert one(found, "loss network").transfer == 80_102_481
    assert found.transfer == 6_646_970_404 + 81_558_533 + 80_102_481


def test_a_draw_of_most_costs_the_whole_zip(ask):
    few, many = (ask("coco", train_count=count) for count in (10_000, 30_000))
    assert one(few, "train").transfer == round(6_646_970_404 * 10_000 / 40_670)
    assert one(many, "train").transfer == 6_646_970_404
    assert one(many, "train").photographs == 30_000


def test_a_draw_over_several_sources_is_shared_among_them(ask):
    names = ("coco-2017-train", "coco-2017-test")
    shares = [n for n in ask("coco", train=names, train_count=1000).each if n.use == "train"]
    assert [n.photographs for n in shares] == [744, 256]


def test_what_comes_with_the_installation_costs_nothing(ask, root):
    found = ask()
    samples = [need for need in found.each if need.use in ("train", "held out")]
    assert len(samples) == 8
    assert all(need.transfer == 0 and need.whence == "on this machine" for need in samples)
    assert one(found, "style indigo-wave").whence == "a local path"
    assets.get(assets.find("sample-china"), root / "data/raw/photos/sample")
    assert [n.whence for n in ask().each if n.source == "sample-china"] == ["here"]


def test_local_folders_and_zips_are_counted(ask, root):
    (root / "mine").mkdir()
    for name in ("a.jpg", "b.png", "notes.txt"):
        (root / "mine" / name).write_bytes(b"")
    with zipfile.ZipFile(root / "more.zip", "w") as target:
        target.writestr("c.jpg", b"")
    found = ask(train=("mine", "more.zip"))
    assert [n.photographs for n in found.each if n.use == "train"] == [2, 1]


def test_what_has_arrived_is_not_counted_again(root):
    body = bytes(range(256)) * 400
    with serving(files={"/vgg.pth": body}, drops=[40_000] * 50) as site:
        asset = assets.Asset("vgg.pth", hashlib.sha256(body).hexdigest(), len(body), "", ())
        asset = replace(asset, sources=(f"{site.url}/vgg.pth",))
        assert assets.missing(asset, root) == len(body)
        (root / "vgg.pth.part").write_bytes(b"")  # nothing yet
        assert assets.missing(asset, root) == len(body)
        with pytest.raises(KeyboardInterrupt):
            assets.get(asset, root, progress=_interrupt)
    assert 0 < assets.missing(asset, root) < len(body)


def _interrupt(name, done, total):
    if done:
        raise KeyboardInterrupt


def test_photographs_that_were_drawn_before_are_not_counted_again(ask, root):
    asset = sources.find("coco-2017-val")
    part = selection.parts_of(asset, root / "data/raw/photos") / "val2017" / "1.jpg"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1_000))
    assert one(ask("coco"), "held out").transfer == round(81_558_533 * 499 / 500)


def test_a_url_of_unknown_size_says_so(ask):
    source = f"https://example.org/photos.zip#sha256={'0' * 64}"
    need = one(ask(train=(source,)), "train")
    assert (need.transfer, need.photographs, need.whence) == (None, None, "example.org")
    said = ask(train=(source,), held_out=(source,)).summary
    assert said.startswith("at least 80.1 MB to transfer, then an unknown amount to pack; ")
    assert ask("coco", train=(source,)).summary.startswith("at least 162 MB to transfer")


def test_a_disk_that_is_too_small_is_said_before_the_start(ask, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**10))
    found = ask("coco")
    assert not found.is_enough
    with pytest.raises(AssetError, match=r"6\.81 GB to transfer and 10\.5 GB .* got 10 GB free in"):
        needs.check_room(found, root / "data")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2 * 10**10))
    needs.check_room(ask("coco"), root / "data")


def test_packed_photographs_that_are_there_need_no_more_room(ask, root):
    before = ask("coco").packed
    (root / "data/photos/train").mkdir(parents=True)
    (root / "data/photos/train/00000.npy").write_bytes(bytes(1000))
    assert ask("coco").packed == before - 1000
