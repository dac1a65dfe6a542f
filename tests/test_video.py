"""A clip is painted frame by frame; all else stays, and what was interrupted goes on."""

import io
import weakref

import clip_fixtures
import numpy as np
import pytest
import torch
from clip_fixtures import EVEN, UNEVEN
from rich.console import Console

from fnst import clips, reels, video
from fnst.errors import VideoError
from fnst.files import read_json

INK = {"versions": "ink version 1"}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(video, "SEGMENT", 4)


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.fixture
def stylize(quiet):
    def run(source, target, paint=torch.clone, **options):
        options = {"made_by": INK, "steady": False, "quality": 1} | options
        return video.stylize(source, target, paint, console=quiet, **options)

    return run


def negative(pixels):
    return 255 - pixels


class Counting:
    """Paints, and breaks off at some frame."""

    def __init__(self, until=None):
        self.count, self.until = 0, until

    def __call__(self, pixels):
        if self.count == self.until:
            raise KeyboardInterrupt
        self.count += 1
        return negative(pixels)


def off(ones, others):
    pairs = zip(ones, others, strict=True)
    return max(abs(a.astype(int) - b).mean() for a, b in pairs)


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_clip_comes_out_upright(stylize, tmp_path, turns):
    source = clip_fixtures.write(tmp_path / "a.mp4", turns=turns)
    stylize(source, tmp_path / "b.mp4")
    _, before = clip_fixtures.frames(source)
    _, after = clip_fixtures.frames(tmp_path / "b.mp4")
    upright = [np.rot90(pixels, -turns) for pixels in before]
    assert off(after, upright) < 3


@pytest.mark.parametrize("times", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_every_frame_is_painted_and_shown_when_it_was(stylize, tmp_path, times, ending):
    source = clip_fixtures.write(tmp_path / "clip.mp4", times=times)
    done = stylize(source, tmp_path / f"new{ending}", negative)
    assert (done.frames, done.painted) == (10, 10)
    before, pixels = clip_fixtures.frames(source)
    after, painted = clip_fixtures.frames(tmp_path / f"new{ending}")
    assert after == pytest.approx(before, abs=0.0006)  # Matroska counts in milliseconds
    assert off([255 - p for p in pixels], painted) < 4
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
def test_the_last_frame_is_shown_for_as_long_as_it_was(stylize, tmp_path, ending):
    source = clip_fixtures.write(tmp_path / "clip.mp4", last=128000)
    assert clip_fixtures.length(source) == pytest.approx(10.36)
    stylize(source, tmp_path / f"new{ending}")
    assert clip_fixtures.length(tmp_path / f"new{ending}") == pytest.approx(10.36, abs=0.001)


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
@pytest.mark.parametrize("more", [{}, {"com.apple.quicktime.location.ISO6709": "+48.1+011.5/"}])
def test_what_a_clip_says_of_itself_stays(stylize, tmp_path, ending, more):
    tags = {"title": "Sea", "creation_time": "2024-05-06T07:08:09.000000Z"} | more
    source = clip_fixtures.write(
        tmp_path / "clip.mov", tags=tags, turns=1, movflags="+use_metadata_tags"
    )
    target = tmp_path / f"new{ending}"
    stylize(source, target)
    after = clip_fixtures.tags(target)
    assert after.items() >= tags.items()
    assert after["major_brand"] == {".mp4": "isom", ".mov": "qt  "}[ending]
    assert (clips.read(target).width, clips.read(target).height) == (48, 64)


def test_sound_is_copied_packet_by_packet(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mp4", sound="aac")
    stylize(source, tmp_path / "new.mp4")
    before, after = (clip_fixtures.packets(p) for p in (source, tmp_path / "new.mp4"))
    assert [content for _, content in after] == [content for _, content in before]
    assert [t for t, _ in after] == pytest.approx([t for t, _ in before], abs=0.001)


@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_what_was_joined_goes_on_after_the_seam(stylize, tmp_path, ending):
    times = [512 * i for i in range(60)]
    part = clip_fixtures.write(tmp_path / "part.ts", times=times, sound="aac")
    (tmp_path / "clip.ts").write_bytes(2 * part.read_bytes())
    target = tmp_path / f"new{ending}"
    assert stylize(tmp_path / "clip.ts", target).frames == 120
    shown, _ = clip_fixtures.frames(target)
    assert np.diff(shown) == pytest.approx(0.04, abs=0.0011)
    sound = clip_fixtures.packets(target)
    assert len(sound) == 2 * len(clip_fixtures.packets(part))
    assert np.diff([time for time, _ in sound]) == pytest.approx(1024 / 44100, abs=0.0011)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ([0, 40, 30, 40, 120], [0, 40, 41, 42, 120]),  # jitter
        ([0, 40, 5000, 5040], [0, 40, 5000, 5040]),  # a gap
        ([7000, 7040, 0, 40], [7000, 7040, 7080, 7120]),  # joined
        ([7000, 7040, 0, 7060, 40], [7000, 7040, 7080, 7081, 7120]),  # joined, one comes late
        ([7000, 7040, 0, 7120, 7160], [7000, 7040, 7080, 7120, 7160]),  # one goes astray
    ],
)
def test_times_rise_whatever_a_stream_says(said, meant):
    clock = clips.Clock(clips.Fraction(1, 1000))
    assert [clock(time, 40) for time in said] == meant


