"""The base: a trained model in half the space, whose card says all that it is made of."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from fnst import checkpoint, files
from fnst.errors import CheckpointError
from fnst.network import TransformerNetwork
from stages import base

PARAMS = Path(base.__file__).parents[1] / "params.yaml"
FROM_NOISE = {"params": {"train": {"init": "scratch"}}, "photographs_sha256": "1f"}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Makes a trained model with this history, and a place for the base beside it."""
    values = yaml.safe_load(PARAMS.read_text())
    values["recipes"]["laptop"]["network"] |= {"width": 4, "blocks": 1}
    files.write(tmp_path / "params.yaml", yaml.safe_dump(values).encode())
    monkeypatch.setenv("FNST_ROOT", str(tmp_path))
    monkeypatch.setattr(checkpoint, "BASE", tmp_path / "base")

    def made(training, width=4):
        network = TransformerNetwork(width=width, blocks=1)
        checkpoint.save(tmp_path / "wave", network, style="wave", training=training)
        return tmp_path / "wave"

    return made


def test_a_base_is_a_trained_model_in_half_the_space(model, tmp_path, capsys):
    folder = model(FROM_NOISE)
    base.main([str(folder)])
    made, trained = checkpoint.load(tmp_path / "base"), checkpoint.load(folder)
    assert made.card["style"] == "base"
    assert made.card["training"] == FROM_NOISE
    kept, before = load_file(tmp_path / "base" / checkpoint.WEIGHTS), trained.network.state_dict()
    assert {weights.dtype for weights in kept.values()} == {torch.float16}
    for name, weights in before.items():
        assert_close(kept[name].float(), weights, rtol=2**-11, atol=1e-7)
    assert "is wave from now on" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("training", "got"),
    [
        ({"params": {"train": {"init": "base"}}}, "base"),
        ({"params": []}, "no word"),
        ({}, "no word"),
    ],
)
def test_a_model_that_did_not_begin_with_noise_is_refused(model, tmp_path, training, got):
    with pytest.raises(CheckpointError, match=f"trained with init: scratch, got {got}"):
        base.main([str(model(training))])
    assert not (tmp_path / "base").exists()


def test_a_model_of_another_shape_is_refused(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"expected a network of .*'width': 4.*got .*8"):
        base.main([str(model(FROM_NOISE, width=8))])
    assert not (tmp_path / "base").exists()


def test_the_base_that_comes_with_fnst_is_small_and_its_card_says_all_that_it_is_made_of():
    weights = checkpoint.BASE / checkpoint.WEIGHTS
    assert weights.stat().st_size <= 4_000_000
    assert {each.dtype for each in load_file(weights).values()} == {torch.float16}
    training = checkpoint.read_card(checkpoint.BASE)["training"]
    assert training["params"]["train"]["init"] == "scratch"
    assert "init_sha256" not in training
