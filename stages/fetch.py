"""Fetch: photographs, paintings, the loss network and the network to begin with, into data/raw/."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from fnst import checkpoint, files, needs, params, registry, selection, sources
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
    lay_start(wanted.chosen.train.init)
    print(f"fetch: photographs, style pictures and the networks are in {RAW}/")


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


def lay_start(init: str) -> None:
    """Lay the checkpoint that training begins with ready; nothing for ``scratch``."""
    folder = RAW / "init"
    folder.mkdir(parents=True, exist_ok=True)
    source = _checkpoint(init)
    for name in (checkpoint.WEIGHTS, checkpoint.CARD):
        if source:
            files.write(folder / name, (source / name).read_bytes())
        else:
            (folder / name).unlink(missing_ok=True)


def _checkpoint(init: str) -> Path | None:
    if init == "scratch":
        return None
    if init == "base":
        return checkpoint.BASE
    style, _, number = init.partition("@")
    return registry.fetch(style, number=int(number)).folder


if __name__ == "__main__":
    # a machine that is shut down asks like this: an orderly end loses nothing
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run(main)
