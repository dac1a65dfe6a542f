"""Relative numbers say how much better a painter is than doing nothing."""

from dataclasses import fields
from functools import partial

import pytest
import torch

from fnst import params
from fnst.errors import ImageError
from fnst.evaluation import (
    HEADLINES,
    NUMBERS,
    Score,
    as_row,
    as_rows,
    evaluate,
    firsts,
    largest,
    means,
    metrics,
    spans,
    total,
)
from fnst.gate import Measured
from fnst.gate import judge as judge_by_limits
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.stylize import stylize


def flat(value, size=48):
    return torch.full((1, 3, size, size), value)


def nothing(photo):
    return photo


def always(value):
    return lambda photo: torch.full_like(photo, value)


@pytest.fixture
def loss():
    """Looks at the pixels; the style is a flat grey, and variation is not weighed."""
    return PerceptualLoss(
        lambda image, layers: dict.fromkeys(layers, image),
        flat(0.5),
        content_layer="pixels",
        style_layers={"pixels": 1.0},
        weights=Weights(content=1.0, style=2.0),
    )


@pytest.fixture
def judge(loss):
    return lambda paint, photos, sizes=(48,): list(evaluate(paint, loss, flat(0.5), photos, sizes))


def test_doing_nothing_scores_one_and_keeps_all_content(judge):
    (score,) = judge(nothing, [("a.jpg", torch.rand(1, 3, 64, 64))], [64])
    assert (score.photo, score.size) == ("a.jpg", 64)
    for name in ("relative_style", "relative_total", "relative_style_pixels", "relative_sifid"):
        assert score.values[name] == pytest.approx(1, rel=1e-3), name
    for name in ("grid_ratio", "border_ratio", "ssim"):
        assert score.values[name] == pytest.approx(1), name
    assert score.values["content"] == score.values["content_pixels"] == 0
    assert score.values["perceptual"] == 0
    assert score.values["total"] == score.values["style"]


def test_the_style_itself_has_no_style_left_to_lose(judge):
    (score,) = judge(always(0.5), [("a.jpg", flat(1.0))])
    for name in ("relative_style", "style_pixels", "sifid", "relative_sifid"):
        assert score.values[name] == pytest.approx(0, abs=1e-6), name
    assert score.values["content"] == pytest.approx((0.5 / 0.5) ** 2)
    assert score.values["flat"] == 1


def test_scores_of_flat_pictures_can_be_worked_out_by_hand(judge):
    (score,) = judge(always(0.25), [("a.jpg", flat(1.0))])
    # Relative distance of means: (v - 0.5) / 0.5 for a flat picture v.
    style, before = (0.25 / 0.5) ** 2, (0.5 / 0.5) ** 2
    content = 0.75**2 / 0.25
    assert score.values["style"] == pytest.approx(2 * style, rel=1e-4)
    assert score.values["style_pixels"] == pytest.approx(style, rel=1e-4)
    assert score.values["content"] == pytest.approx(content, rel=1e-4)
    assert score.values["total"] == pytest.approx(2 * style + content, rel=1e-4)
    assert score.values["relative_style"] == pytest.approx(style / before, rel=1e-4)
    assert score.values["relative_total"] == pytest.approx(
        (2 * style + content) / (2 * before), rel=1e-4
    )
    # As Gaussians without spread, 0.25 and 1 lie a quarter and a whole style's energy away.
    assert score.values["sifid"] == pytest.approx(0.25, rel=1e-4)
    assert score.values["relative_sifid"] == pytest.approx(0.25, rel=1e-4)


def test_the_painting_itself_can_be_judged_as_a_photograph(judge):
    (score,) = judge(nothing, [("a.jpg", flat(0.5))])
    assert score.values["relative_total"] == 0


def test_a_total_is_the_sum_of_the_terms_that_are_told(loss):
    loss.weights = Weights(content=1.0, style=2.0, variation=3.0, grid=0.1)
    photos = [("a.jpg", torch.rand(1, 3, 48, 48))]
    (score,) = evaluate(nothing, loss, flat(0.5), photos, [48])
    terms = [score.values[name] for name in ("content", "style", "variation", "grid")]
    assert min(terms[1:]) > 0
    assert score.values["total"] == pytest.approx(sum(terms), rel=1e-5)
    assert set(NUMBERS) <= score.values.keys()
    assert not {"relative_content", "relative_variation", "relative_grid"} & score.values.keys()
    found = metrics([score])
    assert [found[name] for name in ("variation", "grid")] == pytest.approx(terms[2:], abs=1e-6)


def test_the_total_alone_is_the_total_of_the_score(loss, judge):
    photo = torch.rand(1, 3, 48, 48)
    (score,) = judge(always(0.25), [("a.jpg", photo)])
    assert total(always(0.25), loss, photo) == pytest.approx(score.values["total"], rel=1e-5)


def test_photographs_of_any_shape_are_scored_one_by_one(judge):
    photos = [("a.jpg", torch.rand(1, 3, 51, 70)), ("b.jpg", torch.rand(1, 3, 96, 48))]
    network = TransformerNetwork(width=2, blocks=0).eval()
    scores = judge(partial(stylize, network), photos)
    assert [score.photo for score in scores] == ["a.jpg", "b.jpg"]
    assert all(len(score.values) == len(scores[0].values) for score in scores)


