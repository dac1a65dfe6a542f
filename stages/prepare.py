"""Prepare: photographs decoded once, into a packed set to train on and one to judge by."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fnst import collection, files, memory, packing, params
from fnst.errors import ImageError
from fnst.progress import watch
from stages import run

RAW, PACKED = Path("data/raw/photos"), Path("data/photos")


def main() -> None:
    """Pack the held-out photographs, then all others; what could not be used is listed."""
    photos = params.load().chosen.photos
    memory.hold()
    held_out = _pack("held_out", photos.held_out_size)
    train = _pack("train", photos.size, without=[held_out])
    report = {
        "size": photos.size,
        "held_out_size": photos.held_out_size,
        "held_out": held_out.as_json(),
        "train": train.as_json(),
    }
    files.write_json(PACKED / "report.json", report)
    for name, packed in (("train", train), ("held_out", held_out)):
        left_out = f", {len(packed.left_out)} left out" if packed.left_out else ""
        print(f"prepare: {len(packed.kept)} photographs in {PACKED}/{name}/{left_out}")
    print(f"prepare: which, and what was left out and why, in {PACKED}/report.json")


def _pack(name: str, size: int, without: Sequence[packing.Report] = ()) -> packing.Report:
    found = [
        entry
        for lot in _chosen()[name]
        for entry in collection.entries(RAW / lot["file"], lot["members"])
    ]
    with watch(f"prepare {name}", len(found)) as update:
        return packing.pack(found, PACKED / name, size=size, without=without, progress=update)


def _chosen() -> dict[str, list[dict[str, Any]]]:
    try:
        chosen: dict[str, list[dict[str, Any]]] = files.read_json(RAW / "chosen.json")
    except OSError as error:
        raise ImageError(f"{RAW} has no photographs; `dvc repro fetch` gets them.") from error
    return chosen


if __name__ == "__main__":
    run(main)
