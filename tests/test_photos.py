"""A packed set is opened whole or not at all; its batches are drawn, seeded."""

import itertools
import json
import resource

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fnst.errors import ImageError, ParamsError
from fnst.photos import Photos

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


def packed(folder, *shards):
    """A packed set made by hand: the photographs of each shard."""
    folder.mkdir(exist_ok=True)
    counts = {}
    for number, pixels in enumerate(shards):
        name = f"{number:05}.npy"
        np.save(folder / name, np.asarray(pixels, np.uint8))
        counts[name] = len(pixels)
    size = np.shape(shards[0])[1] if shards else 8
    told = {"size": size, "photographs": sum(counts.values()), "shards": counts}
    (folder / "set.json").write_text(json.dumps(told))
    return Photos(folder)


def distinct(folder, count, side=8):
    """Photographs of one colour each, which says which it is."""
    return packed(folder, [np.full((side, side, 3), 10 * i) for i in range(count)])


# --- batches --------------------------------------------------------------------------------------


def which(batch):
    """The photographs of a batch, told by their colour."""
    return (batch[:, 0, 0, 0] * 25.5).round().int().tolist()


def taken(opened, count, **wanted):
    options = {"batch_size": 2, "crop": 8, "crop_scale": 1.0, "seed": 0} | wanted
    return list(itertools.islice(opened.batches(**options), count))


def test_a_photograph_comes_out_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3))
    opened = packed(tmp_path / "a", pixels)
    assert len(opened) == 2
    assert_close(opened.whole(1), torch.from_numpy(pixels[1]).permute(2, 0, 1)[None] / 255.0)


def test_a_set_knows_how_small_its_photographs_came_where_it_says_so(tmp_path):
    opened = distinct(tmp_path / "a", 2)
    assert [opened.side(i) for i in range(2)] == [8, 8]
    (tmp_path / "a" / "set.json").write_text(told(smaller={"1": 5}))
    assert [Photos(tmp_path / "a").side(i) for i in range(2)] == [8, 5]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7])
def test_every_photograph_comes_once_before_any_comes_again(tmp_path, batch_size):
    opened = distinct(tmp_path / "a", 7)
    batches = taken(opened, 21, batch_size=batch_size, crop_scale=0.5)
    order = [number for batch in batches for number in which(batch)]
    epochs = [order[i : i + 7] for i in range(0, len(order) - 6, 7)]
    assert len(epochs) >= 3
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("start", [1, 3, 8])
def test_starting_later_is_skipping_batches(tmp_path, start):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3))
    opened = packed(tmp_path / "a", pixels)
    all_of_them = taken(opened, start + 4, crop_scale=0.3)
    later = taken(Photos(tmp_path / "a"), 4, crop_scale=0.3, start=start)
    assert torch.equal(torch.cat(all_of_them[start:]), torch.cat(later))


def test_the_parts_of_a_batch_are_the_batch(tmp_path):
    distinct(tmp_path, 8)
    wanted = {"batch_size": 4, "crop": 4, "crop_scale": 0.5, "seed": 0}
    whole = next(Photos(tmp_path).batches(**wanted, start=3))
    parts = [next(Photos(tmp_path).batches(**wanted, start=3, part=i, parts=2)) for i in (0, 1)]
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_that_cannot_be_shared_equally_is_refused(tmp_path):
    distinct(tmp_path, 8)
    batches = Photos(tmp_path).batches(
        batch_size=4, crop=4, crop_scale=0.5, seed=0, part=0, parts=3
    )
    with pytest.raises(ParamsError, match="that 3 processes can share equally, got 4"):
        next(batches)


def test_two_streams_of_one_set_do_not_disturb_each_other(tmp_path):
    opened = distinct(tmp_path / "a", 9)
    alone = [which(batch) for batch in taken(opened, 12)]
    options = {"batch_size": 2, "crop": 8, "crop_scale": 1.0}
    one, other = opened.batches(seed=0, **options), opened.batches(seed=1, start=3, **options)
    mixed = [(which(next(one)), which(next(other)))[0] for _ in range(12)]
    assert mixed == alone


