"""From params.yaml's values to the network that a training begins with."""

from dataclasses import asdict
from pathlib import Path

import torch

from fnst import checkpoint, params
from fnst.errors import ParamsError
from fnst.network import TransformerNetwork


def network(wanted: params.Network, *, seed: int, start: Path | None = None) -> TransformerNetwork:
    """The network that a training begins with.

    Args:
        wanted: its shape.
        seed: what fresh weights depend on, and nothing else.
        start: the folder of a checkpoint whose weights are taken instead.

    Raises:
        ParamsError: when the checkpoint's network has another shape.
        CheckpointError: when it cannot be read.
    """
    if start:
        return _begun(wanted, start).to(memory_format=torch.channels_last)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = TransformerNetwork(
            width=wanted.width,
            blocks=wanted.blocks,
            downsampling=wanted.downsampling,
            upsampling=wanted.upsampling,
        )
    return made.to(memory_format=torch.channels_last)


def _begun(wanted: params.Network, start: Path) -> TransformerNetwork:
    made = checkpoint.load(start).network
    if made.architecture != asdict(wanted):
        raise ParamsError(
            f"train: init: the network to begin with is {made.architecture}, but params.yaml "
            f"wants {asdict(wanted)}; change one of them, or say init: scratch."
        )
    return made
