"""Evaluate: one trained style, judged on photographs that it never saw."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from fnst import build, checkpoint, evaluation, files, images, params
from fnst.evaluation import Photo
from fnst.photos import Photos
from fnst.progress import watch
from fnst.stylize import device, stylize
from stages import run, style_named

DATA = Path("data")
SHOWN = 8  # photographs on the sheet


def main() -> None:
    """Judge the style named on the command line."""
    name = style_named()
    wanted = params.load()
    sizes = wanted.chosen.evaluate.sizes
    picture = build.only_file(DATA / "raw" / "styles" / name)
    vgg = build.only_file(DATA / "raw" / "network")
    where = device()
    loss = build.loss(
        wanted.loss,
        wanted.style(name),
        picture=picture,
        vgg=vgg,
        device=where,
    )
    network = checkpoint.load(DATA / "models" / name).network.to(where)
    photos = Photos(DATA / "photos" / "held_out")
    report = files.read_json(DATA / "photos" / "report.json")
    names = [photo["name"] for photo in report["held_out"]["kept"]]

    painting = build.painting(picture, wanted.style(name).size).to(where)
    scores = []
    with watch(f"evaluate {name}", len(photos) * len(sizes)) as update:
        for score in evaluation.evaluate(
            partial(stylize, network), loss, painting, _all(photos, names), sizes
        ):
            scores.append(score)
            update(len(scores), f"total {score.values['total']:.3f}")

    results = DATA / "results" / name
    metrics = evaluation.metrics(scores)
    judge = {
        "loss": asdict(wanted.loss),
        "style": asdict(wanted.style(name)),
        "sizes": sizes,
        "hashes": [files.sha256(picture), files.sha256(vgg)],
        "photographs": [report["size"], report["held_out"]],
    }
    files.write_json(results / "metrics.json", metrics)
    files.write_rows(results / "photographs.csv", [evaluation.as_row(s) for s in scores])
    files.write_json(results / "judged_by.json", {"sha256": _digest(judge)})
    rows = [
        (
            f"{label}",
            (photo, stylize(network, photo)),
        )
        for _, (label, photo) in zip(range(SHOWN), _all(photos, names), strict=False)
    ]
    sheet = images.sheet(rows, ("photograph", name))
    images.save(images.Picture(sheet), results / "sheet.jpg")
    print(
        f"evaluate {name}: on {metrics['photographs']} held-out photographs content "
        f"{metrics['content']:.3f}, style {metrics['style']:.3f}, total {metrics['total']:.3f} "
        f"({metrics['relative_total']:.0%} of the untouched photographs')"
    )
    print(f"evaluate {name}: the before/after sheet is {results}/sheet.jpg")


def _all(photos: Photos, names: list[str]) -> Iterator[tuple[str, Photo]]:
    return ((label, photos.whole(index)) for index, label in enumerate(names))


def _digest(judge: dict[str, Any]) -> str:
    """Two versions with the same digest were judged alike, and can be compared."""
    return hashlib.sha256(json.dumps(judge, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    run(main)
