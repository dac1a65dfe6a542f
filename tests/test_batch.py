"""Which photographs there are and where results go; nothing is lost, nothing is done twice."""

from pathlib import Path

import pytest
from PIL import Image

from fnst import batch
from fnst.errors import ImageError

LABEL = "ink-v1"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder with photographs, a folder in it with another, and things that are none."""
    monkeypatch.chdir(tmp_path)
    Path("photos/sea").mkdir(parents=True)
    Path("photos/.cache").mkdir()
    for name in ("b.jpg", "a.png", "sea/c.JPG", ".cache/d.jpg", ".hidden.jpg"):
        photo(f"photos/{name}")
    Path("photos/notes.txt").write_text("no picture")
    return tmp_path


def photo(name):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path, "PPM" if path.suffix == ".ppm" else "PNG")
    return path


def plan(*photos, output=None, **options):
    return batch.plan([str(p) for p in photos], output, LABEL, **options)


def results(found):
    return [str(job.target) for job in found.jobs]


# --- where results go -----------------------------------------------------------------------------


def test_a_result_lies_beside_its_photo_and_says_what_painted_it():
    assert results(plan("photos/b.jpg")) == ["photos/b-ink-v1.jpg"]


def test_a_folder_is_mirrored_in_the_order_of_names_without_what_is_hidden():
    assert results(plan("photos", output="out")) == [
        "out/a-ink-v1.png",
        "out/b-ink-v1.jpg",
        "out/sea/c-ink-v1.JPG",
    ]
    assert results(plan("photos")) == [
        "photos/a-ink-v1.png",
        "photos/b-ink-v1.jpg",
        "photos/sea/c-ink-v1.JPG",
    ]


def test_a_folder_may_hold_what_cameras_call_hif():
    photo("photos/sea/d.png").rename("photos/sea/D.HIF")
    assert results(plan("photos/sea")) == ["photos/sea/D-ink-v1.jpg", "photos/sea/c-ink-v1.JPG"]


def test_several_folders_keep_their_names():
    photo("more/a.png")
    assert results(plan("photos/sea", "more", output="out")) == [
        "out/sea/c-ink-v1.JPG",
        "out/more/a-ink-v1.png",
    ]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("photos/*.*g", ["a-ink-v1.png", "b-ink-v1.jpg"]),
        ("photos/[b-z].*", ["b-ink-v1.jpg"]),
        ("photos/**/*.JPG", ["sea/c-ink-v1.JPG"]),
        ("photos/*/c.*", ["sea/c-ink-v1.JPG"]),
        ("*/b.jpg", ["photos/b-ink-v1.jpg"]),
        ("photos/../photos/s*/*", ["sea/c-ink-v1.JPG"]),
    ],
)
def test_a_pattern_in_quotes_is_expanded(pattern, names):
    assert results(plan(pattern, output="out")) == [f"out/{name}" for name in names]


def test_photos_of_one_name_in_several_folders_fit_a_pattern():
    for name in ("north/IMG_0001.jpg", "south/IMG_0001.jpg"):
        photo(f"album/{name}")
    assert results(plan(f"{Path.cwd()}/album/**/*.jpg", output="out")) == [
        "out/north/IMG_0001-ink-v1.jpg",
        "out/south/IMG_0001-ink-v1.jpg",
    ]


def test_a_name_that_looks_like_a_pattern_is_a_name_where_it_is_one():
    photo("photos/a[1].png")
    assert results(plan("photos/a[1].png")) == ["photos/a[1]-ink-v1.png"]


def test_what_has_no_format_of_its_own_is_converted_and_keeps_out_of_others_way():
    photo("photos/a.ppm")
    found = plan("photos/a.png", "photos/a.ppm", output="out")
    assert results(found) == ["out/a-ink-v1.png", "out/a.ppm-ink-v1.png"]
    assert [job.is_converted for job in found.jobs] == [False, True]
    for ending in (".heic", ".heif", ".hif", ".HIF"):
        assert plan(f"photos/x{ending}").jobs[0].ending == ".jpg"


def test_the_ending_of_the_output_is_the_format():
    [job] = plan("photos/a.png", output="x.webp").jobs
    assert (job.target, job.ending, job.is_converted) == (Path("x.webp"), ".webp", False)


def test_many_photos_are_not_one_file():
    for photos in (["photos"], ["photos/*.jpg"], ["photos/a.png", "photos/b.jpg"]):
        with pytest.raises(batch.OutputError, match=r"one\.png is one file"):
            plan(*photos, output="one.png")
    with pytest.raises(batch.OutputError, match="--output - takes one result, but there are 3"):
        plan("photos", output="-")


# --- pipes ----------------------------------------------------------------------------------------


def test_what_is_piped_in_goes_out_in_its_format():
    content = photo("photos/a.png").read_bytes()
    for output in (None, "-"):
        [job] = plan("-", output=output, piped=lambda: content).jobs
        assert (job.photo, job.target, job.ending) == (content, None, ".png")
    [job] = plan("-", output="out/", piped=lambda: content).jobs
    assert job.target == Path("out/stdin-ink-v1.png")
    [job] = plan("-", output="x.jpg", piped=lambda: content).jobs
    assert (job.target, job.ending) == (Path("x.jpg"), ".jpg")


def test_a_photo_can_be_piped_out():
    [job] = plan("photos/b.jpg", output="-").jobs
    assert (job.target, job.ending) == (None, ".jpg")


def test_nothing_is_piped_in_unasked():
    plan("photos/a.png", piped=lambda: pytest.fail("the pipe was read"))


# --- going on -------------------------------------------------------------------------------------


def test_a_folder_goes_on_where_it_stopped():
    photo("out/a-ink-v1.png")
    found = plan("photos", output="out")
    assert results(found) == ["out/b-ink-v1.jpg", "out/sea/c-ink-v1.JPG"]
    assert found.done == 1


def test_so_do_several_photos_and_a_pattern():
    photo("out/a-ink-v1.png")
    for photos in (["photos/a.png", "photos/b.jpg"], ["photos/?.*"]):
        found = plan(*photos, output="out")
        assert (results(found), found.done) == (["out/b-ink-v1.jpg"], 1)
    photo("out/b-ink-v1.jpg")
    found = plan("photos/?.*", output="out")
    assert (results(found), found.done) == ([], 2)


def is_clip(path):
    return path.suffix == ".mp4"


def test_clips_are_told_from_pictures_and_left_out_of_folders():
    for name in ("photos/sea/a.mp4", "photos/b.mp4", "photos/b-ink-v1.mp4", "photos/.c.mp4"):
        Path(name).write_bytes(b"")
    words = batch.told_apart(["photos", "photos/b.*", "photos/*.mp4", "d.mp4", "a.png"], is_clip)
    assert words.photos == ["photos", "photos/b.*", "a.png"]
    assert [str(clip) for clip in words.clips] == ["photos/b.mp4", "d.mp4"]
    assert (words.left_out, words.are_many) == (1, True)
    assert words.earlier == [Path("photos/b-ink-v1.mp4")]
    named = batch.told_apart(["photos/b-ink-v1.mp4", "photos/b.mp4"], is_clip)
    assert ([*named.clips], [*named.earlier]) == ([Path("photos/b.mp4")], words.earlier)
    assert batch.told_apart(["photos/b-ink-v1.mp4"], is_clip).clips == words.earlier
    assert len(batch.told_apart(["d.mp4", "photos/../d.mp4"], is_clip).clips) == 1
    assert batch.told_apart(["photos"], is_clip, "photos/sea").left_out == 1
    assert batch.told_apart(["photos", "photos/sea"], is_clip).left_out == 2
    assert not batch.told_apart(["d.mp4"], is_clip).are_many
    found = plan("photos/b*", output="out", is_clip=is_clip)
    assert results(found) == ["out/b-ink-v1.jpg"]


def test_clips_lie_below_what_is_fixed_of_their_pattern():
    Path("photos/sea/a.mp4").write_bytes(b"")
    Path("d.mp4").write_bytes(b"")
    below = batch.told_apart(["photos/**/*.mp4", "d.mp4"], is_clip).below
    assert below == {Path("photos/sea/a.mp4"): Path("sea"), Path("d.mp4"): Path()}


def test_a_pattern_without_a_match_is_for_a_plan_to_refuse():
    assert batch.told_apart(["photos/*.gif"], is_clip).photos == ["photos/*.gif"]


def test_a_photo_that_was_named_alone_is_refused():
    photo("photos/a-ink-v1.png")
    with pytest.raises(ImageError, match=r"a-ink-v1\.png is there already; say --overwrite"):
        plan("photos/a.png")


def test_what_is_no_picture_is_in_the_way_and_stays():
    Path("out").mkdir()
    Path("out/a-ink-v1.png").write_text("precious")
    with pytest.raises(ImageError, match=r"out/a-ink-v1\.png is there already"):
        plan("photos", output="out")


def test_a_result_that_is_huge_is_a_picture_too():
    Path("out").mkdir()
    Image.new("1", (16_000, 16_000)).save("out/a-ink-v1.png")
    assert plan("photos", output="out").done == 1


def test_everything_is_painted_again_when_that_is_asked_for():
    photo("out/a-ink-v1.png")
    found = plan("photos", output="out", overwrite=True)
    assert (len(found.jobs), found.done) == (3, 0)


def test_results_that_lie_among_the_photos_are_not_painted_again():
    for name in ("a-ink-v1.png", "b-great-wave-v12.jpg", "sea/c-ink-v2.JPG"):
        photo(f"photos/{name}")
    found = plan("photos", output="out")
    assert len(found.earlier) == 3
    assert len(found.jobs) == 3
    beside = plan("photos")
    assert (len(beside.earlier), beside.done, len(beside.jobs)) == (3, 1, 2)


def test_what_a_shell_expands_is_a_batch_that_goes_on():
    everything = ["photos/a-ink-v1.png", "photos/a.png", "photos/b.jpg"]
    photo("photos/a-ink-v1.png")
    found = plan(*everything)
    assert (results(found), found.done) == (["photos/b-ink-v1.jpg"], 1)
    assert found.earlier == [Path("photos/a-ink-v1.png")]
    only = plan("photos/a-ink-v1.png", "photos/a.png")
    assert (results(only), only.done) == ([], 1)


def test_what_this_command_has_made_is_the_last_of_earlier_results():
    for name in ("a-ink-v1.png", "b-final-v2.jpg", "b-ink-v1.jpg"):
        photo(f"photos/{name}")
    assert [path.name for path in plan("photos").earlier] == [
        "b-final-v2.jpg",
        "a-ink-v1.png",
        "b-ink-v1.jpg",
    ]


def test_a_photo_that_is_named_and_found_is_painted_once():
    for words in (["photos", "photos/b.jpg"], ["photos", "photos"], ["photos/*.*g", "photos"]):
        assert len(plan(*words).jobs) == 3
    [job] = plan("photos/a.png", "photos/../photos/a.png").jobs
    assert job.target == Path("photos/a-ink-v1.png")


def test_links_are_photos_of_their_own():
    Path("photos/link.jpg").symlink_to("b.jpg")
    assert "photos/link-ink-v1.jpg" in results(plan("photos"))


def test_a_name_like_a_results_is_a_photo_without_the_one_that_it_would_come_from():
    photo("photos/model-s-v2.png")
    found = plan("photos", output="out")
    assert "out/model-s-v2-ink-v1.png" in results(found)
    assert not found.earlier


def test_a_result_that_was_named_is_painted():
    photo("photos/a-ink-v1.png")
    assert results(plan("photos/a-ink-v1.png")) == ["photos/a-ink-v1-ink-v1.png"]


def test_the_folder_of_the_results_may_lie_among_the_photos():
    photo("photos/out/a-ink-v1.png")
    found = plan("photos", output="photos/out")
    assert (found.done, found.earlier) == (1, [])
    assert len(found.jobs) == 2


def test_so_it_may_for_a_pattern_and_it_may_be_the_folder_of_the_photos():
    photo("photos/sea/out/a-ink-v1.png")
    photo("photos/sea/out/deep/a-ink-v1.png")
    found = plan("photos/**/*.*[gG]", output="photos/sea/out")
    assert found.done == 1
    assert results(found) == ["photos/sea/out/b-ink-v1.jpg", "photos/sea/out/sea/c-ink-v1.JPG"]
    assert results(plan("photos/sea/*.JPG", output="photos/sea")) == ["photos/sea/c-ink-v1.JPG"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photos", "sentence"),
    [
        (["photos/none*"], r"photos/none\*: there is no picture called like that"),
        (["photos/.empty"], r"photos/\.empty: there is no picture in it"),
    ],
)
def test_what_cannot_be_meant_is_refused(photos, sentence):
    Path("photos/.empty").mkdir()
    with pytest.raises(ImageError, match=sentence):
        plan(*photos)


def test_two_photos_are_not_one_result():
    photo("photos/sea/a.png")
    with pytest.raises(ImageError, match=r"sea/a\.png would both become out/a-ink-v1\.png"):
        plan("photos/a.png", "photos/sea/a.png", output="out")


def test_no_photo_is_replaced_not_even_when_replacing_is_allowed():
    with pytest.raises(ImageError, match="is a photo to repaint itself"):
        plan("photos/a.png", output="photos/a.png", overwrite=True)


def test_a_folder_that_leads_to_itself_ends():
    Path("photos/sea/loop").symlink_to("..")
    assert len(plan("photos", output="out").jobs) == 3
