"""Files appear whole or not at all."""

import hashlib
import json
import math
import os
import stat

import pytest

from fnst import files


def full_disk(*_):
    raise OSError(28, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path):
    files.write(tmp_path / "new" / "folder" / "a.bin", b"\0\1\2")
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"\0\1\2"
    assert names(tmp_path / "new" / "folder") == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_in_the_middle_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    files.write(path, b"old")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (type(path), "replace")), full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.txt"]


def test_the_bytes_are_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, b"old")
    seen = []
    sync = os.fsync

    def watched(handle):
        sync(handle)
        seen.append((path.read_bytes(), os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", watched)
    files.write(path, b"newer")
    assert seen == [(b"old", len(b"newer"))]
    assert path.read_bytes() == b"newer"


def test_files_get_the_permissions_that_the_user_wants(tmp_path):
    before = os.umask(0o027)
    try:
        files.write(tmp_path / "a.txt", b"")
        assert os.umask(0o027) == 0o027  # writing leaves it as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json_comes_back_as_it_was(tmp_path):
    value = {"name": "Große Welle", "numbers": [1, 2.5, None], "nested": {"yes": True}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "Große" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_rows_come_back_to_six_digits(tmp_path):
    files.write_rows(tmp_path / "a.csv", [{"step": 1, "loss": 1 / 3}, {"step": 2, "loss": 1e-9}])
    assert (tmp_path / "a.csv").read_text().split() == ["step,loss", "1,0.333333", "2,1e-09"]
    assert files.read_numbers(tmp_path / "a.csv") == [
        {"step": 1.0, "loss": 0.333333},
        {"step": 2.0, "loss": 1e-9},
    ]


def test_no_rows_are_read_back_as_none(tmp_path):
    files.write_rows(tmp_path / "a.csv", [])
    assert files.read_numbers(tmp_path / "a.csv") == []


def test_the_hash_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_names_of_files_that_are_no_unicode_come_back_as_they_were(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_json(tmp_path / "a.json", {"name": name, "other": "café"})
    assert files.read_json(tmp_path / "a.json") == {"name": name, "other": "café"}
    assert "café" in (tmp_path / "a.json").read_text(errors="replace")
    files.write_rows(tmp_path / "a.csv", [{"name": name, "other": "café"}])
    assert files.read_rows(tmp_path / "a.csv") == [{"name": name, "other": "café"}]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (6_646_970_404, "6.65 GB"),
        (81_558_533, "81.6 MB"),
        (791_555, "792 kB"),
        (7, "7 bytes"),
        (2 * 10**15, "2,000,000 GB"),
    ],
)
def test_bytes_are_said_as_people_read_them(count, said):
    assert files.readable(count) == said
    assert files.readable(0) == "nothing"


def test_a_copy_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="missing"):
        files.copy(tmp_path / "missing", tmp_path / "copy")
    (tmp_path / "a").write_bytes(b"content")
    assert files.copy(tmp_path / "a", tmp_path / "copy").read_bytes() == b"content"

    class FullError(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:

        def fill(source, target):
            target.write_bytes(b"cont")
            raise FullError

        patch.setattr(files.shutil, "copyfile", fill)
        with pytest.raises(FullError):
            files.copy(tmp_path / "a", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "copy"]


def test_json_for_other_programs_knows_no_nan():
    told = {"a": [1.5, math.nan, (math.inf,)], "b": {"c": -math.inf, "d": "nan"}}
    assert json.loads(files.as_json(told)) == {
        "a": [1.5, None, [None]],
        "b": {"c": None, "d": "nan"},
    }