def test_another_seed_is_another_order_and_other_crops(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3))
    opened = packed(tmp_path / "a", pixels)
    assert torch.equal(taken(opened, 1)[0], taken(opened, 1)[0])
    assert not torch.equal(taken(opened, 1)[0], taken(opened, 1, seed=1)[0])
    plain = distinct(tmp_path / "b", 20)
    first, other = (which(taken(plain, 1, batch_size=20, seed=seed)[0]) for seed in (0, 1))
    assert first != other


def ramp(path, side=64):
    """A photograph whose red says how far right, and whose green how far down, a pixel is."""
    across = np.broadcast_to(np.arange(side), (side, side))
    return packed(path, [np.stack([across, across.T, np.full((side, side), 200)], -1)])


def test_crops_have_every_side_and_place_that_they_may(tmp_path):
    """Log-uniform between a quarter and the whole: as many above as below one half."""
    opened = ramp(tmp_path / "a")
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
    opened = ramp(tmp_path / "a")
    squares = taken(opened, 100, batch_size=1, crop=64, crop_scale=1.0)
    flipped = [not torch.equal(square, opened.whole(0)) for square in squares]
    assert 30 < sum(flipped) < 70
    for square, mirrored in zip(squares, flipped, strict=True):
        if mirrored:
            assert torch.equal(square, opened.whole(0).flip(3))


def test_crops_stay_pictures_of_the_size_that_was_asked_for(tmp_path):
    pixels = np.random.default_rng(0).choice([0, 255], (3, 32, 32, 3))
    for crop in (8, 50):
        batch = taken(packed(tmp_path / "a", pixels), 1, crop=crop, crop_scale=0.05)[0]
        assert batch.shape == (2, 3, crop, crop)
        assert batch.dtype == torch.float32
        assert batch.min() >= 0
        assert batch.max() <= 1


def test_shrinking_averages_rather_than_skips(tmp_path):
    stripes = np.zeros((1, 64, 64, 3))
    stripes[:, :, ::2] = 255
    batch = taken(packed(tmp_path / "a", stripes), 1, batch_size=1, crop=8)[0]
    inner = batch[..., 1:-1]
    assert_close(inner, torch.full_like(inner, 0.5), atol=0.03, rtol=0)


def test_a_crop_of_no_pixel_is_refused(tmp_path):
    with pytest.raises(ParamsError, match=r"crop_scale 0\.1 leaves no pixel"):
        taken(distinct(tmp_path / "a", 1), 1, crop_scale=0.1)


# --- shards ---------------------------------------------------------------------------------------


def test_a_photograph_is_found_in_its_shard(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3))
    opened = packed(tmp_path / "a", pixels[:4], pixels[4:4], pixels[4:5], pixels[5:])
    assert (len(opened), opened.size, opened.folder) == (9, 8, tmp_path / "a")
    for i in range(9):
        assert_close(opened.whole(i), torch.from_numpy(pixels[i]).permute(2, 0, 1)[None] / 255.0)


def test_batches_do_not_depend_on_the_shards(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3))
    one = packed(tmp_path / "one", pixels)
    many = packed(tmp_path / "many", pixels[:4], pixels[4:8], pixels[8:])
    options = {"batch_size": 4, "crop_scale": 0.4, "seed": 3}
    assert torch.equal(torch.cat(taken(one, 9, **options)), torch.cat(taken(many, 9, **options)))


def test_draws_are_those_that_earlier_trainings_made(tmp_path):
    """Known answers of the release before shards: a resumed training goes on with the same."""
    opened = distinct(tmp_path / "a", 20)
    assert [which(batch) for batch in taken(opened, 3, batch_size=5, seed=7)] == [
        [3, 8, 12, 13, 14],
        [16, 10, 15, 1, 6],
        [0, 7, 4, 18, 5],
    ]
    pixels = np.arange(3 * 16 * 16 * 3).reshape(3, 16, 16, 3) % 251
    batch = taken(packed(tmp_path / "b", pixels), 2, crop_scale=0.3)[1]
    assert_close(batch.sum((1, 2, 3)), torch.tensor([87.59038, 82.08824]), atol=1e-3, rtol=0)


