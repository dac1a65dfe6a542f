"""A trained style on disk: its weights, and everything needed to rebuild and feed the network.

A folder with two files: ``model.safetensors`` and ``model.json``. The card says which format and
network this is, in which colours pictures go in and out, which style it learnt and how, and the
hash of the weights, so that a file that does not fit is refused instead of drawing nonsense.
"""

import hashlib
import json
import re
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

# What a card must have, and of which kind.
FIELDS = {"style": str, "network": dict, "weights_sha256": str, "training": dict}
STYLE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

# More than these is no model of ours: chosen by us, a hundred times a card, twenty times a header,
# and more channels and blocks than any network has that still paints.
MOST_CARD, MOST_HEADER, MOST_CHANNELS = 2**20, 2**17, 1024

# A network that was trained long on one painting, to begin others with. Its card says how it was
# made, and from what; `python -m stages.base` makes another.
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

    A folder may come from anywhere. Nothing is believed before it was looked at, and no more is
    read than such a network has.

    Raises:
        CheckpointError: when a file is missing or damaged, or was made for something else.
    """
    card = read_card(folder)
    try:
        outline = _outline(card["network"])
        most = sum(4 * value.numel() for value in outline.values()) + MOST_HEADER
        weights = _read(folder / WEIGHTS, most)
        _check_hash(folder / WEIGHTS, weights, card["weights_sha256"])
        tensors = safetensors.torch.load(weights)
        _check_tensors(tensors, outline)
        network = TransformerNetwork(**card["network"])
        network.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder / WEIGHTS} is missing; make or download the model again."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # what a file may hold has no limits
        raise CheckpointError(
            f"{folder} is no model that fnst can rebuild: {_short(str(error), 120)}."
        ) from error
    return Checkpoint(network.eval(), card)


def read_card(folder: Path) -> dict[str, Any]:
    """The content of ``model.json``; CheckpointError when it is missing, damaged or foreign."""
    path = folder / CARD
    try:
        card = json.loads(_read(path, MOST_CARD))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no model: {CARD} is missing.") from error
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON.") from error
    given = card.get("format") if isinstance(card, dict) else None
    if given != FORMAT:
        raise CheckpointError(
            f"{path}: expected a model of format {FORMAT}, got {_short(repr(given), 40)}; "
            "train it again, or use the fnst that made it."
        )
    if card.get("colours") != COLOURS:
        raise CheckpointError(
            f"{path}: this model wants its pictures in other colours than this fnst gives: "
            f"expected {COLOURS['in']}, got {_short(str(card.get('colours')), 120)}."
        )
    if missing := FIELDS.keys() - card.keys():
        raise CheckpointError(f"{path} is incomplete: {', '.join(sorted(missing))} missing.")
    for name, kind in FIELDS.items():
        if not isinstance(card[name], kind):
            raise CheckpointError(
                f"{path}: expected {name} to be of JSON's kind of {kind.__name__}, "
                f"got {_short(repr(card[name]), 40)}; make or download the model again."
            )
    if not STYLE.fullmatch(card["style"]):  # it becomes a part of file names
        raise CheckpointError(
            f"{path}: expected a style named in lower-case letters, digits and dashes, "
            f"got {_short(repr(card['style']), 40)}."
        )
    return dict(card)


def _read(path: Path, most: int) -> bytes:
    """A file that is one, and that has no more bytes than it may have."""
    if path.exists() and not path.is_file():
        raise OSError(f"{path.name} is no file")
    size = path.stat().st_size
    if size > most:
        raise CheckpointError(
            f"{path}: expected at most {most:,} bytes, got {size:,}; this is no model of fnst."
        )
    return path.read_bytes()


def _outline(architecture: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The names and shapes of a network's weights, without the memory for them."""
    for name, value in architecture.items():
        if isinstance(value, int) and not 0 < value <= MOST_CHANNELS:
            raise ValueError(f"expected a {name} from 1 to {MOST_CHANNELS}, got {value}")
    with torch.device("meta"):
        return TransformerNetwork(**architecture).state_dict()


def _check_hash(path: Path, weights: bytes, expected: str) -> None:
    digest = hashlib.sha256(weights).hexdigest()
    if digest != expected:
        raise CheckpointError(
            f"{path} is damaged: expected the SHA-256 {_short(expected, 12)}... of its "
            f"card, got {digest[:12]}...; make or download it again."
        )


def _check_tensors(
    tensors: Mapping[str, torch.Tensor], outline: Mapping[str, torch.Tensor]
) -> None:
    """Refuse what is not exactly this network's weights, as numbers that can be reckoned with."""
    if others := tensors.keys() ^ outline.keys():
        raise ValueError(f"it lacks weights or has others, such as {_short(min(others), 40)}")
    for name, value in tensors.items():
        if value.shape != outline[name].shape or not value.is_floating_point():
            raise ValueError(
                f"expected {name} to be numbers of {list(outline[name].shape)}, "
                f"got {value.dtype} of {list(value.shape)}"
            )
        if not value.isfinite().all():
            raise ValueError(f"{name} holds what is no number")


def _short(text: str, most: int) -> str:
    return " ".join(text.split())[:most]
