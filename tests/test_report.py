"""A page says what was found, holds its pictures, and lets no name become markup."""

import base64
import io
import re
import subprocess
import sys

import pytest
from PIL import Image

from fnst import evaluation, files, report
from fnst.evaluation import Score
from fnst.gatys import Anchor

LAYERS = {"content_relu3_1": 0.4, "style_relu1_1": 0.02, "relative_style_relu1_1": 0.125}

ANCHOR = Anchor([10.0, 4.0, 2.0], 3.0)


def score(photo="a.jpg", size=64, total=3.0, side=None):
    return Score(
        photo,
        size,
        side or size,
        dict.fromkeys(evaluation.NUMBERS, 0.5) | LAYERS | {"total": total},
    )


def page(scores, anchor=ANCHOR):
    return report.page("great-wave", scores, anchor, sheet=b"a sheet").decode()


def cells(text):
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_means_and_intervals_stand_beside_each_other_size_by_size():
    text = page([score(total=1.0), score("b.jpg", total=3.0), score(size=96, total=7.0)])
    rows = {row[0]: row[1:] for row in cells(text.split("<h2>Numbers")[1].split("<h2>")[0])}
    assert rows[""] == ["64 px", "96 px, 1 of them", ""]
    assert rows["total"][:2] == [
        "2.000 <small>1.000 to 3.000</small>",
        "7.000 <small>7.000 to 7.000</small>",
    ]


def test_every_layer_has_a_row_with_its_share_of_the_photographs():
    rows = {row[0]: row[1] for row in cells(page([score()]).split("<h2>Layers")[1])}
    assert rows["content relu3_1"] == "0.400 <small>0.400 to 0.400</small>"
    assert rows["style relu1_1"].endswith("<small>12%</small>")


def test_every_photograph_has_a_row_for_each_size():
    text = page([score(), score(size=96), score("b.jpg")]).split("<h2>Photographs")[1]
    assert [row[:2] for row in cells(text)[1:]] == [
        ["a.jpg", "64 px"],
        ["a.jpg", "96 px"],
        ["b.jpg", "64 px"],
    ]


def test_a_size_that_a_photograph_does_not_reach_is_not_claimed():
    text = page([score(), score("b.jpg", side=50)])
    assert text.count("<th>50 to 64 px</th>") == 2
    larger = page([score(), score(size=128), score("b.jpg")])
    assert larger.count("<th>128 px, 1 of them</th>") == 2
    assert ["b.jpg", "50 px"] in [row[:2] for row in cells(text.split("<h2>Photographs")[1])]


def test_pictures_are_inside():
    held = re.findall(r'src="data:image/(\w+);base64,(.*?)"', page([score()]))
    assert [(kind, base64.b64decode(data)) for kind, data in held] == [
        ("jpeg", b"a sheet"),
        ("png", report.draw(ANCHOR)),
    ]


def test_without_a_curve_nothing_is_said_of_optimisation():
    text = page([score()], None)
    assert "optimi" not in text.lower()
    assert text.count("<img") == 1


def test_only_where_it_is_known_the_network_is_said_not_to_have_seen_the_photographs():
    assert "On 1 photograph, its total" in page([score()])
    unseen = report.page("great-wave", [score()], None, sheet=b"", unseen=True).decode()
    assert "On 1 photograph that the network never saw, its total" in unseen


def test_a_trade_off_is_inside_as_well_once_there_is_one():
    with_it = report.with_trade_off(page([score()]).encode(), b"a trade-off").decode()
    held = re.findall(r'src="(.*?)"', with_it)
    assert all(source.startswith("data:image/") for source in held)
    assert [base64.b64decode(source.partition(",")[2]) for source in held] == [
        b"a sheet",
        report.draw(ANCHOR),
        b"a trade-off",
    ]


def test_a_trade_off_of_another_network_is_not_kept(tmp_path):
    report.drop_stale_trade_off(tmp_path, 1.0, {"relative_style": 0.2})  # there is none yet
    points = [{"strength": 0.5, "style": 0.3}, {"strength": 1.0, "style": 0.2}]
    files.write_json(tmp_path / "tradeoff.json", points)
    (tmp_path / "tradeoff.jpg").touch()
    report.drop_stale_trade_off(tmp_path, 1.0, {"relative_style": 0.2})
    report.drop_stale_trade_off(tmp_path, 3.0, {"relative_style": 0.1})  # a trial beside the sweep
    assert len(list(tmp_path.iterdir())) == 2
    report.drop_stale_trade_off(tmp_path, 1.0, {"relative_style": 0.21})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("curve", "total", "said"),
    [
        ([10.0, 4.0, 2.0], 2.0, "2.000; L-BFGS on the pixels needs 2 iterations for that (2 reach"),
        ([10.0, 4.0, 2.0], 1.0, "needs more than 2 iterations for that (2 reach 2.000)."),
        ([10.0, 4.0], 4.0, "needs 1 iteration for that (1 reaches 4.000)."),
        ([10.0, 4.0], 10.0, "10.0: it is no better than the untouched photographs (10.0)."),
        ([10.0, 4.0], float("nan"), "nan: it is no better than the untouched photographs (10.0)."),
    ],
)
def test_the_network_is_compared_with_optimisation_in_words(curve, total, said):
    told = report.against(Anchor(curve, total, [("a.jpg", 192)]))
    assert told.startswith("On a.jpg at 192 pixels its total is ")
    assert said in told
    assert told in page([score()], Anchor(curve, total, [("a.jpg", 192)]))


@pytest.mark.parametrize(
    ("photographs", "said"),
    [
        ([], "On the photographs, and at the size, of this curve its total"),
        ([("a", 64), ("b", 64)], "On a and b at 64 pixels its total"),
        ([("a", 64), ("b", 48), ("c", 50)], "On a, b and c at 48 to 64 pixels its total"),
        ([(name, 64) for name in "abcde"], "On a, b, c and 2 more at 64 pixels its total"),
    ],
)
def test_the_photographs_of_the_curve_are_named_and_so_is_their_size(photographs, said):
    assert report.against(Anchor([10.0, 4.0, 2.0], 3.0, photographs)).startswith(said)


def test_nothing_is_said_of_how_long_optimisation_takes():
    assert "second" not in page([score()])


def test_a_caption_says_at_which_size_a_photograph_was_judged_and_is_shown():
    told = "content 0.500, style 0.500, total 3.000, 50% of the photograph's own"
    assert report.caption(score(size=256), 256) == f"a.jpg, at 256 pixels: {told}"
    smaller = f"a.jpg, shown at 512 pixels; at 256 pixels: {told}"
    assert report.caption(score(size=256), 512) == smaller


def test_the_name_of_a_file_is_no_markup():
    name = "<b>&\udcff.jpg"
    text = page([score(name)], Anchor([10.0, 4.0], 3.0, [(name, 64)]))
    assert text.count("&lt;b&gt;&amp;?.jpg") == 2


@pytest.mark.parametrize("total", [12.0, 3.0, 0.5], ids=["before", "on", "beyond"])
def test_the_curve_is_drawn_wherever_the_network_falls(total):
    drawn = report.draw(Anchor([10.0, 4.0, 2.0, 1.5], total))
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_who_draws_nothing_need_not_wait_for_what_draws():
    code = "import fnst.report, sys; print('matplotlib' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
