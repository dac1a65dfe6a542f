"""A trained style on disk: its weights, and everything needed to rebuild and feed the network.

A folder with two files: ``model.safetensors`` and ``model.json``. The card says which format and
network this is, in which colours pictures go in and out, which style it learnt and how, and the
hash of the weights, so that a file that does not fit is refused instead of drawing nonsense.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fnst import files
from fnst.errors import CheckpointError
from fnst.network import TransformerNetwork

FORMAT = "fnst-style/1"
COLOURS = {"in": "sRGB, 0 to 1, RGB, b 3 h w", "out": "sRGB, 0 to 1, RGB, b 3 h w"}

WEIGHTS, CARD = "model.safetensors", "model.json"

# A network that has learnt to learn paintings, to begin a training with; `python -m stages.base`
# made it, and its card says from what.
BASE = Path(__file__).parent / "base"


@dataclass(frozen=True)
class Checkpoint:
    """A network that is ready to stylize, and its card (the content of ``model.json``)."""

    network: TransformerNetwork
    card: Mapping[str, Any]


def save(
    folder: Path,
    network: TransformerNetwork,
    *,
    style: str,
    training: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a trained network; each of the two files appears whole.

    Args:
        folder: where to; it is made.
        network: what to keep.
        style: the name of the style.
        training: how it was made, in JSON's types: parameters, steps, hashes.
        dtype: what its weights are stored in.
    """
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in network.state_dict().items()}
    files.write(folder / WEIGHTS, safetensors.torch.save(tensors))
    card = {
        "format": FORMAT,
        "style": style,
        "network": network.architecture,
        "colours": COLOURS,
        "weights_sha256": files.sha256(folder / WEIGHTS),
        "training": dict(training),
    }
    files.write_json(folder / CARD, card)


def load(folder: Path) -> Checkpoint:
    """Rebuild the network of a folder, in evaluation mode on the CPU.

    Raises:
        CheckpointError: when a file is missing or damaged, or was made for something else.
    """
    card = read_card(folder)
    path = folder / WEIGHTS
    try:
        digest = files.sha256(path)
        if digest != card["weights_sha256"]:
            raise CheckpointError(
                f"{path} is damaged: expected the SHA-256 {card['weights_sha256'][:12]}... of its "
                f"card, got {digest[:12]}...; make or download it again."
            )
        network = TransformerNetwork(**card["network"])
        network.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; make or download the model again.") from error
    except (safetensors.SafetensorError, RuntimeError, TypeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{folder} is no model that fnst can rebuild: {reason}.") from error
    return Checkpoint(network.eval(), card)


def read_card(folder: Path) -> dict[str, Any]:
    """The content of ``model.json``; CheckpointError when it is missing, damaged or foreign."""
    path = folder / CARD
    try:
        card = files.read_json(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no model: {CARD} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON.") from error
    given = card.get("format") if isinstance(card, dict) else None
    if given != FORMAT:
        raise CheckpointError(
            f"{path}: expected a model of format {FORMAT}, got {given!r}; "
            "train it again, or use the fnst that made it."
        )
    if card.get("colours") != COLOURS:
        raise CheckpointError(
            f"{path}: this model wants its pictures in other colours than this fnst gives: "
            f"expected {COLOURS['in']}, got {card.get('colours')}."
        )
    wanted = {"style", "network", "weights_sha256", "training"}
    if missing := wanted - card.keys():
        raise CheckpointError(f"{path} is incomplete: {', '.join(sorted(missing))} missing.")
    return dict(card)
