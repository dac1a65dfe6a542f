"""From versions in the registry to what paints a photograph with them, under control."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import torch

from fnst import checkpoint, controls, files, registry, sheets
from fnst.checkpoint import Checkpoint
from fnst.controls import Controls, Ingredient
from fnst.engine import Engine, Precision
from fnst.errors import CheckpointError
from fnst.images import Picture
from fnst.passage import Progress
from fnst.shelf import Model
from fnst.stylize import Image, Paint


@dataclass(frozen=True)
class Painter:
    """What paints each photograph, and what to call it."""

    paint: Callable[[Picture], Picture]
    label: str
    """In the names of results."""
    said: str
    """To the reader."""
    made_of: Mapping[str, str]
    """What decides how a picture comes out: when it is the same, so is the picture."""
    keeps_size: bool
    """Whether what it paints is as large as the photograph; sheets are not."""

    def paint_frame(self, pixels: Image) -> Image:
        """A picture without transparency, such as a frame of a clip."""
        return self.paint(Picture(pixels)).rgb


def painter(
    mixtures: Sequence[Sequence[Ingredient]],
    steering: Controls,
    device: torch.device,
    *,
    max_memory: int,
    precision: Precision = "auto",
    compare: bool = False,
    progress: Progress | None = None,
) -> Painter:
    """What paints with one mixture of versions, or with several side by side on a sheet.

    Args:
        mixtures: the versions that are blended, for each picture of the sheet.
        steering: common to all.
        device: where to paint.
        max_memory: bytes that a picture may take there.
        precision: of the convolutions.
        compare: whether the photograph stands beside the result.
        progress: told of large pictures how much is done, and of how much.

    Raises:
        RegistryError: when there is no such version.
        CheckpointError: when a version cannot be read.
    """
    paints, labels, made_of = {}, [], []
    for mixture in mixtures:
        found = [load(each.style, each.number, each.alias) for each in mixture]
        shares = [each.weight for each in mixture]
        name, label = _called([model for model, _ in found], shares)
        engine = partial(
            Engine, device=device, precision=precision, max_memory=max_memory, progress=progress
        )
        brushes: list[Paint] = [engine(trained.network) for _, trained in found]
        paints[name] = controls.compose(list(zip(brushes, shares, strict=True)), steering)
        labels.append(label)
        hashes = [files.sha256(model.folder / checkpoint.WEIGHTS) for model, _ in found]
        made_of += [f"{share!r} {digest}" for share, digest in zip(shares, hashes, strict=True)]
    return Painter(
        sheets.painter(paints, before=compare),
        "-".join(labels) + steering.label + ("-compare" if compare else ""),
        ", ".join(paints),
        {
            "fnst": version("fnst"),
            "versions": ", ".join(paints),
            "weights": ", ".join(made_of),
            "controls": steering.label,
            "mask": _digest(steering.mask),
            "precision": precision,
            "device": device.type,
        },
        keeps_size=len(paints) == 1 and not compare,
    )


def load(style: str | None, number: int | None, alias: str | None) -> tuple[Model, Checkpoint]:
    """A version and what its files hold; when the copy in the cache is damaged, it is fetched anew.

    Raises:
        RegistryError: when there is no such version.
        CheckpointError: when it cannot be read.
    """

    def fetch() -> Model:
        return registry.fetch(style, number=number, alias=alias or registry.CHAMPION)

    model = fetch()
    try:
        return model, checkpoint.load(model.folder)
    except CheckpointError:
        shutil.rmtree(model.folder, ignore_errors=True)
        model = fetch()
        return model, checkpoint.load(model.folder)


def _called(models: Sequence[Model], weights: Sequence[float]) -> tuple[str, str]:
    """What a mixture of versions is called, and what that is in the name of a file."""
    names = [f"{model.style} version {model.number}" for model in models]
    labels = [f"{model.style}-v{model.number}" for model in models]
    if len(models) == 1:
        return names[0], labels[0]
    shares = [weight / sum(weights) for weight in weights]
    return (
        " and ".join(f"{share:.0%} {name}" for share, name in zip(shares, names, strict=True)),
        "-".join(f"{label}-{share:.2g}" for share, label in zip(shares, labels, strict=True)),
    )


def _digest(mask: torch.Tensor | None) -> str:
    return "" if mask is None else hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()
