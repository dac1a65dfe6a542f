"""Evaluate: one trained style, judged on photographs that it never saw."""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from fnst import checkpoint, criterion, evaluation, files, gatys, images, params, report
from fnst.devices import device
from fnst.evaluation import Score
from fnst.gatys import Anchor
from fnst.photos import Photos
from fnst.progress import watch
from fnst.stylize import Paint, stylize
from stages import run, style_named

DATA = Path("data")
SHOWN = 8  # photographs on the sheet
FORMAT = 3  # raised when the same photographs and params no longer give the same totals


def main() -> None:
    """Judge the style named on the command line."""
    name = style_named()
    wanted = params.load()
    recipe, style, where = wanted.chosen, wanted.style(name), device()
    results = DATA / "results" / name
    picture = criterion.only_file(DATA / "raw" / "styles" / name)
    vgg = criterion.only_file(DATA / "raw" / "network")
    loss = criterion.loss(wanted.loss, style, picture=picture, vgg=vgg, device=where)
    painting = criterion.painting(picture, style.size).to(where)
    paint = partial(stylize, checkpoint.load(DATA / "models" / name).network.to(where))
    photos = Photos(DATA / "photos" / "held_out").on(where)
    described = files.read_json(DATA / "photos" / "report.json")
    names = [photo["name"] for photo in described["held_out"]["kept"]]
    sizes = evaluation.reached(photos.size, recipe.evaluate.sizes)
    sides = [photos.side(index) for index in range(len(photos))]
    counts = [len(evaluation.reached(side, sizes)) for side in sides]

    scores = []
    with watch(f"evaluate {name}", sum(counts)) as update:
        named = ((label, photos.whole(index)) for index, label in enumerate(names))
        for score in evaluation.evaluate(paint, loss, painting, named, sizes, sides):
            scores.append(score)
            update(len(scores), f"total {score.values['total']:.3f}")
    subjects = gatys.subjects(photos, recipe.gatys.photographs, recipe.gatys.size)
    anchor = Anchor(
        [row["total"] for row in files.read_numbers(results / "gatys.csv")],
        fmean(evaluation.total(paint, loss, photo) for photo in subjects),
        [(label, min(photo.shape[2:])) for label, photo in zip(names, subjects, strict=False)],
    )

    metrics = evaluation.metrics(scores) | anchor.metrics
    # Two versions of the same judge can be compared.
    judge = {
        "format": FORMAT,
        "loss": asdict(wanted.loss) | {"network": files.sha256(vgg)},
        "style": asdict(style) | {"image": files.sha256(picture)},
        "size": sizes[0],
        "photographs": [photos.size, described["held_out"]["kept"]],
    }
    if min(sides) < sizes[0]:
        judge["smaller"] = [min(side, sizes[0]) for side in sides]
    files.write_json(results / "metrics.json", metrics)
    files.write_rows(results / "photographs.csv", [evaluation.as_row(s) for s in scores])
    files.write_rows(results / "means.csv", evaluation.as_rows(evaluation.means(scores)))
    told = {"sha256": _digest(judge), "parts": _parts(judge, wanted.loss.network, style.image)}
    files.write_json(results / "judged_by.json", told)
    _sheet(name, paint, photos, evaluation.largest(scores), results / "sheet.jpg")
    files.write(results / "gatys.png", report.draw(anchor))
    page = report.page(
        name,
        scores,
        anchor,
        sheet=(results / "sheet.jpg").read_bytes(),
        unseen=True,
    )
    files.write(results / "evaluation.html", page)
    left_out = sorted(set(recipe.evaluate.sizes) - set(sizes))
    if left_out:
        print(
            f"evaluate {name}: left out {', '.join(map(str, left_out))} pixels, as photographs are "
            f"kept at {photos.size} (photos.held_out_size in params.yaml) and never enlarged"
        )
    smaller = sum(side < sizes[-1] for side in sides)
    if smaller:
        print(
            f"evaluate {name}: {smaller} of {len(sides)} photographs came smaller than "
            f"{sizes[-1]} pixels, and are judged up to the size that they came in"
        )
    print(
        f"evaluate {name}: on {metrics['photographs']} held-out photographs content "
        f"{metrics['content']:.3f}, style {metrics['style']:.3f}, total {metrics['total']:.3f} "
        f"({metrics['relative_total']:.0%} of the untouched photographs'), as {anchor} of "
        f"optimising pixels; grid {metrics['grid_ratio']:.2f}, border "
        f"{metrics['border_ratio']:.2f} (1 is none)"
    )


def _digest(value: Any) -> str:
    """Two judges with the same digest judge alike, and what they say can be compared."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _parts(judge: dict[str, Any], network: str, painting: str) -> dict[str, str]:
    """What a judge is made of as people read it, by the names of params.yaml."""
    size, photographs = judge["photographs"]
    layers = ", ".join(
        f"{name} {weight:g}" for name, weight in judge["loss"]["style_layers"].items()
    )
    loss = judge["loss"] | {
        "network": f"{network} ({judge['loss']['network'][:8]})",
        "style_layers": layers,
    }
    style = judge["style"] | {"image": f"{painting} ({judge['style']['image'][:8]})"}
    parts = {
        "formulas": judge["format"],
        **{f"loss.{name}": value for name, value in loss.items()},
        **{f"style.{name}": value for name, value in style.items()},
        "evaluate.sizes": judge["size"],
        "photographs": f"{len(photographs)} of {size} pixels ({_digest(photographs)[:8]})",
    }
    if "smaller" in judge:
        parts["sides of smaller photographs"] = _digest(judge["smaller"])[:8]
    return {name: str(value).removesuffix(".0") for name, value in parts.items()}


def _sheet(name: str, paint: Paint, photos: Photos, scores: list[Score], path: Path) -> None:
    """The first photographs before and after, as large as they came or are kept."""
    shown = [
        images.fit(photos.whole(index), photos.side(index)) for index in range(len(scores[:SHOWN]))
    ]
    rows = [
        (report.caption(score, min(photo.shape[2:])), (photo, paint(photo)))
        for score, photo in zip(scores, shown, strict=False)
    ]
    images.save(images.Picture(images.sheet(rows, ("photograph", name))), path)


if __name__ == "__main__":
    run(main)
