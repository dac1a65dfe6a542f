"""A step that was recorded on a GPU does what it did before it was recorded."""

import pytest
import torch
from torch.testing import assert_close

from fnst import graphs, training
from fnst.graphs import Graphed
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.training import Learner, Progress, load_state, save_state

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

BATCH = (2, 3, 32, 32)


def batch(number):
    return torch.rand(BATCH, generator=torch.Generator().manual_seed(number))


def learner(extract, device):
    torch.manual_seed(0)
    network = TransformerNetwork(width=4, blocks=1).to(device)
    loss = PerceptualLoss(
        extract,
        torch.rand(BATCH[1:], generator=torch.Generator().manual_seed(9))[None].to(device),
        content_layer="deep",
        style_layers={"shallow": 1.0},
        weights=Weights(),
    )
    return Learner(network, loss, training.adam(network, 0.01))


@pytest.fixture
def on_gpu(extract):
    """The layers that stand in for VGG, where the pictures are."""
    for cell in extract.__closure__:
        cell.cell_contents.to("cuda")
    return extract


@pytest.mark.parametrize("agreed", [True, False])
def test_what_was_recorded_is_launched_where_all_agree(monkeypatch, agreed):
    done, asked = [], []

    class Recorded:
        def replay(self):
            done.append("launched")

    def agree(here):
        asked.append(here)
        return agreed

    graphed = Graphed(lambda batch: done.append("worked"), agree)
    monkeypatch.setattr(graphed, "_recorded", lambda batch: Recorded())
    for _ in range(2):
        graphed._replay(torch.zeros(1, 3, 4, 4))
    assert asked == [True]
    assert done == 2 * (["launched"] if agreed else ["worked"])


def test_without_a_gpu_the_work_is_done_at_once():
    seen = []
    work = Graphed(seen.append)
    for number in range(6):
        work(batch(number))
    assert len(seen) == 6
    assert work.graph is None


@needs_gpu
def test_a_recorded_step_learns_what_single_kernels_learn(on_gpu, monkeypatch):
    recorded = losses(learner(on_gpu, "cuda"), 10)
    monkeypatch.setattr(graphs, "WARM_UP", 100)
    assert_close(recorded, losses(learner(on_gpu, "cuda"), 10), rtol=0.02, atol=0)


@needs_gpu
def test_a_step_is_recorded_anew_after_a_state_was_taken_up(on_gpu, tmp_path):
    made = learner(on_gpu, "cuda")
    losses(made, 6)
    save_state(tmp_path / "state", made, Progress(6), fingerprint="a")
    first = losses(made, 8)
    load_state(tmp_path / "state", made, fingerprint="a")
    assert_close(losses(made, 8), first, rtol=0.02, atol=0)


def losses(made, steps):
    """The total after each of so many steps, the rate falling from step to step."""
    totals = []
    for number in range(steps):
        made.step(batch(number), 0.01 / (1 + number))
        totals.append(made.meter.read().total)
    return torch.tensor(totals)
