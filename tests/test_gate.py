"""The gate: no worse than the champion on the same photographs, and no artefact."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from fnst import files, params
from fnst.gate import Measured, judge, judge_champion, read

NAN = math.nan
METRICS = sorted((Path(__file__).parents[1] / "data" / "results").glob("*/metrics.json"))


def measured(number, total=1.0, *, judged_by="x", totals=(), judge=None, **metrics):
    return Measured(number, judged_by, {"total": total, **metrics}, totals, judge or {})


def test_the_first_version_passes_in_any_case():
    assert judge(measured(1), None, {}).passed
    worst = judge(measured(1, grid=NAN), None, {"grid": 1.5})
    assert worst.passed
    assert "although grid nan is above its limit 1.5" in worst.reason


@pytest.mark.parametrize(
    ("total", "word", "relation"),
    [
        (0.9, "passed", "better than"),
        (1.0, "passed", "no worse than"),
        (1.1, "refused", "worse than"),
        (NAN, "refused", "worse than"),
    ],
)
def test_without_intervals_the_totals_decide(total, word, relation):
    verdict = judge(measured(2, total), measured(1), {})
    assert verdict.word == word
    assert verdict.reason.startswith(f"{relation} version 1: held-out total {total:.4g} against 1")


@pytest.mark.parametrize(("total", "passes"), [(1.1, True), (1.2, True), (1.21, False)])
def test_a_total_within_the_champions_interval_is_no_worse(total, passes):
    champion = measured(1, total_low=0.7, total_high=1.2)
    verdict = judge(measured(2, total), champion, {})
    assert verdict.passed == passes
    assert "against 1 (95% between 0.7 and 1.2)" in verdict.reason


def test_the_same_photographs_tell_what_intervals_cannot():
    """Each photograph is a little worse; between photographs lies far more."""
    totals = [1.0, 3.0, 2.0, 7.0, 5.0]
    champion = measured(1, 3.6, totals=totals, total_low=1.8, total_high=5.4)
    worse = measured(2, 3.65, totals=[t + 0.05 for t in totals])
    assert judge(worse, champion, {}).word == "refused"
    mixed = [t + d for t, d in zip(totals, (0.1, -0.1, 0.2, 0.1, -0.2), strict=True)]
    assert judge(measured(2, 3.62, totals=mixed), champion, {}).passed


def test_what_lies_above_the_champions_interval_is_worse_however_photographs_differ():
    champion = measured(1, 1.2, totals=[1.1, 1.3], total_low=1.1, total_high=1.3)
    verdict = judge(measured(2, 1.7, totals=[1.09, 2.31]), champion, {})
    assert verdict.word == "refused"
    assert verdict.reason.endswith(
        "between -0.01 and +1.01), and above 1.3, the upper end of version 1's interval"
    )
    assert judge(measured(2, 1.25, totals=[1.09, 1.41]), champion, {}).passed


def test_tables_of_different_length_are_no_pairs():
    champion = measured(1, totals=[1.0, 1.0], total_low=0.5, total_high=1.5)
    assert judge(measured(2, 1.4, totals=[1.4]), champion, {}).passed


def test_a_limit_that_is_kept_null_or_not_measured_is_none():
    limits = {"grid": 1.5, "border": None, "flat": 0.1}
    assert judge(measured(2, grid=1.5, border=99.0), measured(1), limits).passed
    assert not judge(measured(2, grid=1.51), measured(1), limits).passed


def test_a_limit_holds_at_every_size():
    sound = {"border_ratio": 1.0, "border_ratio_512": 1.2, "border_ratio_mean": 9.0}
    limits = {"border_ratio": 1.2}
    assert judge(measured(2, **sound), measured(1), limits).passed
    verdict = judge(measured(2, **sound | {"border_ratio_512": 1.25}), measured(1), limits)
    assert str(verdict) == "refused: border_ratio at 512 px 1.25 is above its limit 1.2"


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.parent.name)
def test_what_is_committed_breaks_no_limit_of_params_yaml(path):
    found = Measured(1, "x", files.read_json(path))
    assert judge(found, None, asdict(params.load().gate), is_first=False).passed


def test_without_a_champion_a_later_version_is_not_taken_for_the_first():
    limits = {"grid": 1.5}
    verdict = judge(measured(4, grid=1.0), None, limits, is_first=False)
    assert str(verdict) == "passed: there is no champion to be compared with"
    verdict = judge(measured(4, grid=2.0), None, limits, is_first=False)
    assert str(verdict) == "refused: grid 2 is above its limit 1.5"


def test_what_paints_nothing_is_refused_unless_a_limit_allows_it():
    verdict = judge(measured(2, flat=0.96), measured(1), {"flat": None})
    assert str(verdict).startswith("refused: flat 0.96 is above its limit 0.95")
    assert judge(measured(2, flat=0.96), measured(1), {"flat": 1.0}).passed
    assert judge(measured(2, flat=0.95), measured(1), {}).passed
    first = judge(measured(1, NAN), None, {})
    for champion in (measured(1, NAN), measured(1, judged_by="y")):
        verdict = judge(measured(2, NAN), champion, {})
        assert str(verdict) == "refused: total nan is no number"
    assert str(first) == "passed: the first version of its style, although total nan is no number"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("passed: better than version 1: held-out total 1 against 2", "it is the champion already"),
        ("passed: the first version of its style", "the first version of its style"),
        ("passed: the first version of its style, although grid 9 is above its limit 2", None),
    ],
)
def test_a_champion_measured_anew_says_nothing_of_its_old_numbers(written, expected):
    worse = read("refused: worse than version 1: held-out total 1.7 against 1.2")
    assert judge_champion({}, {}, worse).word == "refused"
    assert judge_champion({}, {}, worse, is_measured_anew=True).passed
    verdict = judge_champion({"total": 0.8}, {"grid": 2.0}, read(written), is_measured_anew=True)
    assert str(verdict) == f"passed: {expected or 'the first version of its style'}"


def test_a_champion_whose_total_is_no_number_gives_way():
    assert judge(measured(2), measured(1, NAN), {}).passed
    assert not judge(measured(2, NAN), measured(1), {}).passed


def test_of_few_photographs_no_level_is_claimed():
    champion = measured(1, totals=[1.0, 3.0])
    assert "(so few tell little: between +0.1 and +0.2)" in (
        judge(measured(2, totals=[1.1, 3.2]), champion, {}).reason
    )


def test_a_verdict_names_all_that_is_wrong():
    verdict = judge(measured(2, 2.0, grid=3.0), measured(1), {"grid": 1.5})
    assert verdict.reason.startswith("grid 3 is above its limit 1.5 and worse than version 1")


def test_other_photographs_are_not_compared_but_limits_hold():
    champion = measured(1)
    other = measured(2, 0.1, judged_by="y")
    assert judge(other, champion, {}).word == "not compared"
    flawed = measured(2, 0.1, judged_by="y", grid=2.0)
    assert str(judge(flawed, champion, {"grid": 1.5})) == "refused: grid 2 is above its limit 1.5"


def test_it_is_said_which_part_of_the_judge_differs():
    champion = measured(1, judge={"style.strength": "1", "loss.network": "a", "old": "x"})
    other = measured(2, judged_by="y", judge={"style.strength": "2", "loss.network": "a"})
    assert str(judge(other, champion, {})) == (
        "not compared: version 1 was judged with style.strength 1 instead of 2"
    )
    unknown = measured(2, judged_by="y")
    assert judge(unknown, champion, {}).reason.endswith("on other photographs or by another loss")


def test_a_version_without_a_total_is_not_compared():
    empty = Measured(2, "x", {})
    assert judge(empty, measured(1), {}).reason == "version 2 has no held-out total"


@pytest.mark.parametrize(
    ("limit", "written", "expected"),
    [
        (3.0, "passed: the first, although grid 2 is above its limit 1", "passed: the first"),
        (
            1.0,
            "passed: better than version 1: 3 against 4 (between 1 and 5)",
            "passed: better than version 1: 3 against 4 (between 1 and 5), although grid 2 is "
            "above its limit 1",
        ),
        (3.0, "not compared: version 1 has no total", "not compared: version 1 has no total"),
        (
            3.0,
            "refused: grid 2 is above its limit 1 and worse than version 1: 3 (between 1 and 2)",
            "refused: worse than version 1: 3 (between 1 and 2)",
        ),
        (1.0, "refused: worse", "refused: grid 2 is above its limit 1 and worse"),
        (3.0, "refused: grid 2 is above its limit 1", "passed: it is the champion already"),
    ],
)
def test_of_a_champion_only_the_limits_are_judged_anew(limit, written, expected):
    assert str(judge_champion({"grid": 2.0}, {"grid": limit}, read(written))) == expected


def test_a_verdict_is_read_as_it_was_written():
    verdict = judge(measured(2, 1.1), measured(1), {})
    assert read(str(verdict)) == verdict
    assert read("not champion: held-out total 2 > 1 of version 1").word == "refused"
