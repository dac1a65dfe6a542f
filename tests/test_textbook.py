"""fnst's training step computes what the textbook's computes, in less time."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from benchmarks import textbook, train_step
from fnst import build, training
from fnst.losses import PerceptualLoss, Weights
from fnst.training import Learner

SIDE = 48
VGG = train_step.random_vgg()
STYLE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def photo(number):
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(number))


@pytest.fixture(params=["nearest", "bilinear"])
def doubling(request):
    return request.param


def learns(doubling, vgg=VGG, dtype=torch.float32):
    """Ours."""
    ours = {"nearest": "folded", "bilinear": "bilinear"}[doubling]
    network = build.network(replace(train_step.NETWORK, upsampling=ours), seed=0).to(dtype)
    loss = PerceptualLoss(
        vgg,
        STYLE.to(dtype),
        content_layer=train_step.CONTENT,
        style_layers=train_step.STYLE,
        weights=Weights(),
    )
    return Learner(network, loss, training.adam(network, 0.001))


def textbooks(learner, doubling, vgg=VGG):
    """The textbook's, from the same weights."""
    dtype = next(learner.network.parameters()).dtype
    network = textbook.Network(doubling).to(dtype)
    network.load_state_dict(learner.network.state_dict())
    return textbook.Step(
        network,
        vgg,
        STYLE.to(dtype),
        content_layer=train_step.CONTENT,
        style_layers=train_step.STYLE,
        learning_rate=0.001,
    )


@pytest.fixture
def learner(doubling):
    return learns(doubling)


@pytest.fixture
def plain(learner, doubling):
    return textbooks(learner, doubling)


def test_along_fifty_steps_the_losses_are_the_textbooks(learner, plain):
    """From the textbook's weights at each step: left alone, float32's roundings part ways.

    One rounding error that turns a ReLU or another maximum of a pool moves a small picture's
    gradient by a hundredth; the textbook in another memory layout leaves its own path as fast.
    """
    for number in range(50):
        learner.network.load_state_dict(plain.network.state_dict())
        content, style = plain(photo(number)).tolist()
        learner.step(photo(number), 0.001)
        losses = learner.meter.read()
        assert losses.content == pytest.approx(content, rel=1e-5)
        assert losses.style == pytest.approx(style, rel=1e-5)
        ours, theirs = gradient(learner.network), gradient(plain.network)
        assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_left_alone_for_fifty_steps_they_go_the_same_way(doubling):
    """In float64, where a rounding error has no time to become a difference."""
    vgg = copy.deepcopy(VGG).double().in_precision(torch.float64)
    learner = learns(doubling, vgg, torch.float64)
    plain = textbooks(learner, doubling, vgg)
    for number in range(50):
        content, style = plain(photo(number).double()).tolist()
        learner.step(photo(number).double(), 0.001)
        losses = learner.meter.read()
        assert losses.content == pytest.approx(content, rel=1e-5)
        assert losses.style == pytest.approx(style, rel=1e-5)


def gradient(network):
    return torch.cat([weights.grad.flatten() for weights in network.parameters()])


def test_both_make_the_same_step_of_the_same_gradient(learner, plain):
    plain(photo(0))
    for ours, theirs in zip(learner.network.parameters(), plain.network.parameters(), strict=True):
        ours.grad = torch.empty_like(ours).copy_(theirs.grad)  # the fused kernel pairs by place
    learner.optimizer.step()
    for ours, theirs in zip(learner.network.parameters(), plain.network.parameters(), strict=True):
        assert_close(ours, theirs)
