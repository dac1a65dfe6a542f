"""Fetch: photographs, style pictures and the loss network, each verified, into data/raw/."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fnst import files, needs, params, selection, sources
from fnst.assets import Progress
from fnst.progress import transfers
from stages import run

DATA = Path("data")
RAW = DATA / "raw"
PHOTOS = RAW / "photos"


def main() -> None:
    """Get everything that params.yaml names; what is here already is only verified."""
    wanted = params.load()
    _check_room(wanted)
    photos = wanted.chosen.photos
    with transfers() as progress:
        chosen = {
            "train": _photos(photos.train, photos.train_count, photos.seed, progress),
            "held_out": _photos(photos.held_out, photos.held_out_count, photos.seed, progress),
        }
        files.write_json(PHOTOS / "chosen.json", chosen)
        for name, style in wanted.styles.items():
            _alone(style.image, RAW / "styles" / name, progress)
        _alone(wanted.loss.network, RAW / "network", progress)
    print(f"fetch: photographs, style pictures and the loss network are in {RAW}/")


def _check_room(wanted: params.Params) -> None:
    needed = needs.needs(wanted, DATA)
    print(f"fetch: {needed.summary}")
    needs.check_room(needed, DATA)


def _photos(
    names: Sequence[str], count: int | Literal["all"], seed: int, progress: Progress
) -> list[dict[str, Any]]:
    lots = selection.select(names, PHOTOS, count=count, seed=seed, progress=progress)
    return [{"file": str(lot.file.relative_to(PHOTOS)), "members": lot.members} for lot in lots]


def _alone(source: str, folder: Path, progress: Progress) -> None:
    sources.keep_only(sources.bring(source, folder, progress=progress), folder)


if __name__ == "__main__":
    # a machine that is shut down asks like this: an orderly end loses nothing
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(main)
