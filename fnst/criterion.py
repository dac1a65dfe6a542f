"""From params.yaml's values to the loss of a style.

It knows nothing of the networks that are trained, so that no change of theirs changes a judge.
"""

from pathlib import Path

import torch
from jaxtyping import Float

from fnst import features, images, params
from fnst.devices import keep_digits
from fnst.errors import ImageError
from fnst.losses import PerceptualLoss, Weights


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
