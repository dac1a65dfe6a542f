"""The command line, on a real sqlite store that holds two versions of a tiny style."""

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import clip_fixtures
import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")
GATE = {1: "passed: the first version of its style", 2: "refused: worse than version 1"}
COMMANDS = (
    "stylize",
    "models",
    "show",
    "promote",
    "evaluate",
    "export",
    "ui",
    "needs",
    "sweep",
    "summary",
)


@pytest.fixture(scope="session")
def projects(tmp_path_factory):
    """A project with an empty store, and the same after two versions of the style `ink`.

    Making a fresh store takes seconds; a copy takes none.
    """
    from fnst import checkpoint, registry, store, tracking
    from fnst.network import TransformerNetwork

    home = tmp_path_factory.mktemp("projects")
    full, empty = home / "full", home / "empty"
    full.mkdir()
    shutil.copy(ROOT / "params.yaml", full)
    shutil.copytree(ROOT / "data" / "styles", full / "data" / "styles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FNST_ROOT", str(full))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        store.connect()
        shutil.copytree(full, empty)
        for number in (1, 2):
            torch.manual_seed(number)
            folder = home / f"model-{number}"
            network = TransformerNetwork(width=4, blocks=1)
            checkpoint.save(folder, network, style="ink", training={})
            with tracking.record(f"ink {number}", run_id=None, params={}, tags={}) as run:
                registry.register(
                    folder,
                    style="ink",
                    run_id=run.id,
                    metrics={"content": 0.5, "style": 0.75, "total": 9.5, "relative_total": 0.25},
                    tags={"gate": GATE[number]},
                    card=f"# ink\n\nThe card [of] version {number}.",
                )
        registry.promote("ink", 1)
    return home


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def place(projects, tmp_path, monkeypatch):
    """A copy of the full project, an empty cache, and a folder of photographs to stand in."""
    monkeypatch.setenv("FNST_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    for name in ("MLFLOW_TRACKING_URI", "FNST_DEBUG"):
        monkeypatch.setenv(name, "")
    shutil.copytree(projects / "full", tmp_path / "project")
    photos = tmp_path / "photos"
    photos.mkdir()
    monkeypatch.chdir(photos)
    gray = Image.fromarray(np.full((21, 34, 3), 120, np.uint8))
    gray.save("photo.jpg")
    gray.save("other.png")
    Path("text.jpg").write_text("no picture")
    Path("folder").mkdir()
    return tmp_path


@pytest.fixture
def fnst(place, capsys, monkeypatch):
    """Run a command in this process."""
    from fnst import cli

    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["fnst", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = Said(ended.value.code or 0, *capsys.readouterr())
        assert said.code == code, said
        return said

    return run


def size_and_format(path):
    with Image.open(path) as image:
        return image.size, image.format


# --- stylize --------------------------------------------------------------------------------------


def test_a_photo_keeps_its_size_and_format_and_the_version_is_said(fnst):
    said = fnst("stylize", "--model-version", "2", "photo.jpg")
    assert said.out == "Stylized with ink version 2: photo-ink-v2.jpg\n"
    assert said.err == ""
    assert size_and_format("photo-ink-v2.jpg") == ((34, 21), "JPEG")


def test_the_champion_paints_when_no_version_is_named(fnst):
    fnst("stylize", "photo.jpg")
    fnst("stylize", "--style", "ink", "--alias", "champion", "other.png")
    assert Path("photo-ink-v1.jpg").exists()
    assert Path("other-ink-v1.png").exists()


def test_versions_paint_differently(fnst):
    for number in (1, 2):
        fnst("stylize", "-m", number, "other.png")
    assert Path("other-ink-v1.png").read_bytes() != Path("other-ink-v2.png").read_bytes()


@pytest.mark.parametrize(
    ("output", "result"),
    [
        ("wave.png", "wave.png"),
        ("folder", "folder/photo-ink-v1.jpg"),
        ("new/deep", "new/deep/photo-ink-v1.jpg"),
        ("with.dot/", "with.dot/photo-ink-v1.jpg"),
    ],
)
def test_output_is_a_file_or_a_folder(fnst, output, result):
    said = fnst("stylize", "photo.jpg", "-o", output)
    assert result in said.out
    assert Path(result).exists()


def test_a_format_that_cannot_be_written_becomes_png_and_it_is_said(fnst):
    Image.new("RGB", (20, 20)).save("drawing.ppm")
    said = fnst("stylize", "drawing.ppm")
    assert said.err == "note: drawing.ppm: became a .png; fnst writes no .ppm files\n"
    assert size_and_format("drawing-ink-v1.png") == ((20, 20), "PNG")
    assert fnst("stylize", "drawing.ppm", "-o", "asked-for.png").err == ""


def test_one_bad_photo_does_not_stop_the_others(fnst):
    said = fnst("stylize", "text.jpg", "no/x.jpg", "photo.jpg", "other.png", "-o", "out", code=1)
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "other-ink-v1.png",
        "photo-ink-v1.jpg",
    ]
    *lines, last = said.out.splitlines()
    assert lines == ["out/photo-ink-v1.jpg", "out/other-ink-v1.png"]
    assert re.fullmatch(
        r"2 of 4 photos stylized with ink version 1, in out/; "
        r"the network ran \d+% of the time",
        last,
    )
    assert said.err.splitlines() == [
        "error: text.jpg: this is not a picture that can be read.",
        "error: no/x.jpg: there is no such file.",
        "error: 2 of 4 photos could not be stylized.",
    ]


def test_a_folder_is_mirrored_and_goes_on_where_it_stopped(fnst):
    for name in ("holiday/a.png", "holiday/sea/b.png"):
        Path(name).parent.mkdir(exist_ok=True)
        shutil.copy("other.png", name)
    assert "2 of 2 photos" in fnst("stylize", "holiday", "-o", "out").out
    results = [Path("out/a-ink-v1.png"), Path("out/sea/b-ink-v1.png")]
    times = [path.stat().st_mtime_ns for path in results]
    results[1].unlink()
    said = fnst("stylize", "holiday", "-o", "out")
    assert said.out.splitlines() == [
        "done before: 1; --overwrite paints them again",
        "Stylized with ink version 1: out/sea/b-ink-v1.png",
    ]
    assert results[0].stat().st_mtime_ns == times[0]
    assert fnst("stylize", "holiday", "-o", "out").out.splitlines() == [
        "done before: 2; --overwrite paints them again",
        "Nothing is left to paint.",
    ]
    assert "2 of 2 photos" in fnst("stylize", "holiday", "-o", "out", "--overwrite").out


def test_results_beside_their_photos_are_not_painted_again(fnst):
    Path("holiday").mkdir()
    shutil.copy("other.png", "holiday/a.png")
    fnst("stylize", "holiday")
    said = fnst("stylize", "holiday", "-m", "2")
    assert said.out.splitlines() == [
        "results of earlier runs, left alone: 1 (holiday/a-ink-v1.png); "
        "to paint one, name it alone",
        "Stylized with ink version 2: holiday/a-ink-v2.png",
    ]


def test_what_the_shell_expands_goes_on_and_runs_twice(fnst):
    shutil.copy("photo.jpg", "second.jpg")
    fnst("stylize", "photo.jpg")
    said = fnst("stylize", "photo-ink-v1.jpg", "photo.jpg", "second.jpg")
    assert said.out.splitlines() == [
        "results of earlier runs, left alone: 1 (photo-ink-v1.jpg); to paint one, name it alone",
        "done before: 1; --overwrite paints them again",
        "Stylized with ink version 1: second-ink-v1.jpg",
    ]
    everything = ["photo-ink-v1.jpg", "photo.jpg", "second-ink-v1.jpg", "second.jpg"]
    said = fnst("stylize", *everything)
    assert said.out.splitlines()[1:] == [
        "done before: 2; --overwrite paints them again",
        "Nothing is left to paint.",
    ]
    assert "2 of 2 photos" in fnst("stylize", *everything, "--overwrite").out


def test_a_shell_expands_one_photo_to_two_when_it_is_painted(fnst):
    fnst("stylize", "photo.jpg")
    said = fnst("stylize", "photo-ink-v1.jpg", "photo.jpg")
    assert "done before: 1;" in said.out


def test_at_most_three_results_of_earlier_runs_are_named(fnst):
    names = ["photo.jpg", *(f"photo-ink-v{number}.jpg" for number in range(3, 8))]
    for name in names[1:]:
        shutil.copy("photo.jpg", name)
    assert fnst("stylize", *names).out.startswith(
        "results of earlier runs, left alone: 5 "
        "(photo-ink-v3.jpg, photo-ink-v4.jpg, photo-ink-v5.jpg, ...);"
    )


def test_quality_and_format_are_the_readers_choice(fnst):
    Image.effect_noise((64, 64), 90).convert("RGB").save("noise.png")
    for quality in (5, 95):
        fnst("stylize", "noise.png", "-o", f"{quality}.webp", "--quality", quality)
    assert size_and_format("5.webp") == ((64, 64), "WEBP")
    assert Path("5.webp").stat().st_size * 2 < Path("95.webp").stat().st_size


def test_a_terminal_gets_no_picture(fnst, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    said = fnst("stylize", "photo.jpg", "-o", "-", code=2)
    assert "a picture is not for a terminal" in said.err


def test_a_clip_is_painted_and_keeps_its_sound(fnst):
    clip_fixtures.write(Path("clip.mp4"), sound="aac")
    said = fnst("stylize", "clip.mp4", "photo.jpg", "-o", "out")
    assert re.sub(r"\d+%", "N%", said.out).splitlines() == [
        "Stylized with ink version 1: out/photo-ink-v1.jpg",
        "Stylized with ink version 1: out/clip-ink-v1.mp4 (10 frames; "
        "the network ran N% of the time)",
    ]
    assert clip_fixtures.packets("out/clip-ink-v1.mp4")
    assert "is there already" in fnst("stylize", "clip.mp4", "-o", "out", code=1).err
    assert fnst("stylize", "clip.mp4", "-o", "out", "--overwrite").out


def test_the_quality_of_a_clip_is_the_readers_choice(fnst):
    clip_fixtures.write(Path("clip.mp4"))
    for quality in (5, 95):
        fnst("stylize", "clip.mp4", "-o", f"{quality}.mp4", "--quality", quality)
    fnst("stylize", "clip.mp4", "-o", "unsaid.mp4")
    least, most, unsaid = (Path(f"{name}.mp4").stat().st_size for name in ("5", "95", "unsaid"))
    assert least * 1.2 < most
    assert unsaid == pytest.approx(most, rel=0.02)


def test_without_pyav_a_clip_says_what_to_install(fnst, monkeypatch):
    clip_fixtures.write(Path("clip.mp4"))
    monkeypatch.setitem(sys.modules, "av", None)
    said = fnst("stylize", "clip.mp4", code=1)
    assert said.err == "error: clips need PyAV; `pip install 'fnst[video]'` brings it.\n"


def test_a_folder_that_is_named_like_a_clip_is_a_folder(fnst):
    Path("2024.mov").mkdir()
    shutil.copy("photo.jpg", "2024.mov")
    fnst("stylize", "2024.mov", "-o", "out")
    assert Path("out/photo-ink-v1.jpg").exists()


def test_a_pattern_finds_clips_and_a_folder_says_how_many_it_has(fnst):
    Path("in").mkdir()
    for name in ("in/a.mp4", "in/b.mp4"):
        clip_fixtures.write(Path(name))
    shutil.copy("photo.jpg", "in")
    said = fnst("stylize", "in", "-o", "out")
    assert "clips in folders, left out: 2; name them" in said.err
    assert [path.name for path in Path("out").iterdir()] == ["photo-ink-v1.jpg"]
    fnst("stylize", "in/*", "-o", "out")
    assert Path("out/a-ink-v1.mp4").exists()
    assert Path("out/b-ink-v1.mp4").exists()
    assert "done before" in fnst("stylize", "in/a.*", "-o", "out").out
    (Path("in") / "photo.jpg").unlink()
    said = fnst("stylize", "in", code=1)
    assert said.err.splitlines()[0].startswith("clips in folders, left out: 2; name them")


def test_clips_of_one_name_in_several_folders_fit_a_pattern(fnst):
    for name in ("in/north/a.mp4", "in/south/a.mp4"):
        Path(name).parent.mkdir(parents=True)
        clip_fixtures.write(Path(name), times=[0])
    fnst("stylize", "in/**/*.mp4", "-o", "out")
    assert Path("out/north/a-ink-v1.mp4").exists()
    assert Path("out/south/a-ink-v1.mp4").exists()


def test_results_of_different_masks_have_different_names(fnst):
    for name in ("left", "right"):
        Image.new("L", (2, 1)).save(f"{name}.png")
        fnst("stylize", "photo.jpg", "other.png", "-o", "out", "--mask", f"{name}.png")
    assert Path("out/photo-ink-v1-mask-left.jpg").exists()
    assert Path("out/photo-ink-v1-mask-right.jpg").exists()


def test_of_several_clips_one_bad_one_stops_no_other_and_none_is_painted_twice(fnst):
    Path("bad.mp4").write_text("no clip")
    for name in ("a.mp4", "b.mp4"):
        clip_fixtures.write(Path(name))
    said = fnst("stylize", "bad.mp4", "a.mp4", "b.mp4", code=1)
    assert "error: bad.mp4: this is not a video that can be read." in said.err
    assert Path("b-ink-v1.mp4").exists()
    again = fnst("stylize", "a.mp4", "b.mp4")
    assert again.out.splitlines() == [
        "done before: a-ink-v1.mp4; --overwrite paints it again",
        "done before: b-ink-v1.mp4; --overwrite paints it again",
    ]


def test_clips_that_the_shell_expands_go_on_too(fnst):
    clip_fixtures.write(Path("a.mp4"))
    fnst("stylize", "a.mp4")
    said = fnst("stylize", "a-ink-v1.mp4", "a.mp4")
    assert said.out.splitlines() == [
        "results of earlier runs, left alone: 1 (a-ink-v1.mp4); to paint one, name it alone",
        "done before: a-ink-v1.mp4; --overwrite paints it again",
    ]


def test_a_photo_that_is_done_does_not_keep_its_clip_from_going_on(fnst):
    clip_fixtures.write(Path("clip.mp4"))
    fnst("stylize", "photo.jpg")
    said = fnst("stylize", "photo.jpg", "clip.mp4")
    assert said.out.splitlines()[0] == "done before: 1; --overwrite paints them again"
    assert Path("clip-ink-v1.mp4").exists()


def test_a_clip_for_which_memory_does_not_suffice_stops_no_other(fnst):
    clip_fixtures.write(Path("large.mp4"), size=(1920, 1080), times=[0])
    clip_fixtures.write(Path("small.mp4"))
    said = fnst("stylize", "--max-memory", "70MB", "large.mp4", "small.mp4", code=1)
    assert "large.mp4 could not be stylized: a picture of 1920x1080 takes at least" in said.err
    assert Path("small-ink-v1.mp4").exists()


def test_an_interrupted_clip_does_not_go_on_with_another_blend_of_the_same_name(fnst):
    from fnst import controls, studio

    def made_of(blend):
        mixtures = [controls.ingredients(blend)]
        cpu = torch.device("cpu")
        painter = studio.painter(mixtures, controls.Controls(), cpu, max_memory=10**9)
        return painter.label, dict(painter.made_of)

    one, same, other = map(made_of, ("ink@1:0.7,ink@2:0.3",) * 2 + ("ink@1:0.704,ink@2:0.296",))
    assert one == same
    assert one[0] == other[0]
    assert one[1] != other[1]


def test_sheets_of_clips_are_refused(fnst):
    said = fnst("stylize", "clip.mp4", "--compare", code=2)
    assert "sheets are for pictures" in said.err


def test_a_version_is_exported_and_nothing_is_overwritten_unasked(fnst):
    import onnxruntime

    assert fnst("export", "-m", 2).out == "ink version 2: ink-v2.onnx\n"
    session = onnxruntime.InferenceSession("ink-v2.onnx")
    photo = np.asarray(Image.open("other.png").convert("RGB"))[None]
    (painted,) = session.run(None, {"photo": photo})
    fnst("stylize", "-m", 2, "other.png")
    ours = np.asarray(Image.open("other-ink-v2.png").convert("RGB")).astype(int)
    assert np.abs(painted[0] - ours).max() <= 1
    assert "is there already" in fnst("export", "-m", 2, code=1).err
    fnst("export", "-m", 1, "-o", "ink-v2.onnx", "--overwrite")


@pytest.mark.parametrize("folder", ["folder", "new/deep/"])
def test_a_version_is_exported_into_a_folder(fnst, folder):
    result = Path(folder, "ink-v1.onnx")
    assert fnst("export", "-o", folder).out == f"ink version 1: {result}\n"
    assert result.is_file()
    assert f"{result} is there already" in fnst("export", "-o", folder, code=1).err
    fnst("export", "-o", folder, "--overwrite")


@pytest.mark.parametrize("name", ["-dash.png", "two words é 日本.png"])
def test_any_filename_will_do(fnst, name):
    shutil.copy("other.png", f"./{name}")
    fnst("stylize", "--", name)
    assert Path(name.replace(".png", "-ink-v1.png")).exists()


def test_paths_are_relative_to_where_the_reader_stands(fnst, place, monkeypatch):
    monkeypatch.chdir(place)
    said = fnst("stylize", "photos/photo.jpg")
    assert said.out.endswith(": photos/photo-ink-v1.jpg\n")
    assert (place / "photos/photo-ink-v1.jpg").exists()


def test_a_result_is_replaced_only_when_that_is_asked_for(fnst):
    Path("photo-ink-v1.jpg").write_text("precious")
    said = fnst("stylize", "photo.jpg", "other.png", code=1)
    assert "photo-ink-v1.jpg is there already; say --overwrite" in said.err
    assert Path("photo-ink-v1.jpg").read_text() == "precious"
    assert not Path("other-ink-v1.png").exists()
    fnst("stylize", "photo.jpg", "--overwrite")
    assert size_and_format("photo-ink-v1.jpg") == ((34, 21), "JPEG")


@pytest.mark.parametrize(
    ("harm", "file"),
    [
        (lambda path: path.write_bytes(b"garbage"), "model.safetensors"),
        (lambda path: path.write_text('{"format": "of another program"}'), "model.json"),
        (lambda path: path.unlink(), "model.json"),
    ],
)
def test_a_damaged_model_in_the_cache_is_fetched_anew(fnst, place, harm, file):
    fnst("stylize", "other.png")
    first = Path("other-ink-v1.png").read_bytes()
    [cached] = (path for path in (place / "cache/models").iterdir() if path.is_dir())
    harm(cached / file)
    fnst("stylize", "other.png", "--overwrite")
    assert Path("other-ink-v1.png").read_bytes() == first


def test_a_model_that_is_damaged_in_the_store_too_is_refused(fnst, place):
    for path in (place / "project/mlartifacts").rglob("model.safetensors"):
        path.write_bytes(b"garbage")
    said = fnst("stylize", "photo.jpg", code=1)
    assert "is damaged" in said.err
    assert not Path("photo-ink-v1.jpg").exists()


# --- controls -------------------------------------------------------------------------------------


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_each_control_changes_the_picture_and_its_name(fnst):
    colours = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    Image.fromarray(colours).save("bright.png")
    Image.new("L", (2, 1)).save("black.png")
    fnst("stylize", "bright.png")
    plain = pixels("bright-ink-v1.png")
    for words, name in (
        ("--strength 0.5", "bright-ink-v1-strength0.5.png"),
        ("--strength 1.5", "bright-ink-v1-strength1.5.png"),
        ("--keep-colors", "bright-ink-v1-colors.png"),
        ("--stroke-size 2", "bright-ink-v1-stroke2.png"),
        ("--mask black.png", "bright-ink-v1-mask-black.png"),
        ("--blend ink@1:3,ink@2", "bright-ink-v1-0.75-ink-v2-0.25.png"),
    ):
        fnst("stylize", "bright.png", *words.split())
        assert size_and_format(name) == ((34, 21), "PNG")
        assert np.abs(pixels(name) - plain).max() > 3


def test_memory_may_be_limited_and_too_little_is_said_with_the_photo(fnst):
    colours = np.random.default_rng(0).integers(0, 256, (21, 34, 3), dtype=np.uint8)
    Image.fromarray(colours).save("bright.png")
    fnst("stylize", "bright.png", "--max-memory", "2GB")
    said = fnst("stylize", "bright.png", "-o", "small.png", "--max-memory", "1kB", code=1)
    assert "bright.png: a picture of 34x21 takes at least" in said.err
    assert not Path("small.png").exists()
    said = fnst("stylize", "bright.png", "--max-memory", "lots", code=1)
    assert "expected a size such as 2GB or 512MiB, got 'lots'" in said.err


def test_a_large_picture_says_how_far_it_is_when_it_is_the_only_one(fnst, monkeypatch):
    monkeypatch.setattr("fnst.progress.PATIENCE_SECONDS", 0)
    for name in ("large.png", "second.png"):
        Image.new("RGB", (1500, 1200), "teal").save(name)
    in_strips = ("--max-memory", "90MB")
    assert "stylizing" not in fnst("stylize", "large.png", "second.png", *in_strips).err
    assert "stylizing" in fnst("stylize", "large.png", "--overwrite", *in_strips).err


def test_huge_masks_and_small_strokes_are_taken_when_that_is_asked_for(fnst, monkeypatch):
    monkeypatch.setattr("fnst.images.MOST_PIXELS", 800)
    Image.new("L", (30, 30)).save("mask.png")
    assert (
        "mask.png: expected at most"
        in fnst("stylize", "other.png", "--mask", "mask.png", code=1).err
    )
    small = ("stylize", "other.png", "--stroke-size", "0.5", "-o", "small.png")
    assert "or say --allow-huge" in fnst(*small, code=1).err
    fnst(*small, "--mask", "mask.png", "--allow-huge")


def test_strength_0_and_a_black_mask_leave_the_photo_as_it_was(fnst):
    Image.new("L", (2, 1)).save("black.png")
    fnst("stylize", "other.png", "--strength", "0", "-o", "a.png")
    fnst("stylize", "other.png", "--mask", "black.png", "-o", "b.png")
    for result in ("a.png", "b.png"):
        assert np.array_equal(pixels(result), pixels("other.png"))


def test_a_masked_picture_keeps_its_transparency(fnst):
    Image.new("RGBA", (20, 16), (200, 100, 50, 77)).save("clear.png")
    Image.new("L", (2, 1), 255).save("white.png")
    fnst("stylize", "clear.png", "--mask", "white.png", "-o", "result.png")
    assert Image.open("result.png").getchannel("A").getextrema() == (77, 77)


def test_a_blend_says_what_it_is_made_of(fnst):
    said = fnst("stylize", "photo.jpg", "--blend", "ink@champion:0.7, ink@2:0.3")
    assert said.out == (
        "Stylized with 70% ink version 1 and 30% ink version 2: photo-ink-v1-0.7-ink-v2-0.3.jpg\n"
    )


def test_versions_and_the_photo_stand_side_by_side_on_a_sheet(fnst):
    said = fnst("stylize", "other.png", "-m", "2,1,2", "--compare")
    assert said.out == (
        "Stylized with ink version 2, ink version 1: other-ink-v2-ink-v1-compare.png\n"
    )
    for number in (1, 2):
        fnst("stylize", "-m", number, "other.png")
    sheet = pixels("other-ink-v2-ink-v1-compare.png")
    for index, name in enumerate(("other.png", "other-ink-v2.png", "other-ink-v1.png")):
        left = 16 + index * (34 + 16)
        assert np.abs(sheet[34:55, left : left + 34] - pixels(name)).max() <= 1


def test_what_is_too_large_for_a_format_is_not_too_large_for_a_sheet(fnst):
    Image.new("RGB", (16_384, 1)).save("long.png")
    said = fnst("stylize", "long.png", "-o", "long.webp", "--strength", "0", code=1)
    assert "long.png: expected at most 16,383 pixels a side" in said.err
    fnst("stylize", "long.png", "-o", "long.webp", "--strength", "0", "--compare")


# --- what goes wrong is one sentence --------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("stylize -m 7 photo.jpg", "Style ink has no version 7; its versions: 1, 2."),
        ("stylize -s inc photo.jpg", "no registered style 'inc'; did you mean 'ink'?"),
        ("stylize -a best photo.jpg", "Style ink has no alias 'best'; its versions: 1, 2."),
        ("stylize text.jpg", "text.jpg: this is not a picture that can be read."),
        ("stylize nothing.jpg", "nothing.jpg: there is no such file."),
        ("stylize folder", "folder: there is no picture in it."),
        ("stylize photo.jpg -d cuda:77", "there is no cuda:77 in this machine; use --device cpu."),
        ("stylize photo.jpg -d gpu", "expected a device such as cpu, cuda or mps, got 'gpu'."),
        ("stylize photo.jpg -o photo.jpg --overwrite", "photo.jpg is a photo to repaint itself"),
        ("stylize photo.jpg -o other.png", "other.png is there already; say --overwrite"),
        ("stylize photo.jpg -o x.psd", "x.psd: expected an ending that fnst writes"),
        ("stylize *.bmp", "*.bmp: there is no picture called like that."),
        ("stylize photo.jpg -o text.jpg/in/x.png", "text.jpg/in: this folder cannot be made"),
        ("stylize photo.jpg --mask text.jpg", "text.jpg: this is not a picture that can be read."),
        ("stylize photo.jpg --mask no.png", "no.png: there is no such file."),
        ("stylize photo.jpg --blend ink", "expected at least two styles to blend"),
        ("stylize photo.jpg --blend ink:x,ink", "expected a style and its weight above 0"),
        ("stylize photo.jpg --blend ink,inc", "no registered style 'inc'; did you mean 'ink'?"),
        ("stylize photo.jpg --blend ink@7,ink", "Style ink has no version 7; its versions: 1, 2."),
        ("stylize photo.jpg -m 1,7", "Style ink has no version 7; its versions: 1, 2."),
        ("show -m 7", "Style ink has no version 7; its versions: 1, 2."),
        ("show -a best", "Style ink has no alias 'best'; its versions: 2, 1."),
        ("promote 7", "Style ink has no version 7; its versions: 1, 2."),
        ("sweep --strengths 1,0", "--strengths: expected 0.001 to 1000, got 0.0."),
        ("sweep -s inc", "there is no style 'inc'"),
        ("evaluate photo.jpg", "this model of ink does not say with what it was trained"),
        ("evaluate folder", "expected photographs in folder, found none."),
        ("models -s inc", "no registered style 'inc'; did you mean 'ink'?"),
        ("summary", "Nothing is registered from this folder yet; run `dvc repro` first."),
    ],
)
def test_an_error_is_one_sentence_and_nothing_is_written(fnst, words, sentence):
    before = sorted(Path().rglob("*"))
    said = fnst(*words.split(), code=1)
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert sentence in said.err
    assert said.out == ""
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("stylise photo.jpg", "Did you mean 'stylize'?"),
        ("stylize", "Missing argument 'PHOTO'"),
        ("stylize photo.jpg --model-versions 1", "No such option: --model-versions"),
        ("sweep --strengths 1,strong", "expected numbers such as 0.5,1,2, got '1,strong'"),
        ("stylize photo.jpg -m 0", "expected a version such as 3, or several as 1,2, got 0"),
        ("stylize photo.jpg -m 1,", "expected a version such as 3, or several as 1,2, got 1,"),
        ("stylize photo.jpg -m one", "expected a version such as 3, or several as 1,2, got one"),
        ("show -m one", "valid integer"),
        ("stylize photo.jpg -m 1 -a champion", "either --model-version or --alias"),
        ("stylize photo.jpg -m 1 --blend ink@1,ink@2", "either --model-version or --blend"),
        ("stylize photo.jpg -s ink --blend ink@1,ink@2", "either --style or --blend"),
        ("stylize photo.jpg --strength 2", "less than or equal to 1.5"),
        ("stylize photo.jpg --stroke-size 0", "'--stroke-size'"),
        (
            "stylize photo.jpg other.png -o one.png",
            "one.png is one file, but there are many photos",
        ),
    ],
)
def test_wrong_usage_is_exit_code_2(fnst, words, message):
    assert message in fnst(*words.split(), code=2).err


