"""A bar where somebody watches, a line now and then elsewhere."""

import io
import time

import pytest
from rich.console import Console

from fnst import progress
from fnst.progress import transfers, watch


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when it is told to."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def plain():
    return Console(file=io.StringIO(), width=60)


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end(clock):
    console = plain()
    with watch("train wave", 100, console) as update:
        for done in range(1, 101):
            clock.now += 1.0
            update(done, f"loss {done}")
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 100 // progress.LINE_SECONDS + 1
    assert lines[0].startswith("train wave: 15 of 100, loss 15, ")
    assert lines[-1] == "train wave: 100 of 100, loss 100"


def test_the_time_left_follows_from_the_rate(clock):
    console = plain()
    with watch("fetch", 60, console) as update:
        update(0)
        clock.now += 20
        update(20)
    assert console.file.getvalue() == "fetch: 20 of 60, 40 s left\n"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(14, "14 s"), (59.4, "59 s"), (59.6, "0:01:00"), (75, "0:01:15"), (18_432, "5:07:12")],
)
def test_from_a_minute_on_the_time_left_is_told_as_a_clock_does(clock, monkeypatch, seconds, told):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    console = plain()
    with watch("train", 2, console) as update:
        update(0)
        clock.now += seconds
        update(1)
    assert console.file.getvalue().splitlines()[-1] == f"train: 1 of 2, {told} left"


def test_a_resumed_work_counts_its_rate_from_where_it_began(clock):
    console = plain()
    with watch("train", 1000, console) as update:
        update(900)
        clock.now += 50
        update(950)
    assert console.file.getvalue() == "train: 950 of 1000, 50 s left\n"


def test_time_before_the_first_word_is_not_counted_with_the_work_after_it(clock):
    console = plain()
    with watch("train", 1000, console) as update:
        for done in (50, 100):
            clock.now += 50
            update(done)
    assert console.file.getvalue().splitlines()[-1] == "train: 100 of 1000, 0:15:00 left"


def test_work_that_went_back_counts_its_rate_from_there(clock):
    console = plain()
    with watch("training", 100, console) as update:
        update(0)
        update(50)
        clock.now += 20
        update(40)
        clock.now += 20
        update(60)
    assert console.file.getvalue().splitlines()[-1] == "training: 60 of 100, 40 s left"


def test_work_of_unknown_length_says_how_far_it_is(clock):
    console = plain()
    with watch("fetch", None, console) as update:
        clock.now += 16
        update(3, "wave.jpg 1.5 MB")
    assert console.file.getvalue() == "fetch: 3, wave.jpg 1.5 MB\n"


def test_lines_are_not_broken_where_nobody_knows_the_width(clock):
    console = plain()
    with watch("train", 10, console) as update:
        clock.now += 16
        update(5, "a note of very many words " * 5)
    assert len(console.file.getvalue().splitlines()) == 1


def test_quick_work_without_end_says_nothing(clock):
    console = plain()
    with watch("fetch", 10, console) as update:
        update(5)
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("total", [10, None])
def test_a_terminal_gets_a_bar(total):
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with watch("train wave", total, console) as update:
        update(5)
        update(10, "loss 0.5")
    shown = console.file.getvalue()
    assert "train wave" in shown
    assert "10/10" in shown if total else "10/?" in shown
    assert "loss 0.5" in shown


def test_a_bar_of_long_steps_tells_the_time_left(monkeypatch):
    now = [0.0]
    bar = progress.Progress
    monkeypatch.setattr(
        progress, "Progress", lambda *parts, **more: bar(*parts, **more, get_time=lambda: now[0])
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with watch("train", 100, console) as update:
        for done in (0, 1, 2, 3):
            update(done)
            now[0] += 60.0
    assert "1:37:00" in console.file.getvalue()


def test_an_error_inside_goes_through():
    for console in (plain(), Console(file=io.StringIO(), force_terminal=True)):
        with pytest.raises(KeyboardInterrupt), watch("train", 10, console):
            raise KeyboardInterrupt


# --- transfers ------------------------------------------------------------------------------------


def test_a_log_tells_the_rate_and_the_time_left_of_a_transfer(clock):
    console = plain()
    with transfers(console) as transfer:
        for second in range(31):
            transfer("coco/test2017.zip", second * 20_000_000, 1_000_000_000)
            clock.now += 1.0
    assert console.file.getvalue().splitlines() == [
        "coco/test2017.zip: 300.0 of 1000.0 MB, 20.0 MB/s, 35 s left",
        "coco/test2017.zip: 600.0 of 1000.0 MB, 20.0 MB/s, 20 s left",
    ]


def test_the_rate_is_that_of_the_bytes_that_come_now(clock):
    console = plain()
    with transfers(console) as transfer:
        transfer("a.zip", 900_000_000, None)  # were there already
        clock.now += 20.0
        transfer("a.zip", 940_000_000, None)
    assert console.file.getvalue() == "a.zip: 940.0 MB, 2.0 MB/s\n"


def test_a_terminal_gets_a_bar_for_every_file():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with transfers(console) as transfer:
        transfer("a.zip", 5_000_000, 10_000_000)
        transfer("b.pth", 1_000, None)
        transfer("a.zip", 10_000_000, 10_000_000)
    shown = console.file.getvalue()
    assert "a.zip" in shown
    assert "b.pth" in shown
    assert "10.0/10.0 MB" in shown


def test_what_takes_long_is_shown_and_what_does_not_is_not(monkeypatch):
    for patience, lines in ((60.0, []), (0.0, ["strips: 20 of 20"] * 2)):
        monkeypatch.setattr(progress, "PATIENCE_SECONDS", patience)
        console = Console(file=io.StringIO(), width=80)
        with progress.watch_if_long("strips", console) as tell:
            for _ in range(2):  # it may begin anew
                for done in (5, 10, 20):
                    tell(done, 20)
        assert console.file.getvalue().splitlines() == lines
