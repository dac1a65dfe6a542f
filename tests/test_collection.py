"""Photographs are found in files and zips, by name, without decoding or unpacking anything."""

import os
import zipfile
import zlib

import pytest

from fnst.collection import entries, is_picture, is_zip, names
from fnst.errors import ImageError


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name in ("b/2.jpg", "b/1.JPG", "a.png", "readme.txt", "__MACOSX/b/._1.jpg"):
            target.writestr(name, name.encode())
        target.mkdir("empty.jpg")
    return path


def test_a_zip_holds_its_pictures_in_the_order_of_their_names(archive):
    assert names(archive) == ["a.png", "b/1.JPG", "b/2.jpg"]
    found = entries(archive)
    assert [entry.name for entry in found] == [f"photos.zip/{name}" for name in names(archive)]
    assert [entry.read() for entry in found] == [b"a.png", b"b/1.JPG", b"b/2.jpg"]


def test_some_members_are_taken_in_the_order_of_their_names(archive):
    assert [entry.read() for entry in entries(archive, ["b/2.jpg", "a.png"])] == [
        b"a.png",
        b"b/2.jpg",
    ]
    assert entries(archive, []) == []


def test_a_member_that_is_missing_is_named(archive):
    with pytest.raises(ImageError, match=r"photos\.zip: expected b/3\.jpg in it"):
        entries(archive, ["b/3.jpg"])


def test_a_picture_is_its_own_entry_and_other_files_are_none(tmp_path):
    for name in ("a.JPEG", "notes.txt", "noending"):
        (tmp_path / name).write_bytes(name.encode())
    (photo,) = entries(tmp_path / "a.JPEG")
    assert (photo.name, photo.read()) == ("a.JPEG", b"a.JPEG")
    assert names(tmp_path / "a.JPEG") == ["a.JPEG"]
    assert entries(tmp_path / "notes.txt") == names(tmp_path / "noending") == []


def test_size_and_mark_change_with_the_bytes_of_a_file(tmp_path):
    path = tmp_path / "a.jpg"

    def seen(content, time):
        path.write_bytes(content)
        os.utime(path, ns=(time, time))
        (entry,) = entries(path)
        return entry.size, entry.mark

    assert seen(b"one", 1) == seen(b"one", 1)
    assert len({seen(b"one", 1), seen(b"one", 2), seen(b"longer", 1)}) == 3


def test_size_and_mark_change_with_the_bytes_of_a_member_and_not_with_its_zip(tmp_path):
    def seen(place, content):
        with zipfile.ZipFile(tmp_path / place, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("a.jpg", content)
        (entry,) = entries(tmp_path / place)
        return entry.size, entry.mark

    assert seen("one.zip", b"same") == seen("two.zip", b"same")
    assert len({seen("a.zip", b"same"), seen("b.zip", b"othr"), seen("c.zip", b"longer")}) == 3


def test_the_crc_is_known_beforehand_where_reading_makes_sure_of_it(archive, tmp_path):
    for entry in entries(archive):
        assert entry.crc32 == zlib.crc32(entry.read())
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert [entry.crc32 for entry in entries(tmp_path / "a.jpg")] == [None]
    content = bytearray(archive.read_bytes())
    content[content.index(b"a.pnga.png") + 5] ^= 1  # behind its name
    archive.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        entries(archive)[0].read()


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip_is_named(tmp_path, content):
    (tmp_path / "photos.zip").write_bytes(content)
    for ask in (names, entries):
        with pytest.raises(ImageError, match=r"photos\.zip: expected a zip of photographs, but"):
            ask(tmp_path / "photos.zip")


def test_endings_count_in_any_case():
    assert is_zip("a.ZIP")
    assert is_picture("x/a.TiFF")
    assert not is_picture("a.jpg.txt")
    assert not is_picture("jpg")
