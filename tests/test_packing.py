"""Photographs are decoded once: the set holds what it should, says what it left out, goes on."""

import errno
import io
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from fnst import collection, files, images, packing
from fnst.collection import Entry
from fnst.errors import ImageError
from fnst.packing import Report, pack


def encoded(image, ending="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, ending, **options)
    return buffer.getvalue()


def png(colour, size=(96, 96)):
    return encoded(Pillow.new("RGB", size, colour))


def grey(value):
    return png((value, value, value))


def entry(name, content):
    return Entry(name, len(content), str(hash(content)), lambda: content)


def greys(count):
    """Photographs of one grey each, which says which it is."""
    return [entry(f"{i:02}.png", grey(i)) for i in range(count)]


def decoding(found, counted):
    """The same photographs; which of them are read is added to ``counted``."""

    def spied(one):
        return replace(one, read=lambda: counted.append(one.name) or one.read())

    return [spied(one) for one in found]


def holding(*contents):
    """What a set reports that holds these photographs."""
    report = Report()
    for content in contents:
        crc = f"{zlib.crc32(content):08x}"
        report.add(entry("held out", content), size=len(content), crc32=crc)
    return report


def held(folder):
    """Every file of a set, by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def pixels(folder):
    shards = files.read_json(folder / "set.json")["shards"]
    return np.concatenate([np.load(folder / name, allow_pickle=False) for name in shards])


def colours(folder):
    return pixels(folder)[:, 0, 0, 0].tolist()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "packed" / "train"


@pytest.fixture
def fours(monkeypatch):
    """Shards of four photographs."""
    monkeypatch.setattr(packing, "SHARD", 4)


# --- what a set is --------------------------------------------------------------------------------


def test_a_set_is_plain_numpy_files_of_squares_and_says_what_they_hold(target, fours):
    report = pack(greys(6), target, size=32)
    assert sorted(held(target)) == [
        "00000.json",
        "00000.npy",
        "00001.json",
        "00001.npy",
        "set.json",
    ]
    assert files.read_json(target / "set.json") == {
        "size": 32,
        "photographs": 6,
        "shards": {"00000.npy": 4, "00001.npy": 2},
        "smaller": {},
    }
    last = np.load(target / "00001.npy", allow_pickle=False)
    assert (last.shape, last.dtype) == ((2, 32, 32, 3), np.uint8)
    assert (last[1] == 5).all()
    assert colours(target) == [0, 1, 2, 3, 4, 5]
    assert [photo["name"] for photo in report.kept] == [f"{i:02}.png" for i in range(6)]
    notes = [files.read_json(target / f"0000{i}.json") for i in range(2)]
    assert [photo for part in notes for photo in part["photographs"]] == report.kept


def test_a_set_takes_the_disk_that_was_foretold_and_its_headers(target):
    pack(greys(5), target, size=32)
    header = 128  # numpy pads to 64 bytes, and the shape's room for growth needs more than one
    assert (target / "00000.npy").stat().st_size == packing.needed(5, 32) + header
    assert packing.needed(118_287, 288) == 118_287 * 288 * 288 * 3


def test_photographs_are_told_by_their_size_and_crc_alone_or_in_a_zip(tmp_path, target):
    (tmp_path / "a.png").write_bytes(grey(10))
    zipped(tmp_path / "b.zip", {"b.png": grey(11)}, zipfile.ZIP_DEFLATED)
    found = [one for name in ("a.png", "b.zip") for one in collection.entries(tmp_path / name)]
    assert pack(found, target, size=32).kept == [
        {"name": "a.png", "size": len(grey(10)), "crc32": f"{zlib.crc32(grey(10)):08x}"},
        {"name": "b.zip/b.png", "size": len(grey(11)), "crc32": f"{zlib.crc32(grey(11)):08x}"},
    ]


def test_a_set_says_which_photographs_came_smaller_than_they_are_kept(target, fours):
    small = [entry("small.png", png((9, 9, 9), (70, 300))), entry("x.png", b"x")]
    found = [*greys(4), *small, entry("last.png", png((8, 8, 8), (80, 64)))]
    report = pack(found, target, size=96)
    assert files.read_json(target / "set.json")["smaller"] == {"4": 70, "5": 64}
    known_by = [{*photo} for photo in report.as_json()["kept"]]
    assert known_by == 6 * [{"name", "size", "crc32"}]
    before = held(target)
    (target / "set.json").unlink()
    pack(found, target, size=96)
    assert held(target) == before


def test_photographs_are_packed_upright(target):
    exif = Pillow.Exif()
    exif[0x0112] = 3  # upside down
    image = Pillow.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 64, 32))
    pack([entry("a.png", encoded(image, exif=exif))], target, size=64)
    (square,) = pixels(target)
    assert (square[:32] == 0).all()
    assert (square[32:] == 255).all()


@pytest.mark.parametrize("without", [[], [holding(grey(3))]], ids=["all", "without"])
def test_the_files_do_not_depend_on_the_number_of_workers(tmp_path, monkeypatch, fours, without):
    found = [entry(f"{i}.png", grey(i % 13)) for i in range(30)] + [entry("x.png", b"x")]
    made = []
    for workers in (1, 5):
        monkeypatch.setattr(packing, "_workers", lambda workers=workers: workers)
        report = pack(found, tmp_path / str(workers), size=32, without=without)
        made.append((held(tmp_path / str(workers)), report))
    assert made[0] == made[1]
    assert len(report.kept) == 13 - len(without)


def test_progress_counts_every_photograph_that_was_looked_at(target, fours):
    told = []
    found = [*greys(5), entry("b.png", b"")]
    pack(found, target, size=32, progress=told.append)
    assert told == sorted(told)
    assert set(told) >= set(range(1, 7))
    again = []
    pack(found, target, size=32, progress=again.append)
    assert again[-1] == 6


def test_memory_does_not_grow_with_the_set(target, monkeypatch):
    """No more photographs are read than a few ahead of the one that is written."""
    monkeypatch.setattr(packing, "_workers", lambda: 2)
    read, ahead = [], []

    def slow(done):
        time.sleep(0.005)  # the workers would get far in this time
        ahead.append(len(read) - done)

    pack(decoding(greys(60), read), target, size=32, progress=slow)
    assert max(ahead) <= 2 * packing.AHEAD + 1


# --- what is left out -----------------------------------------------------------------------------


def test_what_cannot_be_used_is_left_out_with_its_reason(target, tmp_path):
    found = [
        entry("good.png", grey(10)),
        entry("broken.jpg", b"Dear diary"),
        entry("truncated.png", grey(11)[:-30]),
        entry("small.png", png((1, 2, 3), (500, 63))),
        entry("again.png", grey(10)),
        entry("held-out.png", grey(12)),
        entry("last.png", grey(13)),
        Entry("gone.png", 1, "0", (tmp_path / "gone.png").read_bytes),
        Entry("endless.png", packing.MOST_BYTES + 1, "0", lambda: pytest.fail("it was read")),
    ]
    report = pack(found, target, size=32, without=[holding(grey(12))])
    assert [photo["name"] for photo in report.kept] == ["good.png", "last.png"]
    assert colours(target) == [10, 13]
    reasons = {photo["name"]: photo["reason"] for photo in report.left_out}
    assert list(reasons) == [one.name for one in found if one.name not in ("good.png", "last.png")]
    assert "not a picture" in reasons["broken.jpg"]
    assert "damaged" in reasons["truncated.png"]
    assert reasons["small.png"] == "it is 500x63, smaller than 64 pixels"
    assert reasons["again.png"] == "it is the same file as good.png"
    assert reasons["held-out.png"] == "it is held out for evaluation"
    assert "cannot be read" in reasons["gone.png"]
    assert reasons["endless.png"] == "it has 1 GB, more than any photograph"


def test_a_duplicate_is_found_in_another_shard_too_and_after_an_interrupt(target, fours):
    found = [*greys(4), *greys(2), entry("new.png", grey(9))]
    pack(found[:4], target, size=32)
    report = pack(found, target, size=32)
    assert [photo["reason"] for photo in report.left_out] == [
        "it is the same file as 00.png",
        "it is the same file as 01.png",
    ]
    assert colours(target) == [0, 1, 2, 3, 9]


def test_photographs_held_out_are_found_by_their_bytes_whatever_they_are_called(tmp_path, target):
    path = zipped(tmp_path / "a.zip", {"a.png": grey(1), "b.png": grey(2)})
    held_out = pack(collection.entries(path, ["b.png"]), tmp_path / "held out", size=32)
    report = pack([entry("c.png", grey(2)), *greys(2)], target, size=32, without=[held_out])
    assert report.left_out == [{"name": "c.png", "reason": "it is held out for evaluation"}]
    assert colours(target) == [0, 1]


def test_a_photograph_that_is_given_twice_is_packed_once(target):
    one = entry("a.png", grey(1))
    report = pack([one, one], target, size=32)
    assert [photo["reason"] for photo in report.left_out] == ["it is the same file as a.png"]


def test_no_photograph_is_read_twice_but_those_that_may_be_the_same(target, fours):
    read = []
    pack(decoding([*greys(9), entry("again.png", grey(5))], read), target, size=32)
    twice = ["05.png", "again.png"]
    assert sorted(read) == sorted([*(one.name for one in greys(9)), "again.png", *twice])


def test_sixty_four_pixels_are_enough(target):
    assert len(pack([entry("a.png", png((1, 2, 3), (64, 64)))], target, size=128).kept) == 1
    assert pixels(target).shape == (1, 128, 128, 3)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ([], "found none"),
        (
            [entry("a.png", b"x"), entry("b.png", b"y")],
            r"all 2 were left out; the first, a\.png, because: ",
        ),
    ],
    ids=["nothing", "none usable"],
)
def test_an_empty_set_is_refused_and_leaves_nothing(target, found, sentence):
    with pytest.raises(ImageError, match=sentence):
        pack(found, target, size=32)
    assert held(target) == {}


def test_a_shard_of_which_nothing_is_left_is_no_end(target, fours):
    report = pack([*(entry(f"{i}", b"x") for i in range(4)), *greys(1)], target, size=32)
    assert (len(report.kept), len(report.left_out)) == (1, 4)
    assert files.read_json(target / "set.json")["shards"] == {"00000.npy": 0, "00001.npy": 1}
    assert colours(target) == [0]
    assert pack([*(entry(f"{i}", b"x") for i in range(4)), *greys(1)], target, size=32) == report


def test_names_that_are_no_unicode_are_told_as_they_can_be(target):
    name = os.fsdecode(b"caf\xe9.png")
    report = pack([entry(name, grey(1)), entry(name, b"x")], target, size=32)
    assert report.kept[0]["name"] == "caf\\udce9.png"
    assert report.left_out[0]["name"] == "caf\\udce9.png"
    assert pack([entry(name, grey(1)), entry(name, b"x")], target, size=32) == report


# --- zips -----------------------------------------------------------------------------------------


def zipped(path, contents, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def test_a_zip_is_read_by_many_at_once_without_being_unpacked(tmp_path, target, monkeypatch):
    monkeypatch.setattr(packing, "_workers", lambda: 8)
    path = zipped(tmp_path / "a.zip", {f"{i:03}.png": grey(i) for i in range(200)})
    assert len(pack(collection.entries(path), target, size=32).kept) == 200
    assert colours(target) == list(range(200))
    assert {path.name for path in tmp_path.iterdir()} == {"a.zip", "packed"}


@pytest.mark.parametrize(
    ("method", "at"), [(zipfile.ZIP_STORED, 60), (zipfile.ZIP_DEFLATED, 35)], ids=["crc", "deflate"]
)
def test_a_damaged_member_is_left_out(tmp_path, target, method, at):
    path = zipped(tmp_path / "a.zip", {"a.png": grey(1), "b.png": grey(2)}, method)
    content = bytearray(path.read_bytes())
    content[at] ^= 255  # inside a.png
    path.write_bytes(content)
    report = pack(collection.entries(path), target, size=32)
    assert [photo["name"] for photo in report.left_out] == ["a.zip/a.png"]
    assert "cannot be read" in report.left_out[0]["reason"]
    assert len(report.kept) == 1


# --- going on -------------------------------------------------------------------------------------


def stop_after(number):
    def progress(done):
        if done == number:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_work_goes_on_at_the_next_shard(tmp_path, target, fours):
    pack(greys(12), tmp_path / "at once", size=32)
    with pytest.raises(KeyboardInterrupt):
        pack(greys(12), target, size=32, progress=stop_after(10))
    assert sorted(held(target)) == ["00000.json", "00000.npy", "00001.json", "00001.npy"]
    read = []
    pack(decoding(greys(12), read), target, size=32)
    assert sorted(read) == ["08.png", "09.png", "10.png", "11.png"]
    assert held(target) == held(tmp_path / "at once")


KILLED = """
import sys, time
from pathlib import Path
from fnst import collection, packing
packing.SHARD = 4
found = [e for p in sorted(Path(sys.argv[1]).iterdir()) for e in collection.entries(p)]
def progress(done):
    if done == 10:
        print("ten", flush=True)
        time.sleep(60)
packing.pack(found, Path(sys.argv[2]), size=32, progress=progress)
"""


def test_what_was_killed_goes_on_at_the_next_shard(tmp_path, target, fours):
    (tmp_path / "photos").mkdir()
    for i in range(12):
        (tmp_path / "photos" / f"{i:02}.png").write_bytes(grey(i))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "photos"), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ten\n"
        while not (target / "00001.json").exists():  # the second shard is brought to the disk
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert ".00002.npy.partial" in held(target)
    assert "set.json" not in held(target)
    paths = sorted((tmp_path / "photos").iterdir())
    found, read = [e for path in paths for e in collection.entries(path)], []
    pack(decoding(found, read), target, size=32)
    assert len(read) == 4
    pack(found, tmp_path / "at once", size=32)
    assert held(target) == held(tmp_path / "at once")


def test_a_complete_set_is_used_again_untouched(target, fours):
    first = pack(greys(6), target, size=32)
    before = {path: path.stat().st_mtime_ns for path in target.iterdir()}
    read = []
    assert pack(decoding(greys(6), read), target, size=32) == first
    assert read == []
    assert {path: path.stat().st_mtime_ns for path in target.iterdir()} == before


def another_name(found):
    return [replace(found[0], name="another.png"), *found[1:]], {}


def another_mark(found):
    return [replace(found[0], mark="another"), *found[1:]], {}


def another_size(found):
    return found, {"size": 33}


def another_without(found):
    return found, {"without": [holding(grey(200))]}


@pytest.mark.parametrize("change", [another_name, another_mark, another_size, another_without])
def test_whatever_changes_a_photograph_changes_all_from_there(target, fours, change):
    pack(greys(8), target, size=32)
    read = []
    found, options = change(greys(8))
    pack(decoding(found, read), target, **{"size": 32} | options)
    assert len(read) == 8


def test_what_comes_before_a_change_is_used_again(target, fours):
    pack(greys(8), target, size=32)
    read = []
    found = greys(8)
    found[5] = entry("05.png", grey(99))
    pack(decoding(found, read), target, size=32)
    assert sorted(read) == ["04.png", "05.png", "06.png", "07.png"]
    assert colours(target) == [0, 1, 2, 3, 4, 99, 6, 7]


@pytest.mark.parametrize("which", [0, 1, 2, 3], ids=["packing", "colours", "images", "twins"])
def test_another_program_makes_everything_anew(target, fours, tmp_path, monkeypatch, which):
    pack(greys(8), target, size=32)
    changed = tmp_path / "changed.py"
    changed.write_bytes(packing.CODE[which].read_bytes() + b"\n")
    code = list(packing.CODE)
    code[which] = changed
    monkeypatch.setattr(packing, "CODE", tuple(code))
    read = []
    pack(decoding(greys(8), read), target, size=32)
    assert len(read) == 8


def test_the_program_is_what_decides_what_is_kept_and_how_it_becomes_a_square():
    assert [path.name for path in packing.CODE] == [
        "packing.py",
        "colours.py",
        "images.py",
        "twins.py",
    ]


def test_another_pillow_makes_everything_anew(target, fours, monkeypatch):
    pack(greys(4), target, size=32)
    monkeypatch.setattr(packing.PIL, "__version__", "0.0")
    read = []
    pack(decoding(greys(4), read), target, size=32)
    assert len(read) == 4


@pytest.mark.parametrize("damage", ["missing", "short", "text", "unnoted"])
def test_a_damaged_shard_is_made_again(tmp_path, target, fours, damage):
    pack(greys(8), target, size=32)
    before = held(target)
    path = target / "00001.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "text":
        path.write_bytes(b"Dear diary")
    else:
        (target / "00001.json").write_text("[]")
    read = []
    pack(decoding(greys(8), read), target, size=32)
    assert sorted(read) == ["04.png", "05.png", "06.png", "07.png"]
    assert held(target) == before


def test_what_is_not_wanted_any_more_is_removed_and_nothing_else(tmp_path, target, fours):
    pack(greys(12), target, size=32)
    for name in (".00007.npy.partial", ".set.json.abc123", "00009.npy", "mine.txt", "12.npy"):
        (target / name).write_bytes(b"x")
    pack(greys(4), target, size=32)
    pack(greys(4), tmp_path / "fresh", size=32)
    assert held(target) == held(tmp_path / "fresh") | {"mine.txt": b"x", "12.npy": b"x"}


def test_a_set_counts_as_none_while_anything_is_written(target, fours):
    pack(greys(8), target, size=32)
    seen = []
    pack(
        greys(9), target, size=32, progress=lambda done: seen.append((target / "set.json").exists())
    )
    assert not any(seen)
    assert (target / "set.json").exists()


def test_too_small_a_disk_is_told_before_anything_is_lost(target):
    pack(greys(3), target, size=32)
    before = held(target)
    with pytest.raises(
        ImageError,
        match=r"^the packed set needs 900,000 GB, and \S+ GB are free in .*; free some, or "
        r"set photos\.size, held_out_size or train_count lower\.$",
    ):
        pack(greys(3), target, size=10_000_000)
    assert held(target) == before


def test_a_disk_that_fails_behind_the_work_is_told_and_its_shard_never_appears(
    target, fours, monkeypatch
):
    monkeypatch.setattr(packing, "SYNC", 2)
    synced, fsync = [], os.fsync

    def failing(handle):
        synced.append(os.fstat(handle).st_size)
        if len(synced) == 2:  # such an error is told once, and the next one succeeds
            raise OSError(errno.EIO, "Input/output error")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(ImageError, match=r"cannot be written: Input/output error\.$"):
        pack(greys(4), target, size=64)
    assert synced[0] >= packing.needed(2, 64) - 2 * io.DEFAULT_BUFFER_SIZE
    assert [name for name in held(target) if not name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match=r"the packed set cannot be written: "):
        pack(greys(1), tmp_path / "file" / "set", size=32)


# --- hostile photographs --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(asset):
    """A photograph as JPEG, as PNG, and in what else people have."""
    rocket, chelsea = asset("sample-rocket").read_bytes(), asset("sample-chelsea").read_bytes()
    with Pillow.open(io.BytesIO(rocket)) as image:
        small = image.resize((160, 120))
    grey16 = Pillow.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    frames = [small, small.rotate(180)]
    exif = Pillow.Exif()
    exif[0x0112] = 6
    return {
        "rocket.jpg": rocket,
        "chelsea.png": chelsea,
        "turned.jpg": encoded(small, "JPEG", exif=exif),
        "progressive.jpg": encoded(small, "JPEG", progressive=True),
        "cmyk.jpg": encoded(small.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(small.convert("L"), "JPEG"),
        "deflate.tif": encoded(small, "TIFF", compression="tiff_adobe_deflate"),
        "lzw.tif": encoded(small, "TIFF", compression="tiff_lzw"),
        "plain.tif": encoded(small, "TIFF"),
        "cmyk.tif": encoded(small.convert("CMYK"), "TIFF"),
        "sixteen.png": encoded(grey16),
        "palette.png": encoded(small.quantize(32)),
        "lossy.webp": encoded(small, "WEBP"),
        "animated.webp": encoded(small, "WEBP", save_all=True, append_images=frames[1:]),
        "animated.gif": encoded(small, "GIF", save_all=True, append_images=frames[1:]),
        "small.bmp": encoded(small, "BMP"),
    }


def bomb(side):
    """A few kilobytes that promise a picture of that side."""
    content = bytearray(encoded(Pillow.new("L", (64, 64))))
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_everything_that_people_have_is_packed(target, real):
    found = [entry(name, content) for name, content in real.items()]
    report = pack(found, target, size=64)
    assert report.left_out == []
    assert [photo["name"] for photo in report.kept] == list(real)
    for content, square in zip(real.values(), pixels(target), strict=True):
        assert (square == images.load_square(content, 64)).all()


def test_the_first_frame_of_what_moves_is_packed(target):
    frames = [Pillow.new("RGB", (64, 64), (v, v, v)) for v in (0, 255)]
    found = [
        entry(f"a.{kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        for kind in ("gif", "webp")
    ]
    pack(found, target, size=64)
    assert pixels(target).max() < 10


def test_the_hostile_are_left_out_and_told(target):
    found = [
        entry("empty.jpg", b""),
        entry("one.png", png((1, 2, 3), (1, 1))),
        entry("thin.png", png((1, 2, 3), (20_000, 20))),
        entry("bomb.png", bomb(20_000)),
        entry("larger-bomb.png", bomb(60_000)),
        entry("hollow.png", bomb(9_000)),
        entry("program.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"),
        entry("wide.png", png((4, 4, 4), (20_000, 64))),
    ]
    report = pack(found, target, size=64)
    reasons = {photo["name"]: photo["reason"] for photo in report.left_out}
    assert colours(target) == [4]  # wide, but a photograph
    assert "not a picture" in reasons["empty.jpg"]
    assert reasons["one.png"] == "it is 1x1, smaller than 64 pixels"
    assert reasons["thin.png"] == "it is 20000x20, smaller than 64 pixels"
    assert "at most 250 megapixels" in reasons["bomb.png"]
    assert "at most 250 megapixels" in reasons["larger-bomb.png"]
    assert "damaged" in reasons["hollow.png"]
    assert "not a picture" in reasons["program.jpg"]


def flipped(content, dice):
    content = bytearray(content)
    for _ in range(dice.choice([1, 3, 30])):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    return bytes(content)


def cut(content, dice):
    return content[: dice.randrange(len(content))]


def spliced(content, dice):
    first, last = sorted(dice.randrange(len(content)) for _ in range(2))
    return content[:first] + content[last:]


def repeated(content, dice):
    first, last = sorted(dice.randrange(len(content)) for _ in range(2))
    return content[:last] + content[first:]


def in_the_header(content, dice):
    content = bytearray(content)
    for _ in range(dice.choice([1, 2, 5])):
        content[dice.randrange(min(300, len(content)))] = dice.choice([0, 1, 127, 255])
    return bytes(content)


def test_photographs_that_are_damaged_by_the_hundred_are_survived_and_counted(target, real):
    dice = random.Random(0)
    damages = (flipped, cut, spliced, repeated, in_the_header)
    found = [
        entry(f"{i:03}-{damage.__name__}", damage(original, dice))
        for i in range(12)
        for damage in damages
        for original in real.values()
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as escaped:
        warnings.simplefilter("always")
        report = pack(found, target, size=64)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert escaped == []
    assert len(found) == len(report.kept) + len(report.left_out) == 12 * 5 * len(real)
    assert {p["name"] for p in report.kept + report.left_out} == {one.name for one in found}
    assert len(report.left_out) > 200
    assert len(report.kept) > 100
    assert len(pixels(target)) == len(report.kept)
    assert all(photo["reason"] for photo in report.left_out)
    assert grown < 2_000_000  # KB: what one picture of 250 megapixels takes, and its conversion


def test_large_pictures_are_decoded_one_at_a_time(target, monkeypatch):
    """Of pictures that cannot be decoded reduced, so that eight take the memory of one."""
    monkeypatch.setattr(packing, "_workers", lambda: 8)
    monkeypatch.setattr(images, "LARGE_PIXELS", 100 * 100)
    at_once, most = [], []
    upright = images._upright

    def watched(image):
        at_once.append(image)
        most.append(len(at_once))
        time.sleep(0.01)
        try:
            return upright(image)
        finally:
            at_once.remove(image)

    monkeypatch.setattr(images, "_upright", watched)
    pack([entry(f"{i}.png", png((i, 0, 0), (120, 120))) for i in range(16)], target, size=64)
    assert max(most) == 1
    most.clear()
    pack([entry(f"{i}.png", png((i, 0, 0), (96, 96))) for i in range(16)], target, size=64)
    assert max(most) > 1


def test_large_files_are_read_one_at_a_time(target, monkeypatch):
    monkeypatch.setattr(packing, "_workers", lambda: 8)
    at_once, most = [], []

    def read(content):
        at_once.append(content)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.pop()
        return content

    def large(i):
        return Entry(f"{i}.png", packing.LARGE_BYTES + 1, str(i), lambda: read(grey(i)))

    pack([large(i) for i in range(16)], target, size=32)
    assert max(most) == 1


def test_packing_itself_does_not_need_torch():
    source = Path(packing.__file__).read_text()
    assert "torch" not in source
