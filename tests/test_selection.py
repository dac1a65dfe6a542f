"""A draw of photographs: seeded, the same wherever they lie, and no dearer than what it takes."""

import hashlib
import io
import itertools
import os
import zipfile
from pathlib import Path

import pytest

from benchmarks.server import serving
from fnst import collection, remote_zip, selection, sources, web
from fnst.errors import AssetError
from fnst.selection import draw, select

PHOTOS = {f"test2017/{number:012}.jpg": os.urandom(80_000) for number in range(60)}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project of its own, without mirror, and with a cache of its own."""
    monkeypatch.setenv("FNST_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FNST_MIRROR", raising=False)
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "raw"


def zipped(photos):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in photos.items():
            target.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def site(root):
    with serving(files={"/zips/test2017.zip": zipped(PHOTOS)}) as site:
        yield site


@pytest.fixture
def source(site):
    return address(site, "/zips/test2017.zip")


def address(site, path):
    digest = hashlib.sha256(site.files[path]).hexdigest()
    return f"{site.url}{path}#sha256={digest}"


def contents(lots):
    return [e.read() for lot in lots for e in collection.entries(lot.file, lot.members)]


# --- the draw itself ------------------------------------------------------------------------------


def test_a_draw_is_seeded_keeps_the_order_and_repeats_nothing():
    drawn = draw(range(1000), 100, seed=1)
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 100
    assert drawn == draw(range(1000), 100, seed=1)
    assert drawn != draw(range(1000), 100, seed=2)


def test_a_draw_stays_the_same_from_one_version_to_the_next():
    assert draw("abcdefghij", 3, seed=0) == ["b", "h", "i"]


def test_a_larger_draw_contains_every_smaller_one():
    draws = [set(draw(range(50), count, seed=3)) for count in range(1, 60)]
    assert all(small <= large for small, large in itertools.pairwise(draws))
    assert draws[-1] == set(range(50))


# --- all ------------------------------------------------------------------------------------------


def test_all_takes_every_source_as_it_is(root, raw):
    (root / "mine").mkdir()
    for name in ("b.jpg", "a.jpg", "notes.txt"):
        (root / "mine" / name).write_bytes(name.encode())
    (root / "more.zip").write_bytes(zipped({"c.jpg": b"c"}))
    lots = select(["mine", "more.zip"], raw, count="all", seed=0)
    assert [lot.members for lot in lots] == [None] * 4
    assert contents(lots) == [b"a.jpg", b"b.jpg", b"c"]


def test_all_of_a_zip_on_a_server_is_the_zip(source, raw):
    (lot,) = select([source], raw, count="all", seed=0)
    assert zipfile.is_zipfile(lot.file)
    assert contents([lot]) == list(PHOTOS.values())


# --- some -----------------------------------------------------------------------------------------


def test_a_draw_reaches_over_all_sources(root, raw):
    (root / "mine").mkdir()
    for number in range(5):
        (root / "mine" / f"{number}.jpg").write_bytes(b"mine %d" % number)
    (root / "more.zip").write_bytes(zipped({f"{n}.jpg": b"more %d" % n for n in range(5)}))
    every = [b"mine %d" % n for n in range(5)] + [b"more %d" % n for n in range(5)]
    for count in (1, 4, 9):
        lots = select(["mine", "more.zip"], raw, count=count, seed=7)
        assert contents(lots) == draw(every, count, seed=7)
    assert contents(select(["mine", "more.zip"], raw, count=99, seed=7)) == every


def test_of_a_zip_on_a_server_only_what_was_drawn_is_transferred(source, raw, site):
    lots = select([source], raw, count=6, seed=1)
    assert contents(lots) == draw(list(PHOTOS.values()), 6, seed=1)
    assert not list(raw.rglob("*.zip"))
    whole = len(site.files["/zips/test2017.zip"])
    assert site.sent < 6 * 81_000 + 66_000 < whole / 5  # the photographs, and the directory


def test_the_same_draw_from_the_whole_zip_is_the_same_photographs(source, raw, root, site):
    (root / "test2017.zip").write_bytes(site.files["/zips/test2017.zip"])
    far = select([source], raw, count=9, seed=4)
    near = select(["test2017.zip"], raw, count=9, seed=4)
    assert len(far) == 9
    assert len(near) == 1
    assert contents(far) == contents(near)


def test_asking_for_more_later_transfers_only_what_is_missing(source, raw, site):
    select([source], raw, count=6, seed=1)
    before = site.sent
    select([source], raw, count=6, seed=1)
    assert site.sent - before < 1000  # whether the zip is still the same
    before = site.sent
    select([source], raw, count=9, seed=1)
    assert 3 * 80_000 < site.sent - before < 3 * 81_000 + 1000


def test_a_draw_of_most_of_a_zip_takes_the_zip(source, raw):
    (lot,) = select([source], raw, count=40, seed=1)
    assert zipfile.is_zipfile(lot.file)
    assert len(lot.members) == 40
    assert contents([lot]) == draw(list(PHOTOS.values()), 40, seed=1)


def test_a_server_without_ranges_gives_the_whole_zip(source, raw, site):
    site.ignores_range = True
    (lot,) = select([source], raw, count=6, seed=1)
    assert contents([lot]) == draw(list(PHOTOS.values()), 6, seed=1)


def test_the_zip_is_drawn_from_where_it_is_already(source, raw, site):
    select([source], raw, count="all", seed=1)
    asked = len(site.asked)
    lots = select([source], raw, count=6, seed=1)
    assert contents(lots) == draw(list(PHOTOS.values()), 6, seed=1)
    assert len(site.asked) == asked


def test_a_mirror_on_the_web_is_asked_first(source, raw, monkeypatch, site):
    name = sources.find(source).name
    with serving(files={f"/{name}": site.files["/zips/test2017.zip"]}) as mirror:
        monkeypatch.setenv("FNST_MIRROR", mirror.url)
        lots = select([source], raw, count=6, seed=1)
    assert contents(lots) == draw(list(PHOTOS.values()), 6, seed=1)
    assert [lot.file.name for lot in lots] == [
        Path(name).name for name in draw(sorted(PHOTOS), 6, seed=1)
    ]
    assert site.asked == []


def test_a_zip_of_another_size_than_the_catalogue_has_is_not_drawn_from(raw, monkeypatch, root):
    with serving(files={"/coco/test2017.zip": zipped(PHOTOS)}) as mirror:
        monkeypatch.setenv("FNST_MIRROR", mirror.url)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")  # the real servers are out of reach
        monkeypatch.setattr(web, "BACKOFF", 0.0)
        with pytest.raises(AssetError, match=r"it offers \d+ bytes where 6646970404 are expected"):
            select(["coco-2017-test"], raw, count=6, seed=1)
    assert not list(raw.rglob("*.jpg"))


def test_a_disk_that_cannot_be_written_is_one_sentence(source, raw, monkeypatch):
    raw.mkdir()
    (raw / sources.find(source).name.split("/")[0]).write_bytes(b"in the way of a folder")
    with pytest.raises(AssetError, match=r"photographs of .*test2017\.zip cannot be put into"):
        select([source], raw, count=6, seed=1)


def test_the_next_server_is_asked_when_one_does_not_answer(source, raw, site, monkeypatch):
    monkeypatch.setenv("FNST_MIRROR", f"{site.url}/nothing/here")
    assert len(select([source], raw, count=6, seed=1)) == 6


def test_when_no_server_answers_each_is_told(source, raw, site):
    site.files.clear()
    with pytest.raises(AssetError, match=r"test2017\.zip could not be had in part \(.*404.*FNST_M"):
        select([source], raw, count=6, seed=1)


def test_progress_tells_of_a_long_listing_by_itself(source, raw, monkeypatch):
    monkeypatch.setattr(remote_zip, "TAIL", 100)
    told = []
    select([source], raw, count=6, seed=1, progress=lambda *event: told.append(event))
    name = sources.find(source).name
    assert [each for each, *_ in itertools.groupby(told, key=lambda event: event[0])] == [
        f"listing of {name}",
        name,
    ]


def test_progress_tells_the_bytes_of_what_was_drawn(source, raw):
    told = []
    select([source], raw, count=6, seed=1, progress=lambda *event: told.append(event))
    name, done, total = told[-1]
    assert name.endswith("test2017.zip")
    assert done == total
    assert 6 * 80_000 < total < 6 * 81_000


def test_a_zip_of_pictures_may_hold_other_things(root, raw):
    with_notes = {**PHOTOS, "test2017/readme.txt": b"", "a/thumbs.db": b""}
    with serving(files={"/x.zip": zipped(with_notes)}) as site:
        lots = select([address(site, "/x.zip")], raw, count=6, seed=1)
    assert contents(lots) == draw(list(PHOTOS.values()), 6, seed=1)


def test_where_parts_lie_is_known_beforehand(source, raw):
    lots = select([source], raw, count=6, seed=1)
    parts = selection.parts_of(sources.find(source), raw)
    assert all(parts in lot.file.parents for lot in lots)
