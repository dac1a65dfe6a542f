"""A line of params.yaml becomes files, or one sentence that says why not."""

import hashlib
import os
import zipfile

import pytest

from benchmarks.server import serving
from fnst.errors import AssetError
from fnst.sources import bring, keep_only

BODY = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of its own, to which relative paths belong; nothing from a mirror."""
    monkeypatch.setenv("FNST_ROOT", str(tmp_path / "project"))
    monkeypatch.delenv("FNST_MIRROR", raising=False)
    (tmp_path / "project" / "mine").mkdir(parents=True)
    return tmp_path / "project"


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def place(source):
    """The folder of a local source, which keeps it apart from others of the same name."""
    return hashlib.sha256(source.encode()).hexdigest()[:8]


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("root")
def test_a_file_is_found_from_the_project_root_wherever_one_stands(root, raw, monkeypatch):
    (root / "mine" / "wave.png").write_bytes(BODY)
    monkeypatch.chdir(raw.parent)
    assert bring("mine/wave.png", raw) == [raw / place("mine/wave.png") / "wave.png"]
    assert (raw / place("mine/wave.png") / "wave.png").read_bytes() == BODY


def test_a_file_may_be_given_by_its_whole_path(root, raw, tmp_path):
    (tmp_path / "wave.png").write_bytes(BODY)
    source = str(tmp_path / "wave.png")
    assert bring(source, raw) == [raw / place(source) / "wave.png"]


def test_a_folder_comes_with_all_below_it_in_order(root, raw):
    (root / "mine" / "below").mkdir()
    for name in ("b.jpg", "a.jpg", "below/c.jpg"):
        (root / "mine" / name).write_bytes(name.encode())
    found = bring("mine", raw)
    below = raw / place("mine") / "mine"
    assert found == [below / name for name in ("a.jpg", "b.jpg", "below/c.jpg")]
    assert [path.read_bytes() for path in found] == [b"a.jpg", b"b.jpg", b"below/c.jpg"]


def test_a_zip_comes_as_it_is(root, raw):
    with zipfile.ZipFile(root / "mine" / "photos.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
    (path,) = bring("mine/photos.zip", raw)
    assert path == raw / place("mine/photos.zip") / "photos.zip"
    assert zipfile.is_zipfile(path)


def test_local_files_take_no_room_twice(root, raw):
    (root / "mine" / "wave.png").write_bytes(BODY)
    (path,) = bring("mine/wave.png", raw)
    assert path.samefile(root / "mine" / "wave.png")
    assert bring("mine/wave.png", raw) == [path]


def test_where_links_are_impossible_files_are_copied(root, raw, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (root / "mine" / "wave.png").write_bytes(BODY)
    (path,) = bring("mine/wave.png", raw)
    assert path.read_bytes() == BODY
    assert names(raw) == [f"{place('mine/wave.png')}/wave.png"]


def test_a_picture_that_was_replaced_is_brought_anew(root, raw):
    (root / "mine" / "wave.png").write_bytes(b"old")
    bring("mine/wave.png", raw)
    (root / "mine" / "wave.png").unlink()
    (root / "mine" / "wave.png").write_bytes(b"new")
    (path,) = bring("mine/wave.png", raw)
    assert path.read_bytes() == b"new"
    assert path.samefile(root / "mine" / "wave.png")


def test_bringing_touches_nothing_else(root, raw):
    raw.mkdir()
    (raw / "other.png").write_bytes(b"other")
    (root / "mine" / "wave.png").write_bytes(BODY)
    bring("mine/wave.png", raw)
    assert names(raw) == sorted(["other.png", f"{place('mine/wave.png')}/wave.png"])


def test_folders_of_the_same_name_do_not_replace_each_other(root, raw):
    for side in ("train", "held-out"):
        (root / side / "images").mkdir(parents=True)
        (root / side / "images" / "001.jpg").write_bytes(side.encode())
    found = [path for side in ("train", "held-out") for path in bring(f"{side}/images", raw)]
    assert [path.read_bytes() for path in found] == [b"train", b"held-out"]


def test_a_folder_of_links_comes_with_what_they_lead_to(root, raw):
    (root / "wave.png").write_bytes(BODY)
    (root / "mine" / "link.png").symlink_to("../wave.png")
    (path,) = bring("mine", raw)
    assert not path.is_symlink()
    assert path.read_bytes() == BODY


# --- known assets and addresses -------------------------------------------------------------------


@pytest.mark.usefixtures("root")
def test_a_known_asset_comes_under_its_own_name(raw):
    told = []
    found = bring("sample-rocket", raw, progress=lambda *event: told.append(event))
    assert found == [raw / "sample" / "rocket.jpg"]
    assert found[0].stat().st_size == 112_525
    assert told[-1] == ("sample/rocket.jpg", 112_525, 112_525)


@pytest.mark.usefixtures("root")
def test_a_url_with_its_hash_is_downloaded_and_verified(raw, monkeypatch, tmp_path):
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(BODY).hexdigest()
    with serving(files={"/pictures/wave.jpg": BODY}) as site:
        url = f"{site.url}/pictures/wave.jpg"
        source = f"{url}#sha256={digest}"
        assert bring(source, raw) == [raw / place(source) / "wave.jpg"]
        assert (raw / place(source) / "wave.jpg").read_bytes() == BODY
        with pytest.raises(AssetError, match="sha256 is"):
            bring(f"{url}#sha256={'0' * 64}", tmp_path / "other")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("fragment", ["", "#", "#md5=00", "#top"])
def test_a_url_without_hash_is_refused_with_a_reason(raw, fragment):
    with pytest.raises(AssetError, match=r"expected a URL that ends in #sha256= and the hash"):
        bring(f"https://example.org/wave.jpg{fragment}", raw)
    assert not raw.exists()


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("digest", ["", "xyz", "12"])
def test_a_hash_that_is_none_is_refused(raw, digest):
    with pytest.raises(AssetError, match="needs a sha256"):
        bring(f"https://example.org/wave.jpg#sha256={digest}", raw)


@pytest.mark.usefixtures("root")
def test_what_is_neither_file_nor_asset_gets_the_nearest_name(raw):
    with pytest.raises(
        AssetError, match=r"no file sample-rokcet, and no asset .*nearest is 'sample-rocket'"
    ):
        bring("sample-rokcet", raw)
    with pytest.raises(AssetError, match=r"there is no file styles/mine\.png"):
        bring("styles/mine.png", raw)


@pytest.mark.usefixtures("root")
def test_addresses_that_end_alike_do_not_replace_each_other(raw, monkeypatch, tmp_path):
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    bodies = {"/a/photos.zip": b"one", "/b/photos.zip": b"two"}
    with serving(files=bodies) as site:
        for path, body in bodies.items():
            (found,) = bring(f"{site.url}{path}#sha256={hashlib.sha256(body).hexdigest()}", raw)
            assert found.read_bytes() == body
    assert sorted(path.read_bytes() for path in raw.rglob("photos.zip")) == [b"one", b"two"]


# --- keeping a folder clean -----------------------------------------------------------------------


def test_only_what_is_wanted_is_kept(tmp_path):
    for name in ("a.png", "old/b.png", "old/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    keep_only([tmp_path / "old" / "b.png"], tmp_path)
    assert names(tmp_path) == ["old/b.png"]


def test_a_folder_that_is_not_there_is_clean(tmp_path):
    keep_only([], tmp_path / "missing")


def test_an_empty_source_is_refused_instead_of_meaning_the_whole_project(raw):
    with pytest.raises(AssetError, match="empty text"):
        bring(" ", raw)