def test_labels_of_colours_stay_and_colours_do_not_drift(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mp4", color_range=2, colorspace=1)
    stylize(source, tmp_path / "new.mp4")
    one, other = clips.read(source), clips.read(tmp_path / "new.mp4")
    assert one.colours == other.colours
    assert one.colours.range == 2
    (_, before), (_, after) = map(clip_fixtures.frames, (source, tmp_path / "new.mp4"))
    assert off(before, after) < 1.5


def test_odd_sides_stay_odd_and_that_is_said(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mkv", size=(63, 47))
    done = stylize(source, tmp_path / "new.mp4")
    assert clips.read(tmp_path / "new.mp4").width == 63
    assert done.notes == ("its sides are odd, and not every player shows H.264 like that",)


def test_steadied_frames_continue_one_another(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mp4", size=(96, 64))
    generator = torch.Generator().manual_seed(0)

    def flickering(pixels):
        noise = torch.randint(-40, 41, pixels.shape, generator=generator)
        return (pixels + noise).clamp(0, 255).to(torch.uint8)

    for steady in (False, True):
        stylize(source, tmp_path / f"{steady}.mp4", flickering, steady=steady)
    still = [p[40:, :30].astype(int) for p in clip_fixtures.frames(tmp_path / "True.mp4")[1]]
    loud = [p[40:, :30].astype(int) for p in clip_fixtures.frames(tmp_path / "False.mp4")[1]]
    flicker = [abs(a[-1] - a[-2]).mean() for a in (still, loud)]
    assert flicker[0] < 0.6 * flicker[1]


# --- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize("until", [0, 2, 5, 9])
@pytest.mark.parametrize("steady", [False, True])
def test_what_was_interrupted_goes_on_and_ends_the_same(stylize, tmp_path, until, steady):
    source = clip_fixtures.write(tmp_path / "clip.mp4", times=UNEVEN, sound="aac")
    whole, target = tmp_path / "whole.mp4", tmp_path / "new.mp4"
    stylize(source, whole, negative, steady=steady)
    with pytest.raises(KeyboardInterrupt):
        stylize(source, target, Counting(until), steady=steady)
    assert not target.exists()
    rest = Counting()
    done = stylize(source, target, rest, steady=steady)
    assert done.frames == 10
    assert rest.count == done.painted == 10 - until // 4 * 4
    assert target.read_bytes() == whole.read_bytes()


def test_another_painter_begins_anew(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mp4")
    with pytest.raises(KeyboardInterrupt):
        stylize(source, tmp_path / "new.mp4", Counting(6))
    told = read_json(video.place_of_work(tmp_path / "new.mp4") / video.MADE_FROM)
    assert told["versions"] == "ink version 1"
    other = Counting()
    stylize(source, tmp_path / "new.mp4", other, made_by={"versions": "ink version 2"})
    assert other.count == 10


def test_frames_are_not_held_back(stylize, tmp_path):
    """However long a clip is, few frames wait between the loops."""
    source = clip_fixtures.write(tmp_path / "clip.mp4", times=[512 * i for i in range(60)])
    alive, most = set(), 0

    class Seen(torch.Tensor):
        pass

    def paint(pixels):
        nonlocal most
        result = negative(pixels)
        alive.add(id(result))
        weakref.finalize(result, alive.discard, id(result))
        most = max(most, len(alive))
        return result

    stylize(source, tmp_path / "new.mp4", paint)
    assert most < 12


# --- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.mp4", None, "there is no such file"),
        ("text.mp4", b"no clip", "this is not a video that can be read"),
        ("empty.mp4", b"", "this is not a video that can be read"),
    ],
)
def test_what_is_no_clip_is_said_in_one_sentence(stylize, tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=reason):
        stylize(tmp_path / name, tmp_path / "new.mp4")
    assert not list(tmp_path.glob("new*"))


@pytest.mark.parametrize("sound", ["", "aac"])
@pytest.mark.parametrize("ending", [".mkv", ".mp4"])
def test_a_clip_that_ends_in_its_middle_is_painted_as_far_as_it_goes(
    stylize, tmp_path, ending, sound
):
    times = [512 * i for i in range(60)]
    place = tmp_path / f"clip{ending}"
    clip_fixtures.write(place, times=times, sound=sound, movflags="+faststart")
    content = place.read_bytes()
    place.write_bytes(content[: len(content) * 3 // 4])
    target = tmp_path / f"new{ending}"
    done = stylize(place, target)
    assert 0 < done.frames < 60
    assert len(clip_fixtures.frames(target)[0]) == done.frames
    if sound:
        assert 0 < clip_fixtures.packets(target)[-1][0] < 2.2


def test_sound_goes_as_far_as_the_pictures_where_the_rest_cannot_be_read(stylize, tmp_path):
    import av

    times = [512 * i for i in range(60)]
    source = clip_fixtures.write(
        tmp_path / "clip.mp4", times=times, sound="aac", movflags="+empty_moov+frag_every_frame"
    )
    clip_fixtures.damage(source)
    with av.open(str(source)) as container, pytest.raises(av.FFmpegError):
        list(container.demux())
    done = stylize(source, tmp_path / "new.mp4")
    assert 0 < done.frames < 60
    assert done.notes == (f"it is damaged; {done.frames} of its frames could be read",)
    last = clip_fixtures.packets(tmp_path / "new.mp4")[-1][0]
    assert last == pytest.approx(done.frames / 25, abs=0.2)


def test_sound_alone_is_no_clip(stylize, tmp_path):
    import av

    with av.open(str(tmp_path / "hum.mp4"), "w") as out:
        audio = out.add_stream("aac", rate=44100, layout="mono")
        clip_fixtures._hum(out, audio, 1)
    with pytest.raises(VideoError, match="there are no moving pictures"):
        stylize(tmp_path / "hum.mp4", tmp_path / "new.mp4")


def test_nothing_is_overwritten_or_lost_unasked(stylize, tmp_path):
    source = clip_fixtures.write(tmp_path / "clip.mp4", sound="aac")
    target = tmp_path / "new.mp4"
    target.write_bytes(b"mine")
    for place, reason in {
        target: "is there already; say --overwrite",
        source: "is the clip to repaint itself",
        tmp_path / "new.gif": "expected an ending that clips are written with",
        tmp_path / "new.webm": "cannot hold the sound",
    }.items():
        with pytest.raises(VideoError, match=reason):
            stylize(source, place)
    assert target.read_bytes() == b"mine"
    stylize(source, target, overwrite=True)
    assert clips.read(target).count == 10


def test_the_folder_of_results_is_made_and_a_colon_names_no_protocol(
    stylize, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = clip_fixtures.write(tmp_path / "12:30.mp4")
    done = stylize(source.relative_to(tmp_path), video.Path("new/deep/12:30 painted.mp4"))
    assert done.frames == 10
    assert clips.read(tmp_path / "new/deep/12:30 painted.mp4").count == 10


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_lies_where_segments_would_and_is_not_ours_stays(stylize, tmp_path, kind):
    source = clip_fixtures.write(tmp_path / "clip.mp4")
    mine = tmp_path / "new.mp4.part"
    if kind == "folder":
        mine.mkdir()
    (mine / "mine.txt" if kind == "folder" else mine).write_text("mine")
    with pytest.raises(VideoError, match="is in the way, and not from fnst"):
        stylize(source, tmp_path / "new.mp4")
    assert (mine / "mine.txt" if kind == "folder" else mine).read_text() == "mine"


def test_results_are_named_as_those_of_pictures_are(tmp_path):
    one, other = tmp_path / "a.mp4", tmp_path / "b.avi"
    assert video.targets([one, other], None, "ink-v1") == [
        tmp_path / "a-ink-v1.mp4",
        tmp_path / "b-ink-v1.mkv",
    ]
    assert video.targets([one], str(tmp_path / "x.mov"), "ink-v1") == [tmp_path / "x.mov"]
    assert video.targets([one], "out", "ink-v1") == [video.Path("out/a-ink-v1.mp4")]
    with pytest.raises(VideoError, match="one file, but there are several"):
        video.targets([one, other], str(tmp_path / "x.mov"), "ink-v1")
    with pytest.raises(VideoError, match="cannot be piped out"):
        video.targets([one], "-", "ink-v1")
    with pytest.raises(VideoError, match="would become"):
        video.targets([one, tmp_path / "c" / "a.mp4"], "out", "ink-v1")
    same = tmp_path / "c" / "a.mp4"
    assert video.targets([one, same], "out", "ink-v1", below={same: video.Path("c")}) == [
        video.Path("out/a-ink-v1.mp4"),
        video.Path("out/c/a-ink-v1.mp4"),
    ]


def test_a_pictures_quality_is_x264s_factor_at_both_ends_and_where_nobody_sees_a_loss():
    assert [reels.rate_factor(quality) for quality in (1, 80, 95)] == [51, 23, reels.QUALITY]
    assert 0 < reels.rate_factor(100) < reels.QUALITY  # 0 is a profile that few players know


def test_every_format_that_is_offered_can_be_written():
    import av

    assert {form.encoder for form in reels.FORMATS.values()} <= av.codecs_available