def test_same_named_photos_do_not_share_a_result(fnst):
    shutil.copy("photo.jpg", "folder/photo.jpg")
    said = fnst("stylize", "photo.jpg", "folder/photo.jpg", "-o", "out", code=1)
    assert "photo.jpg and folder/photo.jpg would both become out/photo-ink-v1.jpg" in said.err
    assert not Path("out").exists()


def test_what_may_not_be_read_or_written_is_said(fnst):
    Path("photo.jpg").chmod(0)
    if os.access("photo.jpg", os.R_OK):
        pytest.skip("root may read and write everything")
    assert "may not be read by you" in fnst("stylize", "photo.jpg", code=1).err
    Path("folder").chmod(0o500)
    assert "cannot be written" in fnst("stylize", "other.png", "-o", "folder", code=1).err


def test_an_empty_store_says_what_to_run(fnst, projects, place):
    shutil.rmtree(place / "project")
    shutil.copytree(projects / "empty", place / "project")
    for words in ("stylize photo.jpg", "show", "promote 1"):
        said = fnst(*words.split(), code=1)
        assert said.err == (
            "error: No model is registered yet; `make run` (or `dvc repro`) makes one.\n"
        )
    assert "No model is registered yet" in fnst("models").out
    assert json.loads(fnst("models", "--json").out) == []


