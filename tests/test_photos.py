"""The packed set holds what it should and says what it left out; its batches are drawn, seeded."""

import io
import itertools
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch.testing import assert_close

from fnst import files, photos
from fnst.errors import ImageError, ParamsError
from fnst.photos import Photos, draw, entries, pack


def png(colour, size=(96, 96), **options):
    buffer = io.BytesIO()
    Pillow.new("RGB", size, colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def grey(value):
    return png((value, value, value))


@pytest.fixture
def folder(tmp_path):
    """Write files by name; the paths, in that order."""

    def write(contents):
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        return [tmp_path / name for name in contents]

    return write


@pytest.fixture
def target(tmp_path):
    return tmp_path / "packed" / "set.npy"


def packed(path, pixels):
    """A packed set made by hand."""
    np.save(path, np.asarray(pixels, np.uint8))
    return Photos(path)


def distinct(path, count, side=8):
    """Photographs of one colour each, which says which it is."""
    return packed(path, [np.full((side, side, 3), 10 * i) for i in range(count)])


# --- packing --------------------------------------------------------------------------------------


def test_a_set_is_a_plain_numpy_file_of_squares(folder, target):
    found = entries(folder({"a.png": grey(10), "b.jpg": grey(20)}))
    report = pack(found, target, size=32)
    pixels = np.load(target, allow_pickle=False)
    assert pixels.shape == (2, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels[0] == 10).all()
    assert (pixels[1] == 20).all()
    assert [photo["name"] for photo in report.kept] == ["a.png", "b.jpg"]
    assert [path.name for path in target.parent.iterdir()] == ["set.npy"]


def test_hashes_are_those_of_the_files(folder, target):
    (path,) = folder({"a.png": grey(10)})
    assert pack(entries([path]), target, size=32).hashes == {files.sha256(path)}


def test_what_cannot_be_used_is_left_out_with_its_reason(folder, target):
    paths = folder(
        {
            "good.png": grey(10),
            "broken.jpg": b"Dear diary",
            "truncated.png": grey(11)[:-30],
            "small.png": png((1, 2, 3), (500, 63)),
            "again.png": grey(10),
            "held-out.png": grey(12),
            "last.png": grey(13),
        }
    )
    gone = entries([target.parent.parent / "gone.png"])
    report = pack(entries(paths) + gone, target, size=32, without={files.sha256(paths[5])})
    assert [photo["name"] for photo in report.kept] == ["good.png", "last.png"]
    reasons = {photo["name"]: photo["reason"] for photo in report.left_out}
    assert list(reasons) == [
        "broken.jpg",
        "truncated.png",
        "small.png",
        "again.png",
        "held-out.png",
        "gone.png",
    ]
    assert "not a picture" in reasons["broken.jpg"]
    assert "damaged" in reasons["truncated.png"]
    assert reasons["small.png"] == "it is 500x63, smaller than 64 pixels"
    assert reasons["again.png"] == "it is the same file as good.png"
    assert reasons["held-out.png"] == "it is held out for evaluation"
    assert "cannot be read" in reasons["gone.png"]
    assert np.load(target)[:, 0, 0, 0].tolist() == [10, 13]


def test_sixty_four_pixels_are_enough(folder, target):
    report = pack(entries(folder({"a.png": png((1, 2, 3), (64, 64))})), target, size=128)
    assert len(report.kept) == 1
    assert np.load(target).shape == (1, 128, 128, 3)


def test_photographs_are_packed_upright(folder, target):
    exif = Pillow.Exif()
    exif[0x0112] = 3  # upside down
    image = Pillow.new("RGB", (64, 64))
    image.paste((255, 255, 255), (0, 0, 64, 32))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    pack(entries(folder({"a.png": buffer.getvalue()})), target, size=64)
    pixels = np.load(target)[0]
    assert (pixels[:32] == 0).all()
    assert (pixels[32:] == 255).all()


def test_the_result_does_not_depend_on_the_number_of_cores(folder, tmp_path, monkeypatch):
    paths = folder({f"{i}.png": grey(i % 40) for i in range(50)})
    made = []
    for cores in (1, 2, 7, None):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        path = tmp_path / f"{cores}.npy"
        report = pack(entries(paths), path, size=32)
        made.append((path.read_bytes(), report.kept, report.left_out))
    assert all(one == made[0] for one in made)
    assert len(made[0][1]) == 40


def test_progress_counts_every_photograph_that_was_looked_at(folder, target):
    told = []
    found = entries(folder({"a.png": grey(1), "b.png": b"", "c.png": grey(3)}))
    pack(found, target, size=32, progress=told.append)
    assert told == [1, 2, 3]


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({}, "found none"),
        ({"a.txt": b"x"}, "found none"),
        ({"a.png": b"x", "b.png": b"y"}, r"all 2 were left out; the first, a\.png, because: "),
    ],
    ids=["nothing", "no pictures", "none usable"],
)
def test_an_empty_set_is_refused_and_leaves_nothing(folder, target, contents, sentence):
    with pytest.raises(ImageError, match=sentence):
        pack(entries(folder(contents)), target, size=32)
    assert list(target.parent.iterdir()) == []


