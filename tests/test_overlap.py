"""Reading, painting and writing at once: in order, whole, bounded; a failure stops no other."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import growing_gif

from fnst import batch, images, overlap
from fnst.batch import Job
from fnst.errors import ImageError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def photos(count, size=(16, 12)):
    """Pictures of one grey each, and the jobs that paint them."""
    for index in range(count):
        Image.new("RGB", size, (index, index, index)).save(f"{index}.png")
    return [Job(Path(f"{index}.png"), Path(f"out/{index}.png"), ".png") for index in range(count)]


def invert(picture):
    return replace(picture, rgb=255 - picture.rgb)


def grey_of(path):
    return np.asarray(Image.open(path))[0, 0, 0]


def test_results_come_in_order_and_are_the_photos_own():
    jobs = photos(20)
    assert [done.job for done in overlap.run(invert, jobs)] == jobs
    assert [grey_of(job.target) for job in jobs] == [255 - index for index in range(20)]


def test_one_that_cannot_be_read_painted_or_written_stops_no_other():
    jobs = photos(5)
    Path("1.png").write_text("no picture")
    jobs[3] = Job(Path("3.png"), Path("out/3.psd"), ".psd")

    def paint(picture):
        if picture.rgb[0, 0, 0, 0] == 2:
            raise RuntimeError("out of\nmemory.")
        return invert(picture)

    errors = [str(done.error or "") for done in overlap.run(paint, jobs)]
    assert errors[0] == errors[4] == ""
    assert errors[1] == "1.png: this is not a picture that can be read."
    assert errors[2] == "2.png could not be stylized: out of memory."
    assert "expected an ending that fnst writes" in errors[3]
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.png", "4.png"]


def test_a_disk_that_is_full_while_painting_is_told_with_the_photo():
    def paint(picture):
        raise OSError(28, "No space left on device")

    [done] = overlap.run(paint, photos(1))
    assert str(done.error).startswith("0.png could not be stylized: [Errno 28] No space left")


def test_what_a_paint_refuses_is_told_with_the_photo():
    def paint(picture):
        raise ImageError("too small.")

    [done] = overlap.run(paint, photos(1))
    assert str(done.error) == "0.png: too small."


@pytest.mark.parametrize("size", [(16_384, 1), (1, 16_384)])
def test_what_its_format_cannot_hold_is_refused_before_it_is_painted(size):
    [job] = photos(1, size)
    job = replace(job, target=Path("out/0.webp"), ending=".webp")
    [done] = overlap.run(lambda picture: pytest.fail("it was painted"), [job])
    assert str(done.error) == (
        "0.png: expected at most 16,383 pixels a side, as .webp files hold no more, "
        f"got {size[0]}x{size[1]}; choose another format, such as .png."
    )
    assert not list(Path("out").iterdir())

    def on_a_sheet(picture):
        return replace(picture, rgb=picture.rgb[..., :1, :1])

    [done] = overlap.run(on_a_sheet, [job], keeps_size=False)
    assert not done.error


def test_our_own_mistakes_are_not_hidden():
    def paint(picture):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        list(overlap.run(paint, photos(3)))
    assert not list(Path("out").glob("*"))


def moving(name, count, size=(16, 12)):
    shots = [Image.new("RGB", size, (index * 9, 0, 0)) for index in range(count)]
    shots[0].save(name, save_all=True, append_images=shots[1:], duration=40)


def test_what_moves_is_painted_frame_by_frame():
    moving("a.gif", 12)
    [done] = overlap.run(invert, [Job(Path("a.gif"), Path("a-painted.gif"), ".gif")])
    assert done.error is None
    with Image.open("a-painted.gif") as image:
        assert image.n_frames == 12


def test_a_failure_in_the_middle_of_what_moves_leaves_nothing_of_it():
    moving("a.gif", 30)
    [photo] = photos(1)
    seen = 0

    def paint(picture):
        nonlocal seen
        seen += 1
        if seen == 12:
            raise RuntimeError("no memory")
        return invert(picture)

    film, still = overlap.run(paint, [Job(Path("a.gif"), Path("b.gif"), ".gif"), photo])
    assert str(film.error) == "a.gif could not be stylized: no memory."
    assert still.error is None
    assert not Path("b.gif").exists()
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_frames_that_nobody_keeps_are_not_painted():
    moving("a.gif", 200)
    painted = []

    def paint(picture):
        painted.append(1)
        return invert(picture)

    [photo] = photos(1)
    film, still = overlap.run(paint, [Job(Path("a.gif"), Path("a.jpg"), ".jpg"), photo])
    assert film.error is still.error is None
    assert film.notes == ["only its first frame was kept, as .jpg files hold one"]
    assert len(painted) < 100


def test_a_pipe_gets_the_result_as_bytes():
    photos(1)
    content = Path("0.png").read_bytes()
    [done] = overlap.run(invert, [Job(content, None, ".webp")])
    assert images.load(done.content).rgb.shape == (1, 3, 12, 16)
    [done] = overlap.run(invert, [Job(b"no picture", None, ".png")])
    assert str(done.error) == "standard input: this is not a picture that can be read."


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_gif_that_grows_is_refused_after_a_pipe_and_in_a_second_run_too():
    Path("in").mkdir()
    Path("in/b.gif").write_bytes(growing_gif(22_000))
    Image.new("RGB", (4, 4)).save("in/a.png")
    for done in (0, 1):
        plan = batch.plan(["in", "-"], "out", "ink-v1", piped=lambda: growing_gif(22_000))
        assert plan.done == done
        errors = [str(each.error) for each in overlap.run(invert, plan.jobs) if each.error]
        for name, error in zip(("in/b.gif", "standard input"), errors, strict=True):
            assert error == (
                f"{name}: expected at most 250 megapixels, got 22000x22000; make it smaller first, "
                "or say --allow-huge."
            )


def test_huge_pictures_name_the_way_out(monkeypatch):
    monkeypatch.setattr("fnst.originals.MOST_PIXELS", 100)
    [done] = overlap.run(invert, photos(1))
    assert str(done.error).endswith("got 16x12; make it smaller first, or say --allow-huge.")
    [done] = overlap.run(invert, photos(1), allow_huge=True)
    assert done.error is None


def test_whoever_stops_looking_stops_the_work_and_nothing_is_half_written():
    jobs = photos(40)
    others = set(threading.enumerate())
    results = overlap.run(invert, jobs)
    next(results)
    assert set(threading.enumerate()) - others
    results.close()
    assert not set(threading.enumerate()) - others
    names = [path.name for path in Path("out").iterdir()]
    assert 0 < len(names) < 40
    assert not [name for name in names if name.startswith(".")]


def test_reading_and_writing_go_on_while_one_is_painted():
    jobs = photos(3)
    seen = []

    def paint(picture):
        if picture.rgb[0, 0, 0, 0] == 1:  # the first one is written meanwhile
            while not jobs[0].target.exists():
                time.sleep(0.01)
            seen.append(1)
        return invert(picture)

    assert all(done.error is None for done in overlap.run(paint, jobs))
    assert seen == [1]


def test_no_more_pixels_are_on_their_way_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(overlap, "PIXELS_ON_THE_WAY", 3 * 16 * 12)
    jobs = photos(12)
    held, most, lock = 0, 0, threading.Lock()
    take, give = overlap._Room.take, overlap._Room.give

    def count(self, pixels, sign, pass_on):
        nonlocal held, most
        pass_on(self, pixels)
        with lock:
            held += sign * pixels
            most = max(most, held)

    monkeypatch.setattr(overlap._Room, "take", lambda s, p: count(s, p, 1, take))
    monkeypatch.setattr(overlap._Room, "give", lambda s, p: count(s, p, -1, give))
    Path("5.png").write_bytes(Path("5.png").read_bytes()[:50])  # fails after it was let in
    assert sum(done.error is not None for done in overlap.run(invert, jobs)) == 1
    assert most <= 3 * 16 * 12
    assert held == 0


def test_a_picture_larger_than_the_room_goes_alone(monkeypatch):
    monkeypatch.setattr(overlap, "PIXELS_ON_THE_WAY", 10)
    assert all(done.error is None for done in overlap.run(invert, photos(4)))


def test_a_stopwatch_knows_how_long_was_painted():
    watch = overlap.Stopwatch(lambda picture: time.sleep(0.02) or invert(picture))
    list(overlap.run(watch, photos(3)))
    assert watch.seconds >= 0.06


def test_nothing_to_do_is_done():
    assert list(overlap.run(invert, [])) == []


def test_floats_go_through_as_floats():
    values = torch.rand(1, 1, 8, 8)
    Image.fromarray((values[0, 0].numpy() * 65535).astype(np.uint16)).save("deep.png")
    kinds = []

    def paint(picture):
        kinds.append(picture.rgb.dtype)
        return picture

    [done] = overlap.run(paint, [Job(Path("deep.png"), Path("out.png"), ".png")])
    assert done.error is None
    assert kinds == [torch.float32]
    assert images.read(Path("out.png")).depth == 16
