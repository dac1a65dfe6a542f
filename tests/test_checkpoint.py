"""A trained style comes back as it was saved, or is refused with the reason."""

import json
import os
import random

import pytest
import torch
from safetensors.torch import load_file, save
from torch.testing import assert_close

from fnst import checkpoint, files, memory
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
    kept = load_file(tmp_path / checkpoint.WEIGHTS)
    assert {value.dtype for value in kept.values()} == {torch.float16}
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
    "no network": ({"network": None}, "expected network to be of JSON.s kind of dict, got None"),
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


# --- models from elsewhere ------------------------------------------------------------------------


def put(folder, content, **values):
    """Let the folder hold these weights, and a card that vouches for them."""
    (folder / "model.safetensors").write_bytes(content)
    change(folder, weights_sha256=files.sha256(folder / "model.safetensors"), **values)


def weights(folder):
    return load_file(folder / "model.safetensors")


NAME = "layers.0.weight"
FOREIGN = {
    "a tensor too many": (lambda t: t | {"extra": torch.zeros(1)}, "others, such as extra"),
    "a tensor too few": (lambda t: {k: v for k, v in t.items() if k != NAME}, NAME),
    "another shape": (
        lambda t: t | {NAME: t[NAME][:, :, :3].contiguous()},
        r"got torch\.float32 of \[4, 3, 3",
    ),
    "whole numbers": (lambda t: t | {NAME: t[NAME].int()}, r"got torch\.int32"),
    "no number": (lambda t: t | {NAME: t[NAME] * float("nan")}, "holds what is no number"),
    "infinity": (lambda t: t | {NAME: t[NAME] / 0}, "holds what is no number"),
}


@pytest.mark.parametrize(("changed", "sentence"), FOREIGN.values(), ids=FOREIGN)
def test_weights_that_are_not_exactly_the_networks_are_refused(folder, changed, sentence):
    put(folder, save(changed(weights(folder))))
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(folder)


@pytest.mark.parametrize("width", [10**6, 10**30, 0, -4, True, "4", 4.0, None, [4]])
def test_an_impossible_network_takes_no_memory(folder, width):
    before = memory.peak()
    card = checkpoint.read_card(folder)
    change(folder, network=card["network"] | {"width": width})
    with pytest.raises(CheckpointError):
        checkpoint.load(folder)
    assert memory.peak() - before < 50e6


def test_a_wide_network_takes_no_memory_when_its_weights_are_not_there(folder):
    before = memory.peak()
    card = checkpoint.read_card(folder)
    change(folder, network=card["network"] | {"width": 1024, "blocks": 1000})
    with pytest.raises(CheckpointError, match="it lacks weights or has others"):
        checkpoint.load(folder)
    assert memory.peak() - before < 100e6


def test_no_more_is_read_than_such_a_network_has(folder):
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.truncate(2**40)  # a terabyte of nothing
    with pytest.raises(CheckpointError, match=r"expected at most [\d,]+ bytes, got 1,099"):
        checkpoint.load(folder)


def test_a_header_that_promises_more_than_there_is_is_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    for promised in (2**63, 2**32, len(content), 0):
        put(folder, promised.to_bytes(8, "little") + content[8:])
        with pytest.raises(CheckpointError, match="no model that fnst can rebuild"):
            checkpoint.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format": ' + "9" * 10_000 + "}",
        '{"format": "' + "x" * 2**20 + '"}',
        "null",
        '"fnst-style/1"',
        "{}",
    ],
    ids=["lists", "objects", "a long number", "a long text", "null", "a text", "nothing"],
)
def test_a_card_that_is_a_trap_is_refused(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("style", ["../../evil", "/etc", "Wave", "a b", "", "a\0b"])
def test_a_style_that_would_lead_elsewhere_is_refused(folder, style):
    change(folder, style=style)
    with pytest.raises(CheckpointError, match="expected a style named in lower-case letters"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["style", "network", "weights_sha256", "training"])
@pytest.mark.parametrize("value", [None, 3, [1]])
def test_what_a_card_says_is_of_the_right_kind(folder, name, value):
    change(folder, **{name: value})
    with pytest.raises(CheckpointError, match=f"expected {name} to be"):
        checkpoint.load(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError):
        checkpoint.load(folder)


def test_whatever_is_changed_in_a_model_it_is_refused_or_whole(folder):
    """Bits, cuts and lies at random places of both files; the card vouches for the weights."""
    randomness = random.Random(0)
    kept = {name: (folder / name).read_bytes() for name in ("model.json", "model.safetensors")}
    header = 8 + int.from_bytes(kept["model.safetensors"][:8], "little")
    refused, sentences = 0, set()
    for number in range(300):
        card, content = (bytearray(kept[name]) for name in kept)
        harmed = card if number % 3 == 0 else content
        for _ in range(randomness.choice((1, 2, 8))):
            place = randomness.randrange(len(card) if harmed is card else header)
            harmed[place] = randomness.choice(
                (0, 255, harmed[place] ^ 1 << randomness.randrange(8))
            )
        if number % 7 == 0:
            del harmed[randomness.randrange(len(harmed)) :]
        (folder / "model.json").write_bytes(card)
        (folder / "model.safetensors").write_bytes(content)
        if harmed is content:
            change(folder, weights_sha256=files.sha256(folder / "model.safetensors"))
        try:
            found = checkpoint.load(folder)
        except CheckpointError as error:
            refused += 1
            sentences.add(str(error))
        else:
            assert torch.isfinite(found.network(torch.rand(1, 3, 16, 16))).all()
    assert refused > 250
    assert not any("\n" in sentence for sentence in sentences)