def test_a_server_that_does_not_answer_is_named(fnst, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said = fnst("stylize", "photo.jpg", code=1)
    assert said.err.startswith("error: The MLflow store at http://127.0.0.1:9 does not answer")
    assert said.err.count("\n") == 1


def test_a_root_that_is_no_project_is_refused_and_left_as_it_is(fnst, place, monkeypatch):
    monkeypatch.setenv("FNST_ROOT", str(place / "photos/folder"))
    for words in ("stylize photo.jpg", "models", "show", "promote 1", "ui"):
        assert "is no fnst project: it has no params.yaml" in fnst(*words.split(), code=1).err
    assert "params.yaml cannot be read" in fnst("summary", code=1).err
    assert not list(Path("folder").iterdir())


@pytest.mark.parametrize("words", ["--debug stylize text.jpg", "stylize text.jpg --debug"])
def test_a_traceback_is_shown_only_when_asked_for(fnst, words):
    assert "Traceback" not in fnst("stylize", "text.jpg", code=1).err
    said = fnst(*words.split(), code=1)
    assert "Traceback (most recent call last)" in said.err
    assert said.err.endswith("error: text.jpg: this is not a picture that can be read.\n")


def test_even_the_unexpected_is_one_sentence(fnst, place):
    results = place / "project/data/results/indigo-wave"
    results.mkdir(parents=True)
    (results / "registered.json").write_text("{}")
    said = fnst("summary", code=1)
    assert said.err.startswith("error: something that fnst did not expect (KeyError: 'version')")
    assert said.err.count("\n") == 1


# --- the registry ---------------------------------------------------------------------------------


def test_models_are_listed_whole_where_nobody_watches(fnst):
    heading, newest, oldest, *rest = fnst("models").out.splitlines()
    assert heading.split()[:4] == ["style", "version", "alias", "gate"]
    assert heading.split()[4:] == ["registered", "content", "style", "loss", "total"]
    assert newest.split()[:2] == ["ink", "2"]
    assert oldest.split()[:4] == ["ink", "1", "champion", "passed"]
    assert oldest.split()[-4:] == ["0.500", "0.750", "9.500", "(25%)"]
    assert "held-out photographs" in rest[-1]


def test_models_as_json_are_for_programs(fnst):
    newest, oldest = json.loads(fnst("models", "--style", "ink", "--json").out)
    assert (newest["style"], newest["version"], newest["aliases"]) == ("ink", 2, [])
    assert (oldest["version"], oldest["aliases"]) == (1, ["champion"])
    assert oldest["metrics"]["total"] == 9.5
    assert (newest["gate"], newest["forced"]) == (GATE[2], None)


@pytest.mark.parametrize(
    ("words", "number"), [("-m 1", 1), ("-m 2", 2), ("", 1), ("-a champion", 1)]
)
def test_show_has_the_card_of_each_version(fnst, words, number):
    said = fnst("show", *words.split()).out
    assert f"ink version {number}" in said
    assert f"gate: {GATE[number]}\n" in said
    assert f"The card [of] version {number}." in said


def test_promote_moves_the_champion(fnst):
    fnst("stylize", "photo.jpg")
    assert fnst("promote", "2", "--force").out == (
        "ink: version 2 is the champion now, although it was refused: worse than version 1\n"
    )
    assert "version 2 (champion)" in fnst("show").out
    assert "ink version 2" in fnst("stylize", "photo.jpg").out
    assert fnst("promote", "1").out == "ink: version 1 is the champion now\n"


def test_what_the_gate_refused_is_promoted_only_by_force_which_is_written_down(fnst):
    said = fnst("promote", "2", code=1)
    assert said.err == (
        "error: ink version 2 was refused: worse than version 1; "
        "`fnst promote 2 --style ink --force` makes it champion all the same.\n"
    )
    assert "version 1 (champion)" in fnst("show").out
    fnst("promote", "2", "--force")
    newest = json.loads(fnst("models", "--json").out)[0]
    written = newest["forced"]
    assert written.startswith(f"by {getpass.getuser()} on {datetime.now(UTC).year}-")
    assert written.endswith("although it was refused: worse than version 1")
    shown = fnst("show").out
    assert f"made champion {written}\n" in shown
    assert shown.endswith(
        f"## Gate\n\nrefused: worse than version 1\n\nMade champion {written}.\n\n"
    )
    newest, _ = fnst("models").out.splitlines()[1:3]
    assert newest.split()[:4] == ["ink", "2", "champion", "forced"]


def test_summary_says_what_was_made_and_what_to_do_next(fnst, place):
    results = place / "project/data/results/indigo-wave"
    results.mkdir(parents=True)
    (results / "registered.json").write_text('{"version": 3, "weights_sha256": "abcdef0123"}')
    (results / "metrics.json").write_text(
        '{"content": 0.5, "style": 0.7, "total": 1.2, "relative_total": 0.4, "photographs": 2}'
    )
    (results / "stylized-abcdef01.jpg").touch()  # as an earlier summary left it
    said = fnst("summary").out
    assert "indigo-wave, version 3, on 2 held-out photographs" in said
    for wanted in (
        "sheet.jpg",
        "stylized-abcdef01.jpg",
        "fnst stylize --model-version 3 photo.jpg",
        "fnst ui",
        "coco",
    ):
        assert wanted in said


def test_needs_tells_what_a_recipe_costs_before_it_is_chosen(fnst, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**12))
    said = fnst("needs", "--recipe", "coco")
    assert "coco-2017-test" in said.out
    assert "40,670" in said.out
    assert "6.65 GB" in said.out
    assert "`dvc repro` fetches it" in said.out
    assert "sample-coffee" in fnst("needs").out


