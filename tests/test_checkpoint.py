"""A trained style comes back as it was saved, or is refused with the reason."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from fnst import checkpoint, files
from fnst.errors import CheckpointError
from fnst.network import TransformerNetwork

TRAINING = {"steps": 3, "style_sha256": "ab" * 32, "params": {"style": {"image": "wave.png"}}}


@pytest.fixture
def network():
    return TransformerNetwork(width=4, blocks=1, downsampling="max_pool", upsampling="transposed")


@pytest.fixture
def folder(tmp_path, network):
    checkpoint.save(tmp_path / "wave", network, style="wave", training=TRAINING)
    return tmp_path / "wave"


def change(folder, **values):
    card = files.read_json(folder / "model.json")
    files.write_json(folder / "model.json", card | values)


def test_what_was_saved_draws_the_same_picture(folder, network):
    loaded = checkpoint.load(folder)
    photos = torch.rand(2, 3, 16, 20)
    assert torch.equal(loaded.network(photos), network(photos))
    assert loaded.network.architecture == network.architecture
    assert not loaded.network.training


def test_the_card_says_what_the_model_is(folder):
    card = checkpoint.load(folder).card
    assert card == checkpoint.read_card(folder)
    assert card["style"] == "wave"
    assert card["training"] == TRAINING
    assert card["format"] == "fnst-style/1"
    assert "sRGB" in card["colours"]["in"]
    assert card["weights_sha256"] == files.sha256(folder / "model.safetensors")


def test_saving_twice_gives_the_same_bytes(folder, network, tmp_path):
    checkpoint.save(tmp_path / "again", network, style="wave", training=TRAINING)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_other_weights_have_another_hash(folder, network):
    before = checkpoint.read_card(folder)["weights_sha256"]
    with torch.no_grad():
        next(network.parameters()).add_(1e-6)
    checkpoint.save(folder, network, style="wave", training=TRAINING)
    assert checkpoint.read_card(folder)["weights_sha256"] != before


def test_memory_layout_is_no_part_of_the_model(folder, network, tmp_path):
    network.to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path / "again", network, style="wave", training=TRAINING)
    again = checkpoint.read_card(tmp_path / "again")
    assert again["weights_sha256"] == checkpoint.read_card(folder)["weights_sha256"]


def test_weights_may_be_kept_in_half_the_space(network, tmp_path):
    checkpoint.save(tmp_path, network, style="any", training={}, dtype=torch.float16)
    again = checkpoint.load(tmp_path).network
    for ours, theirs in zip(again.parameters(), network.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_weights_are_kept_in_float32(network, tmp_path):
    checkpoint.save(tmp_path, network.bfloat16(), style="wave", training={})
    kept = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in kept.values()} == {torch.float32}


def test_two_files_and_no_pickle_in_either(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    json.loads((folder / "model.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])  # nothing but JSON, then numbers
    numbers = sum(p.numel() for p in checkpoint.load(folder).network.parameters())
    assert len(weights) == 8 + length + 4 * numbers
    assert all(entry["dtype"] == "F32" for entry in header.values())


# --- what is refused ------------------------------------------------------------------------------

MISMATCHES = {
    "another format": ({"format": "fnst-style/2"}, r"format fnst-style/1, got 'fnst-style/2'"),
    "no format": ({"format": None}, "got None"),
    "other colours": ({"colours": {"in": "BGR, 0 to 255"}}, "other colours than this fnst gives"),
    "other weights": ({"weights_sha256": "0" * 64}, r"expected the SHA-256 000000000000\.\.\."),
    "a wider network": (
        {"network": {"width": 8, "blocks": 1, "downsampling": "stride", "upsampling": "folded"}},
        "no model that fnst can rebuild",
    ),
    "more blocks": (
        {"network": {"width": 4, "blocks": 2, "downsampling": "max_pool", "upsampling": "folded"}},
        "no model that fnst can rebuild",
    ),
    "an unknown layer": (
        {"network": {"width": 4, "blocks": 1, "downsampling": "wavelet", "upsampling": "folded"}},
        "no model that fnst can rebuild",
    ),
    "an unknown part": ({"network": {"depth": 4}}, "no model that fnst can rebuild"),
    "no network": ({"network": None}, "no model that fnst can rebuild"),
}


@pytest.mark.parametrize(("values", "sentence"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_card_that_does_not_fit_is_refused(folder, values, sentence):
    change(folder, **values)
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["style", "network", "weights_sha256", "training"])
def test_an_incomplete_card_is_refused(folder, name):
    card = files.read_json(folder / "model.json")
    del card[name]
    files.write_json(folder / "model.json", card)
    with pytest.raises(CheckpointError, match=f"incomplete: {name} missing"):
        checkpoint.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"PK\x03\x04"])
def test_a_card_that_is_no_json_is_damaged(folder, content):
    (folder / "model.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.json is damaged: it is not JSON"):
        checkpoint.load(folder)


def test_a_card_that_is_a_list_is_refused(folder):
    (folder / "model.json").write_text("[]")
    with pytest.raises(CheckpointError, match="got None"):
        checkpoint.load(folder)


def test_one_changed_byte_of_the_weights_is_noticed(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: expected the SHA-256 \w{12}\.\.\."):
        checkpoint.load(folder)


def test_weights_that_are_no_safetensors_are_refused_even_with_their_hash(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"\x80\x04.")  # the beginning of a pickle
    change(folder, weights_sha256=files.sha256(path))
    with pytest.raises(CheckpointError, match="no model that fnst can rebuild"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("model.json", r"holds no model: model\.json is missing"),
        ("model.safetensors", r"model\.safetensors is missing"),
    ],
)
def test_a_missing_file_is_named(folder, name, sentence):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(folder)