# --- sizes ----------------------------------------------------------------------------------------


def test_a_photograph_is_scored_at_the_sizes_that_it_reaches(judge):
    photos = [("small", flat(1.0, 64)), ("large", flat(1.0, 96)), ("tiny", flat(1.0, 50))]
    scores = judge(nothing, photos, [96, 64])
    assert [(s.photo, s.size) for s in scores] == [
        ("small", 64),
        ("large", 64),
        ("large", 96),
        ("tiny", 64),
    ]


def test_a_photograph_is_made_smaller_and_never_larger(loss):
    seen = set()

    def look(photo):
        seen.add(tuple(photo.shape[2:]))
        return photo

    photos = [("wide", torch.rand(1, 3, 128, 256)), ("tiny", torch.rand(1, 3, 50, 60))]
    scores = list(evaluate(look, loss, flat(0.5), photos, [64]))
    assert {(64, 128), (50, 60)} <= seen
    assert [(score.size, score.side) for score in scores] == [(64, 64), (64, 50)]
    assert spans(scores) == {64: "50 to 64"}
    assert spans(scores[1:]) == {64: "50"}


def test_what_was_enlarged_is_scored_at_the_sizes_that_it_came_in(loss):
    seen = set()

    def look(photo):
        seen.add(tuple(photo.shape[2:]))
        return photo

    photos = [("kept", flat(1.0, 96)), ("enlarged", flat(1.0, 96)), ("tiny", flat(1.0, 96))]
    scores = evaluate(look, loss, flat(0.5), photos, [64, 96], [96, 80, 52])
    assert [(s.photo, s.size) for s in scores] == [
        ("kept", 64),
        ("kept", 96),
        ("enlarged", 64),
        ("tiny", 64),
    ]
    assert (52, 52) in seen


def test_a_photograph_that_is_nearly_all_border_is_refused_by_its_name(judge):
    with pytest.raises(ImageError, match=r"a\.jpg: expected .* at least 48 pixels a side, got 40"):
        judge(nothing, [("a.jpg", flat(1.0, 40))])


# --- means ----------------------------------------------------------------------------------------


def test_means_are_of_each_size():
    scores = [
        Score("a.jpg", 64, 64, {"total": 1.0}),
        Score("b.jpg", 64, 64, {"total": 2.0}),
        Score("b.jpg", 48, 48, {"total": 7.0}),
    ]
    by_size = means(scores)
    assert list(by_size) == [48, 64]
    assert by_size[64]["total"].mean == 1.5
    assert by_size[48]["total"].mean == 7


def test_each_photograph_has_one_score_at_its_smallest_and_one_at_its_largest_size():
    sizes = [("a.jpg", 48), ("a.jpg", 64), ("a.jpg", 48), ("b.jpg", 48), ("b.jpg", 96)]
    scores = [Score(name, size, size, {}) for name, size in sizes]
    assert firsts(scores) == [scores[i] for i in (0, 2, 3)]
    assert largest(scores) == [scores[i] for i in (1, 2, 4)]


def test_metrics_are_flat_and_of_the_smallest_size_first(judge):
    photos = [("a.jpg", flat(1.0, 64)), ("b.jpg", flat(0.0, 64))]
    found = metrics(judge(always(0.5), photos, [64, 48]))
    assert (found["photographs"], found["photographs_64"], found["size"]) == (2, 2, 48)
    assert found["total"] == pytest.approx(1)
    assert (found["total_low"], found["total_high"]) == (found["total"], found["total"])
    assert found["total_64"] == pytest.approx(1)
    assert found["total_low_64"] == found["total_64"] == found["total_high_64"]
    assert "total_48" not in found
    kept = ("content", "style", "total", "relative_style", "relative_total", "photographs")
    added = ("grid_ratio", "border_ratio", "clipped", "flat", "ssim", "perceptual", "sifid")
    assert {*kept, *added} <= found.keys()
    assert all(isinstance(value, float | int) for value in found.values())


@pytest.mark.parametrize("name", [field.name for field in fields(params.Gate)])
def test_what_has_a_limit_is_held_to_it_at_every_size(name):
    sound = dict.fromkeys(HEADLINES, 0.1)
    found = metrics([Score("a.jpg", 48, 48, sound), Score("a.jpg", 64, 64, sound | {name: 0.9})])
    verdict = judge_by_limits(Measured(2, "x", found), None, {name: 0.5}, is_first=False)
    assert str(verdict) == f"refused: {name} at 64 px 0.9 is above its limit 0.5"


def test_a_row_carries_its_photograph_and_size():
    row = as_row(Score("a.jpg", 64, 50, {"total": 3.0}))
    named = {"picture": "a.jpg, 50 px", "photo": "a.jpg", "size": 64, "side": 50}
    assert row == named | {"total": 3.0}


def test_means_are_rows_too():
    assert as_rows(means([Score("a.jpg", 64, 64, {"total": 3.0})])) == [
        {"size": 64, "number": "total", "mean": 3.0, "low": 3.0, "high": 3.0}
    ]