def test_needs_of_an_unknown_recipe_names_the_nearest(fnst):
    said = fnst("needs", "--recipe", "cocoa", code=1)
    assert said.out == ""
    assert "did you mean 'coco'?" in said.err


def test_needs_that_do_not_fit_end_in_an_error(fnst, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 10**9))
    said = fnst("needs", "--recipe", "coco", code=1)
    assert "40,670" in said.out
    assert "got 1 GB free" in said.err


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_has_examples_of_one_line(fnst, command):
    lines = fnst(command, "--help").out.splitlines()
    examples = [line for line in lines if line.startswith("  • ")]
    assert examples
    assert all(line.startswith(f"  • fnst {command}") for line in examples)


def test_help_and_version(fnst):
    said = fnst("--help").out
    assert all(f" {command} " in said for command in COMMANDS)
    assert "fnst stylize --model-version 3 photo.jpg" in said
    assert fnst("--version").out.startswith("fnst 0.")


# --- whole processes ------------------------------------------------------------------------------


def python(code, *words):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )


def test_a_version_used_before_starts_without_the_slow_imports(fnst):
    fnst("stylize", "--model-version", "2", "other.png")
    done = python(
        """
import sys
from fnst.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
slow = {"mlflow", "torchvision", "pandas", "dvc", "sqlalchemy", "matplotlib"} & set(sys.modules)
assert not slow, slow
""",
        *("stylize", "--model-version", "2", "photo.jpg"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Stylized with ink version 2: photo-ink-v2.jpg\n"


def test_a_picture_is_piped_through_and_nothing_else_is(fnst):
    fnst("stylize", "other.png")
    command = [sys.executable, "-m", "fnst.cli", "stylize", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with Path("other.png").open("rb") as photo:
        done = subprocess.run(command, stdin=photo, capture_output=True, env=environment)
    assert done.stdout == Path("other-ink-v1.png").read_bytes()
    assert done.stderr == b"Stylized with ink version 1: piped out\n"
    done = subprocess.run(command, input=b"no picture", capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"error: standard input: this is not a picture that can be read.\n"


def test_what_trains_and_stylizes_needs_neither_mlflow_nor_dvc_nor_typer():
    done = python(
        """
import sys
for name in ("mlflow", "dvc", "typer"):
    sys.modules[name] = None
import benchmarks.__main__
import fnst.checkpoint, fnst.evaluation, fnst.images, fnst.losses, fnst.photos, fnst.training
import fnst.overlap
import torch
from fnst.network import TransformerNetwork
from fnst.stylize import stylize
print(stylize(TransformerNetwork(width=4, blocks=1), torch.rand(1, 3, 20, 30)).shape)
assert benchmarks.__main__.main([]) == 0
"""
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 3, 20, 30])" in done.stdout


def test_ctrl_c_ends_quietly_and_leaves_no_half_file(fnst):
    fnst("stylize", "other.png")  # from here on it starts at once
    Image.new("RGB", (4000, 3000)).save("large.png")
    before = sorted(path.name for path in Path().iterdir())
    command = [sys.executable, "-m", "fnst.cli", "stylize", "photo.jpg", "large.png"]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not Path("photo-ink-v1.jpg").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said[1] == (
        "stopped: what is painted is whole, and the same command goes on with the rest\n"
    )
    assert sorted(path.name for path in Path().iterdir()) == sorted([*before, "photo-ink-v1.jpg"])


def test_a_reader_that_goes_away_is_no_error_to_read_about():
    process = subprocess.Popen(
        [sys.executable, "-m", "fnst.cli", "--version"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait(timeout=60)
    process.stderr.close()
