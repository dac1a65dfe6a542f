"""Draw the pictures of docs/controls.md anew: `python -m benchmarks.pictures`.

They show the sample photographs and the champion of the first style of params.yaml. Folders of
models may be named instead: `python -m benchmarks.pictures MODEL [SECOND]`.
"""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image as Pillow

from benchmarks import ROOT
from fnst import assets, checkpoint, controls, files, images, sheets
from fnst.controls import Controls
from fnst.errors import FnstError
from fnst.images import Picture
from fnst.stylize import Image, Paint, stylize

Floats = Float[torch.Tensor, "1 3 _ _"]

SIDE = 280  # the short side of a photograph, in pixels: four of them fit into a page
QUALITY = 85  # of JPEG: every file stays below 250 kB


def main(folders: Sequence[str]) -> int:
    """Draw all pictures, and say where they are; 1 where something is missing."""
    try:
        paint, second = _painters(folders)
        photo = partial(_photo, folder=ROOT / "data" / "raw" / "sample")
        for name, picture in draw(paint, second, photo):
            put(f"controls-{name}", picture)
    except FnstError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def put(name: str, picture: Floats) -> None:
    """Write a picture into docs/, and say so."""
    path = ROOT / "docs" / f"{name}.jpg"
    files.write(path, jpeg(picture))
    print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")


def _painters(folders: Sequence[str]) -> tuple[Paint, Paint]:
    """The style, and another one for blends: the same in green, with larger strokes, if unnamed."""
    from fnst import registry

    places = [Path(folder) for folder in folders] or [registry.fetch(None).folder]
    paint, *others = [partial(stylize, checkpoint.load(place).network) for place in places]
    return paint, others[0] if others else controls.stroke_size(partial(_in_green, paint), 1.5)


def _in_green(paint: Paint, photo: Image) -> Image:
    """What a style paints whose red, green and blue are this one's green, blue and red."""
    return paint(photo.roll(1, 1)).roll(-1, 1)


def _photo(name: str, folder: Path) -> Floats:
    return images.fit(images.load(assets.get(assets.find(name), folder)).rgb, SIDE)


def draw(
    paint: Paint, second: Paint, photo: Callable[[str], Floats]
) -> Iterator[tuple[str, Floats]]:
    """The pictures, by name.

    Args:
        paint: the style.
        second: another one, to blend it with.
        photo: a sample photograph by its asset's name.
    """

    def steered(name: str, **values: object) -> Floats:
        steering = Controls(**values)  # type: ignore[arg-type]
        return controls.compose([(paint, 1.0)], steering)(photo(name))

    china, coffee = "sample-china", "sample-coffee"
    amounts = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    shown = [steered(china, strength=amount) for amount in amounts]
    yield "strength", _grid([f"--strength {amount:g}" for amount in amounts], shown, columns=3)

    kept = [photo(coffee), steered(coffee), steered(coffee, keep_colors=True)]
    yield "keep-colors", _grid(["photograph", "without", "--keep-colors"], kept, columns=3)

    sizes = (0.5, 1.0, 2.0, 3.0)
    shown = [steered("sample-chelsea", stroke_size=size) for size in sizes]
    yield "stroke-size", _grid([f"--stroke-size {size:g}" for size in sizes], shown, columns=2)

    parts = [(paint, 0.5), (second, 0.5)]
    mixed = [brush(photo(china)) for brush in (paint, controls.blend(parts), second)]
    yield "blend", _grid(["one style", "--blend one:0.5,other:0.5", "other"], mixed, columns=3)

    face = photo("sample-astronaut")
    mask = _spared(face)
    painted = controls.masked(paint, mask)(face)
    shown = [face, mask.expand(face.shape) / 255, painted]
    yield "mask", _grid(["photograph", "mask.png", "--mask mask.png"], shown, columns=3)

    versions = sheets.painter({"version 1": paint, "version 2": second}, before=False)
    yield "versions", versions(Picture(photo(china))).rgb

    all_of_them = Controls(stroke_size=1.5, strength=0.8, keep_colors=True)
    steered_paint = controls.compose([(paint, 1.0)], all_of_them)
    paints = {"--stroke-size 1.5 --strength 0.8 --keep-colors": steered_paint}
    yield "compare", sheets.painter(paints, before=True)(Picture(photo(coffee))).rgb


def _grid(names: Sequence[str], pictures: Sequence[Floats], *, columns: int) -> Floats:
    """Pictures in rows, each under its name."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    labels = [names[i : i + columns] for i in range(0, len(names), columns)]
    sheet = [images.sheet([("", row)], label) for row, label in zip(rows, labels, strict=True)]
    return torch.cat(sheet, 2)


def _spared(photo: Floats) -> controls.Mask:
    """White but for a soft round spot in the upper half, where the face of a portrait is."""
    h, w = photo.shape[-2:]
    down = (torch.arange(h)[:, None] / h - 0.27) / 0.24
    across = (torch.arange(w)[None] / w - 0.44) / 0.2
    distance = (down.square() + across.square()).sqrt()
    return ((distance - 0.8) / 0.4).clamp(0, 1).mul(255).round().to(torch.uint8)[None, None]


def jpeg(picture: Floats) -> bytes:
    """A picture as a small JPEG."""
    buffer = io.BytesIO()
    lossless = io.BytesIO(images.encode(Picture(picture), ".png"))
    Pillow.open(lossless).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
