"""From params.yaml's values to the parts they describe: the network, and the loss of a style.

The parts themselves know nothing of params.yaml; whoever trains or judges puts them together here.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float

from fnst import checkpoint, features, images, params
from fnst.errors import ImageError, ParamsError
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.stylize import keep_digits


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


def loss(
    wanted: params.Loss,
    style: params.Style,
    *,
    picture: Path,
    vgg: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> PerceptualLoss:
    """The loss that judges pictures by one style.

    Args:
        wanted: layers and their weights.
        style: the weights of the terms, and the size at which the painting is looked at.
        picture: the painting's file.
        vgg: the loss network's file.
        device: where pictures to judge will be.
        dtype: of the loss network's convolutions; no GPU rounds float32 any further.

    Raises:
        ImageError: when the painting cannot be read.
        CheckpointError: when the loss network cannot be read.
        ParamsError: when it has no such layer.
    """
    keep_digits()
    extract = features.load(vgg).in_precision(dtype).to(device)
    return PerceptualLoss(
        extract,
        painting(picture, style.size).to(device, memory_format=torch.channels_last),
        content_layer=wanted.content_layer,
        style_layers=wanted.style_layers,
        weights=weights(wanted, style),
    )


def weights(wanted: params.Loss, style: params.Style) -> Weights:
    """How much each term counts; ``strength`` multiplies the painting's share."""
    return Weights(
        content=style.content_weight,
        style=style.strength * style.style_weight,
        variation=style.variation_weight,
        grid=wanted.grid_weight,
    )


def painting(picture: Path, size: int) -> Float[torch.Tensor, "1 3 h w"]:
    """A style picture as the network sees it: sRGB in [0, 1], its short side ``size`` pixels."""
    return images.fit(images.load(picture).rgb, size)


def only_file(folder: Path) -> Path:
    """The one file that ``fetch`` put into a folder.

    Raises:
        ImageError: when there is none, or there are several.
    """
    found = [path for path in folder.rglob("*") if path.is_file()]
    if len(found) != 1:
        raise ImageError(
            f"{folder}: expected the one file that `dvc repro fetch` puts there, got {len(found)}."
        )
    return found[0]