def test_a_set_appears_only_when_it_is_complete(folder, target):
    found = entries(folder({f"{i}.png": grey(i) for i in range(3)}))
    pack(found[:1], target, size=32)
    before = target.read_bytes()

    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(found, target, size=32, progress=stop)
    assert target.read_bytes() == before


# --- where photographs come from ------------------------------------------------------------------


def test_a_zip_is_read_without_being_unpacked(tmp_path, target):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("val/b.png", grey(2))
        archive.writestr("val/a.png", grey(1))
        archive.writestr("val/", b"")
        archive.writestr("readme.txt", b"hello")
        archive.writestr("__MACOSX/val/._a.png", b"no picture")
    found = entries([path])
    assert [entry.name for entry in found] == ["photos.zip/val/a.png", "photos.zip/val/b.png"]
    report = pack(found, target, size=32)
    assert len(report.kept) == 2
    assert np.load(target)[:, 0, 0, 0].tolist() == [1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"photos.zip", "packed"}


def test_a_damaged_member_of_a_zip_is_left_out(tmp_path, target):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", grey(1))
        archive.writestr("b.png", grey(2))
    content = bytearray(path.read_bytes())
    content[60] ^= 255  # inside a.png, which is stored as it is
    path.write_bytes(content)
    report = pack(entries([path]), target, size=32)
    assert [photo["name"] for photo in report.left_out] == ["photos.zip/a.png"]
    assert "cannot be read" in report.left_out[0]["reason"]


def test_a_member_that_does_not_inflate_is_left_out(tmp_path, target):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", grey(1))
        archive.writestr("b.png", grey(2))
    content = bytearray(path.read_bytes())
    content[35] ^= 255  # the first byte of a.png's deflate stream
    path.write_bytes(content)
    report = pack(entries([path]), target, size=32)
    assert [photo["name"] for photo in report.left_out] == ["photos.zip/a.png"]


def test_the_directory_of_a_zip_is_read_only_once(tmp_path, target, monkeypatch):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for value in range(5):
            archive.writestr(f"{value}.png", grey(value))
    found = entries([path])
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert len(pack(found, target, size=32).kept) == 5


def test_what_is_no_zip_is_named(folder):
    with pytest.raises(ImageError, match=r"photos\.zip: expected a zip of photographs"):
        entries(folder({"photos.zip": b"Sign in to download"}))


def test_endings_are_told_in_any_case_and_other_files_passed_over(folder):
    paths = folder({"b.JPG": b"", "a.PNG": b"", "notes.md": b"", "c.webp": b""})
    assert [entry.name for entry in entries(paths)] == ["b.JPG", "a.PNG", "c.webp"]


def test_a_draw_is_seeded_keeps_the_order_and_repeats_nothing(tmp_path):
    found = [photos.Entry(f"{i:03}", bytes) for i in range(100)]
    drawn = [entry.name for entry in draw(found, 10, 0)]
    assert drawn == [entry.name for entry in draw(found, 10, 0)]
    assert drawn != [entry.name for entry in draw(found, 10, 1)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 10


@pytest.mark.parametrize("count", [None, 3, 4])
def test_a_draw_of_all_or_more_is_all(count):
    found = [photos.Entry(str(i), bytes) for i in range(3)]
    assert draw(found, count, 0) == found


# --- batches --------------------------------------------------------------------------------------


def which(batch):
    """The photographs of a batch, told by their colour."""
    return (batch[:, 0, 0, 0] * 25.5).round().int().tolist()


def taken(opened, count, **wanted):
    options = {"batch_size": 2, "crop": 8, "crop_scale": 1.0, "seed": 0} | wanted
    return list(itertools.islice(opened.batches(**options), count))


def test_a_photograph_comes_out_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    opened = packed(tmp_path / "a.npy", pixels)
    assert len(opened) == 2
    assert_close(opened.whole(1), torch.from_numpy(pixels[1]).permute(2, 0, 1)[None] / 255.0)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7])
