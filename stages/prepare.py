"""Prepare: photographs decoded once, into a packed set to train on and one to judge by."""

from pathlib import Path

from fnst import files, params, photos
from fnst.progress import watch
from stages import run

RAW, PACKED = Path("data/raw/photos"), Path("data/photos")


def main() -> None:
    """Pack the held-out photographs, then all others; what could not be used is listed."""
    wanted = params.load().chosen.photos
    chosen = files.read_json(RAW / "chosen.json")
    held_out = _pack("held_out", chosen, wanted.held_out_count, wanted, without=set())
    train = _pack("train", chosen, wanted.train_count, wanted, without=held_out.hashes)
    report = {"size": wanted.size, "held_out": vars(held_out), "train": vars(train)}
    files.write_json(PACKED / "report.json", report)
    for name, packed in (("train", train), ("held_out", held_out)):
        left_out = f", {len(packed.left_out)} left out" if packed.left_out else ""
        print(f"prepare: {len(packed.kept)} photographs in {PACKED}/{name}.npy{left_out}")
    print(f"prepare: which, and what was left out and why, in {PACKED}/report.json")


def _pack(
    name: str,
    chosen: dict[str, list[str]],
    count: int | str,
    wanted: params.Photos,
    without: set[str],
) -> photos.Report:
    found = photos.entries(RAW / file for file in chosen[name])
    drawn = photos.draw(found, count if isinstance(count, int) else None, wanted.seed)
    with watch(f"prepare {name}", len(drawn)) as update:
        return photos.pack(
            drawn, PACKED / f"{name}.npy", size=wanted.size, without=without, progress=update
        )


if __name__ == "__main__":
    run(main)
