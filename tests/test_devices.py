"""The device that is chosen, and what is refused."""

import pytest
import torch

from fnst.devices import device
from fnst.errors import DeviceError


def test_the_best_device_is_one_that_is_here():
    torch.zeros(1, device=device())
    torch.zeros(1, device=device("auto"))


def test_the_processor_is_always_here():
    assert device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(DeviceError, match=f"there is no {name} in this machine; use --device cpu"):
        device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cpu:-2"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(DeviceError, match="expected a device such as cpu, cuda or mps, got"):
        device(name)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_to_find_a_device_changes_nothing_of_how_others_round(rounding, name):
    device(name)
    assert rounding()
