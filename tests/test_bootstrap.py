"""The mean of a sample, and where that of another one is to be expected."""

import pytest
import torch

from fnst import bootstrap
from fnst.bootstrap import mean


def test_the_interval_of_two_numbers_is_their_span():
    found = mean([1.0, 3.0])
    assert (found.mean, found.low, found.high) == (2, 1, 3)


def test_the_interval_of_one_number_is_a_point():
    found = mean([2.5])
    assert (found.mean, found.low, found.high) == (2.5, 2.5, 2.5)


def test_the_interval_of_many_numbers_is_two_standard_errors_wide():
    numbers = torch.randn(400, dtype=torch.float64)
    found = mean(numbers.tolist())
    error = numbers.std().item() / 20
    assert found.low == pytest.approx(found.mean - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.mean + 1.96 * error, abs=0.1 * error)


def test_the_same_numbers_have_the_same_interval():
    assert mean([1.0, 2.0, 5.0]) == mean([1.0, 2.0, 5.0])


def test_a_large_sample_is_drawn_in_parts_and_gives_the_same(monkeypatch):
    numbers = torch.randn(30).tolist()
    whole = mean(numbers)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 100)
    assert mean(numbers) == whole
