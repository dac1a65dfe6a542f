"""Relative numbers say how much better a network is than doing nothing."""

import pytest
import torch

from fnst.evaluation import Score, as_row, evaluate, summarize
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork


class Always(TransformerNetwork):
    """A network whose result is known: one picture for all, or the photograph itself."""

    def __init__(self, picture=None):
        super().__init__(width=1, blocks=0)
        self.picture = picture

    def forward(self, photos):
        return photos if self.picture is None else self.picture


def flat(value):
    return torch.full((1, 3, 16, 16), value)


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


def test_doing_nothing_scores_one_and_keeps_all_content(loss):
    (score,) = evaluate(Always(), loss, [("a.jpg", torch.rand(1, 3, 16, 16))])
    assert score.photo == "a.jpg"
    assert score.relative_style == pytest.approx(1, rel=1e-3)
    assert score.relative_total == pytest.approx(1, rel=1e-3)
    assert score.content == 0
    assert score.total == score.style


def test_the_style_itself_has_no_style_left_to_lose(loss):
    (score,) = evaluate(Always(flat(0.5)), loss, [("a.jpg", flat(1.0))])
    assert score.relative_style == pytest.approx(0, abs=1e-6)
    assert score.content == pytest.approx((0.5 / 0.5) ** 2)


def test_scores_of_flat_pictures_can_be_worked_out_by_hand(loss):
    (score,) = evaluate(Always(flat(0.25)), loss, [("a.jpg", flat(1.0))])
    # Relative distance of means: (v - 0.5) / 0.5 for a flat picture v.
    style, before = 2 * (0.25 / 0.5) ** 2, 2 * (0.5 / 0.5) ** 2
    content = 0.75**2 / 0.25
    assert score.style == pytest.approx(style, rel=1e-4)
    assert score.content == pytest.approx(content, rel=1e-4)
    assert score.total == pytest.approx(style + content, rel=1e-4)
    assert score.relative_style == pytest.approx(style / before, rel=1e-4)
    assert score.relative_total == pytest.approx((style + content) / before, rel=1e-4)


def test_photographs_of_any_size_are_scored_one_by_one(loss):
    photos = [("a.jpg", torch.rand(1, 3, 17, 20)), ("b.jpg", torch.rand(1, 3, 32, 16))]
    scores = list(evaluate(TransformerNetwork(width=2, blocks=0).eval(), loss, photos))
    assert [score.photo for score in scores] == ["a.jpg", "b.jpg"]
    (alone,) = evaluate(Always(), loss, photos[1:])
    assert alone.photo == "b.jpg"


def test_the_summary_is_the_mean_of_every_number_and_how_many_there_were():
    scores = [Score("a.jpg", 1.0, 2.0, 3.0, 0.4, 0.6), Score("b.jpg", 2.0, 4.0, 6.0, 0.2, 0.2)]
    assert summarize(scores) == {
        "content": 1.5,
        "style": 3.0,
        "total": 4.5,
        "relative_style": 0.3,
        "relative_total": 0.4,
        "photographs": 2,
    }


def test_a_row_carries_its_photograph():
    row = as_row(Score("a.jpg", 1.0, 2.0, 3.0, 0.4, 0.6))
    assert row["photo"] == "a.jpg"
    assert row["relative_style"] == 0.4
