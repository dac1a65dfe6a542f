"""Pixels fall monotonically to known minima, and totals find their place on the curve."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from fnst import files
from fnst.gatys import Anchor, descend, repaint, subjects
from fnst.losses import PerceptualLoss, Weights
from fnst.photos import Photos


def quadratic(target, steepness):
    def objective(point):
        difference = point - target
        return (steepness * difference.square()).sum().item(), 2 * steepness * difference

    return objective


def values(objective, start, iterations):
    return [value for _, value in descend(objective, start, iterations)]


def falls(curve):
    return all(after <= before for before, after in pairwise(curve))


def test_the_minimum_of_a_badly_scaled_bowl_is_reached_in_few_iterations():
    steepness = torch.logspace(0, 3, 50, dtype=torch.float64)
    target = torch.rand(50, dtype=torch.float64)
    curve = values(quadratic(target, steepness), torch.full_like(target, 0.5), 150)
    assert curve[-1] < 1e-8 * curve[0]
    assert falls(curve)


def test_a_minimum_outside_is_met_at_the_nearest_point_inside():
    target = torch.tensor([-1.0, 0.3, 2.0])
    *_, (point, _) = descend(quadratic(target, torch.tensor([1.0, 5.0, 9.0])), torch.rand(3), 30)
    assert point.tolist() == pytest.approx([0, 0.3, 1], abs=1e-4)


def test_bounds_do_not_hold_up_what_is_coupled_to_them():
    """Most of a steep, turned bowl's values end at a bound; the others find their own minimum."""
    turned, _ = torch.linalg.qr(torch.randn(40, 40).double())
    steepness = turned @ torch.logspace(0, 3, 40).double().diag() @ turned.T
    centre = 0.5 + 1.5 * torch.randn(40).double()

    def bowl(point):
        slope = steepness @ (point - centre)
        return (0.5 * (point - centre) @ slope).item(), slope

    *_, (point, _) = descend(bowl, torch.full((40,), 0.5).double(), 80)
    assert ((point == 0) | (point == 1)).sum() > 20
    _, slope = bowl(point)
    leads_nowhere = point - (point - slope).clamp(0, 1)
    assert leads_nowhere.abs().max() < 2e-5


def test_a_valley_with_a_bend_is_followed_to_its_end():
    def rosenbrock(point):
        point = point.detach().requires_grad_()
        x, y = 4 * point - 2  # the usual square, in [0, 1]
        value = (1 - x).square() + 100 * (y - x * x).square()
        (gradient,) = torch.autograd.grad(value, point)
        return value.item(), gradient

    start = torch.tensor([0.2, 0.75]).double()
    points, curve = zip(*descend(rosenbrock, start, 120), strict=True)
    assert curve[-1] < 1e-8
    assert falls(curve)
    assert all(point.min() >= 0 and point.max() <= 1 for point in points)


def test_where_it_can_fall_no_further_the_curve_goes_on_level():
    target = torch.tensor([0.4, 0.6])
    curve = values(quadratic(target, torch.ones(2)), target, 5)
    assert curve == [0.0] * 6


def test_a_photograph_is_repainted_inside_its_colours_and_begins_as_it_is(extract):
    style, photo = torch.rand(1, 3, 24, 24), torch.rand(1, 3, 16, 20)
    loss = PerceptualLoss(
        extract,
        style,
        content_layer="deep",
        style_layers={"shallow": 0.5, "deep": 0.5},
        weights=Weights(variation=0.1),
    )
    images, curve = zip(*repaint(loss, photo, 12), strict=True)
    assert torch.equal(images[0], photo)
    assert curve[0] == pytest.approx(loss(photo, photo).total.item())
    assert curve[-1] == pytest.approx(loss(images[-1], photo).total.item())
    assert curve[-1] < 0.8 * curve[0]
    assert len(curve) == 13
    assert falls(curve)
    assert all(image.min() >= 0 and image.max() <= 1 for image in images)


# --- where a total lies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "iterations"),
    [(11.0, 0), (10.0, 0), (7.0, 0.5), (4.0, 1), (3.0, 1.5), (2.0, 2), (1.0, 4), (0.5, 4)],
)
def test_a_total_lies_where_the_curve_passes_it(total, iterations):
    anchor = Anchor([10.0, 4.0, 2.0, 2.0, 1.0], total)
    assert anchor.iterations == pytest.approx(iterations)
    assert anchor.metrics == {
        "gatys_iterations": pytest.approx(iterations),
        "gatys_longest": 4,
        "gatys_total": total,
    }


@pytest.mark.parametrize("total", [float("nan"), float("inf")])
def test_a_total_that_is_no_number_is_as_good_as_no_iteration(total):
    anchor = Anchor([10.0, 4.0, 2.0], total)
    assert anchor.metrics == {
        "gatys_iterations": 0,
        "gatys_longest": 2,
        "gatys_total": pytest.approx(total, nan_ok=True),
    }
    assert str(anchor) == "0 iterations"


@pytest.mark.parametrize(
    ("total", "said"),
    [(11.0, "0 iterations"), (9.9, "less than 1 iteration"), (4.0, "1 iteration")],
)
def test_one_iteration_is_one_and_none_is_what_is_no_better(total, said):
    assert str(Anchor([10.0, 4.0, 2.0], total)) == said


def test_a_total_below_the_curve_is_said_to_be_beyond_it():
    assert str(Anchor([10.0, 4.0, 2.0], 1.9)) == "more than 2 iterations"
    assert str(Anchor([10.0, 4.0, 2.0], 2.0)) == "2 iterations"


# --- on what --------------------------------------------------------------------------------------


def test_the_first_photographs_are_optimised_and_none_is_enlarged(tmp_path):
    told = {"size": 48, "photographs": 3, "shards": {"0.npy": 3}, "smaller": {"2": 20}}
    files.write_json(tmp_path / "set.json", told)
    pixels = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 48, 48, 3)
    np.save(tmp_path / "0.npy", pixels.numpy())
    first, second = subjects(Photos(tmp_path), 2, 32)
    assert first.shape == (1, 3, 32, 32)
    assert second.mean() == pytest.approx(1 / 255)
    assert [len(photo[0, 0]) for photo in subjects(Photos(tmp_path), 9, 32)] == [32, 32, 20]
    assert subjects(Photos(tmp_path), 1, 64)[0].shape == (1, 3, 48, 48)