def test_every_photograph_comes_once_before_any_comes_again(tmp_path, batch_size):
    opened = distinct(tmp_path / "a.npy", 7)
    batches = taken(opened, 21, batch_size=batch_size, crop_scale=0.5)
    order = [number for batch in batches for number in which(batch)]
    epochs = [order[i : i + 7] for i in range(0, len(order) - 6, 7)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("start", [1, 3, 8])
def test_starting_later_is_skipping_batches(tmp_path, start):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3))
    opened = packed(tmp_path / "a.npy", pixels)
    all_of_them = taken(opened, start + 4, crop_scale=0.3)
    later = taken(Photos(tmp_path / "a.npy"), 4, crop_scale=0.3, start=start)
    assert torch.equal(torch.cat(all_of_them[start:]), torch.cat(later))


def test_two_streams_of_one_set_do_not_disturb_each_other(tmp_path):
    opened = distinct(tmp_path / "a.npy", 9)
    alone = [which(batch) for batch in taken(opened, 12)]
    options = {"batch_size": 2, "crop": 8, "crop_scale": 1.0}
    one, other = opened.batches(seed=0, **options), opened.batches(seed=1, start=3, **options)
    mixed = [(which(next(one)), which(next(other)))[0] for _ in range(12)]
    assert mixed == alone


def test_another_seed_is_another_order_and_other_crops(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3))
    opened = packed(tmp_path / "a.npy", pixels)
    assert torch.equal(taken(opened, 1)[0], taken(opened, 1)[0])
    assert not torch.equal(taken(opened, 1)[0], taken(opened, 1, seed=1)[0])
    plain = distinct(tmp_path / "b.npy", 20)
    first, other = (which(taken(plain, 1, batch_size=20, seed=seed)[0]) for seed in (0, 1))
    assert first != other


def ramp(path, side=64):
    """A photograph whose red says how far right, and whose green how far down, a pixel is."""
    across = np.broadcast_to(np.arange(side), (side, side))
    return packed(path, [np.stack([across, across.T, np.full((side, side), 200)], -1)])


def test_crops_have_every_side_and_place_that_they_may(tmp_path):
    """Log-uniform between a quarter and the whole: as many above as below one half."""
    opened = ramp(tmp_path / "a.npy")
    squares = torch.cat(taken(opened, 300, batch_size=1, crop=32, crop_scale=0.25))
    red, green = squares[:, 0] * 255, squares[:, 1] * 255
    sides = red.amax((1, 2)) - red.amin((1, 2)) + 1
    assert 15 <= sides.min() < 20
    assert 58 < sides.max() <= 64
    assert abs((sides < 32).float().mean() - 0.5) < 0.1
    small = sides < 32  # lies anywhere, up to every edge
    for colour in (red[small], green[small]):
        assert colour.amin() < 2
        assert colour.amax() > 61
    # Crops are squares: as far down as across, and blue, which is flat, stays what it was.
    assert_close(green.amax((1, 2)) - green.amin((1, 2)) + 1, sides, atol=1.5, rtol=0)
    assert_close(squares[:, 2], torch.full_like(squares[:, 2], 200 / 255))


def test_crops_of_the_whole_at_its_own_size_are_the_photograph_or_its_mirror_image(tmp_path):
    opened = ramp(tmp_path / "a.npy")
    squares = taken(opened, 100, batch_size=1, crop=64, crop_scale=1.0)
    flipped = [not torch.equal(square, opened.whole(0)) for square in squares]
    assert 30 < sum(flipped) < 70
    for square, mirrored in zip(squares, flipped, strict=True):
        if mirrored:
            assert torch.equal(square, opened.whole(0).flip(3))


def test_crops_stay_pictures_of_the_size_that_was_asked_for(tmp_path):
    pixels = np.random.default_rng(0).choice([0, 255], (3, 32, 32, 3))
    for crop in (8, 50):
        batch = taken(packed(tmp_path / "a.npy", pixels), 1, crop=crop, crop_scale=0.05)[0]
        assert batch.shape == (2, 3, crop, crop)
        assert batch.dtype == torch.float32
        assert batch.min() >= 0
        assert batch.max() <= 1


def test_shrinking_averages_rather_than_skips(tmp_path):
    stripes = np.zeros((1, 64, 64, 3))
    stripes[:, :, ::2] = 255
    batch = taken(packed(tmp_path / "a.npy", stripes), 1, batch_size=1, crop=8)[0]
    inner = batch[..., 1:-1]
    assert_close(inner, torch.full_like(inner, 0.5), atol=0.03, rtol=0)


def test_a_crop_of_no_pixel_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"crop_scale 0\.1 leaves no pixel"):
        taken(distinct(tmp_path / "a.npy", 1), 1, crop_scale=0.1)


@pytest.mark.parametrize("content", [None, b"", b"Dear diary"], ids=["missing", "empty", "text"])
def test_what_is_no_packed_set_says_how_to_make_one(tmp_path, content):
    if content is not None:
        (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ImageError, match="expected a packed photo set; `dvc repro prepare`"):
        Photos(tmp_path / "a.npy")
