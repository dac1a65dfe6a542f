"""Draw the pictures of docs/gallery.md anew: `python -m benchmarks.gallery MODEL...`.

A model is a checkpoint's folder, such as data/models/great-wave. The photographs are samples that
came with the installation, at the size in which they came.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float

from benchmarks import ROOT
from benchmarks.pictures import put
from fnst import assets, checkpoint, images
from fnst.errors import FnstError
from fnst.stylize import stylize

PHOTOGRAPHS = ("sample-china", "sample-coffee")
GAP = 8


def main(folders: Sequence[str]) -> int:
    """Draw the photographs, and what every model makes of them; 1 where one is missing."""
    raw = ROOT / "data" / "raw" / "sample"
    try:
        photos = [images.load(assets.get(assets.find(name), raw)).rgb for name in PHOTOGRAPHS]
        put("gallery-photographs", beside(photos))
        for folder in map(Path, folders):
            style = checkpoint.load(folder)
            painted = [stylize(style.network, photo) for photo in photos]
            put(f"gallery-{style.card['style']}", beside(painted))
    except FnstError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def beside(pictures: Sequence[Float[torch.Tensor, "1 3 _ _"]]) -> Float[torch.Tensor, "1 3 _ _"]:
    """The pictures in a row on a bright paper, cut to the height of the lowest."""
    height = min(picture.shape[2] for picture in pictures)
    paper = torch.tensor(images.PAPER).view(1, 3, 1, 1) / 255
    cut = [picture[:, :, :height] for picture in pictures]
    gaps = [paper.expand(1, 3, height, GAP)] * (len(cut) - 1)
    rows = [piece for pair in zip(cut, gaps, strict=False) for piece in pair] + cut[len(gaps) :]
    return torch.cat(rows, 3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