def test_a_gpu_holds_what_takes_a_quarter_of_its_free_memory_and_no_more(tmp_path):
    opened = packed(tmp_path / "a", np.zeros((5, 8, 8, 3)))
    assert opened._fits(free=4 * 5 * 8 * 8 * 3)
    assert not opened._fits(free=4 * 5 * 8 * 8 * 3 - 1)


def test_shards_come_to_the_device_one_by_one_and_batches_stay_the_same(tmp_path):
    random = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3))
    opened = packed(tmp_path / "a", random[:3], random[3:4], random[4:])
    coming = opened.on(torch.device("cpu"))
    coming._coming = [0, 1, 2]  # as on a GPU that has room
    wanted = {"batch_size": 2, "seed": 0, "crop": 24, "crop_scale": 0.4}
    held = []
    both = zip(opened.batches(**wanted), coming.batches(**wanted), strict=True)
    for here, batch in itertools.islice(both, 6):
        assert torch.equal(here, batch)
        held.append(sum(isinstance(shard, torch.Tensor) for shard in coming._shards))
    assert held == [1, 2, 3, 3, 3, 3]
    assert not any(isinstance(shard, torch.Tensor) for shard in opened._shards)


@needs_gpu
@pytest.mark.parametrize("free", ["most of it", "nothing"])
def test_a_gpu_gets_the_batches_that_a_cpu_gets(tmp_path, free, monkeypatch):
    """Whether it holds the set, or squares of it are sent."""
    random = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3))
    opened = packed(tmp_path / "a", random[:3], random[3:])
    if free == "nothing":
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    there = opened.on(torch.device("cuda"))
    wanted = {"crop": 24, "crop_scale": 0.4}
    for here, batch in zip(taken(opened, 8, **wanted), taken(there, 8, **wanted), strict=True):
        assert batch.device.type == "cuda"
        assert_close(batch.cpu(), here, atol=1e-5, rtol=0)


def test_reading_opens_no_file(tmp_path):
    opened = packed(tmp_path / "a", *np.zeros((5, 2, 8, 8, 3)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # from now on, opening one fails
    try:
        assert len(taken(opened, 20)) == 20
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# --- what is no set -------------------------------------------------------------------------------


def told(**changed):
    return json.dumps({"size": 8, "photographs": 2, "shards": {"00000.npy": 2}} | changed)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "Dear diary",
        "[]",
        told(shards=["00000.npy"]),
        told(shards={"00000.npy": 3}),
        told(shards={"00000.npy": 2, "00001.npy": 1}),
        told(size=9),
        told(photographs=3),
        told(smaller=[5]),
    ],
    ids=[
        *("no set.json", "empty", "text", "list", "names", "more", "missing", "size", "sum"),
        "sides",
    ],
)
def test_what_is_no_packed_set_says_how_to_make_one(tmp_path, content):
    assert len(distinct(tmp_path / "a", 2)) == 2
    (tmp_path / "a" / "set.json").unlink()
    if content is not None:
        (tmp_path / "a" / "set.json").write_text(content)
    with pytest.raises(
        ImageError, match=r"a: expected a packed photo set; `dvc repro prepare` makes it\.$"
    ):
        Photos(tmp_path / "a")


@pytest.mark.parametrize("damage", ["short", "text", "empty", "other numbers"])
def test_a_damaged_shard_is_no_set(tmp_path, damage):
    distinct(tmp_path / "a", 2)
    shard = tmp_path / "a" / "00000.npy"
    if damage == "other numbers":
        np.save(shard, np.zeros((2, 8, 8, 3), np.int8))
    else:
        whole = shard.read_bytes()
        shard.write_bytes({"short": whole[:-1], "text": b"Dear diary", "empty": b""}[damage])
    with pytest.raises(ImageError, match="expected a packed photo set; `dvc repro prepare`"):
        Photos(tmp_path / "a")


def test_a_missing_folder_is_no_set(tmp_path):
    with pytest.raises(ImageError, match="expected a packed photo set"):
        Photos(tmp_path / "nowhere")
