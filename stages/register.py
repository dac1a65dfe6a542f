"""Register: one trained and judged style as a version in MLflow, with its lineage.

Runs on every `dvc repro` and does nothing when the version is there: so a lost or other MLflow
store is filled again from data/.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fnst import checkpoint, files, gate, images, journal, params, registry, report, store, tracking
from fnst.gatys import Anchor
from fnst.registry import Version
from stages import run, style_named

DATA = Path("data")
RESULTS = (
    *("index.html", "sheet.jpg", "photographs.csv", "means.csv"),
    *("metrics.json", "train.json"),
)
TRADE_OFF = "tradeoff.jpg"  # beside them once there was a sweep


def main() -> None:
    """Register the style named on the command line, unless its weights are a version already."""
    name = style_named()
    models, results = DATA / "models" / name, DATA / "results" / name
    card = checkpoint.read_card(models)
    metrics = files.read_json(results / "metrics.json")
    _page(results, metrics, card["training"]["params"]["style"].get("strength", 1.0))
    version = registry.find(name, card["weights_sha256"])
    if version and registry.holds(version, metrics, _judge(results)[registry.JUDGED_BY]):
        print(f"register {name}: version {version.number} has these weights already")
        if (results / TRADE_OFF).exists():  # drawn after the version was registered
            _attach(version, results)
    elif version:
        version = _measure_anew(version, card, metrics, results)
        print(f"register {name}: version {version.number} has these weights, measured anew")
    else:
        version = _register(name, card, metrics, models, results)
    limits = asdict(params.load().gate)
    # It has none when it is new, or an earlier run was interrupted right here.
    verdict = version.verdict_under(limits) or registry.judge(version, limits)
    _record(results, version, card["weights_sha256"])
    print(f"register {name}: version {version.number} {verdict}")
    if verdict.word == gate.NOT_COMPARED and registry.CHAMPION not in version.aliases:
        print(f"register {name}: `fnst promote {version.number} --style {name}` makes it champion")


def _page(results: Path, metrics: Mapping[str, float], strength: float) -> None:
    """Write what was evaluated as the style's page, with a sweep's picture of this network."""
    report.drop_stale_trade_off(results, strength, metrics)
    page, picture = (results / "evaluation.html").read_bytes(), results / TRADE_OFF
    if picture.exists():
        page = report.with_trade_off(page, picture.read_bytes())
    files.write(results / "index.html", page)


def _judge(results: Path) -> dict[str, str]:
    """By what it was judged, as tags."""
    told = files.read_json(results / "judged_by.json")
    parts = {f"{registry.JUDGE}{name}": text for name, text in told["parts"].items()}
    return {**parts, registry.JUDGED_BY: told["sha256"]}


def _tags(name: str, trained: dict[str, Any]) -> dict[str, str]:
    hashes = {key: value for key, value in trained.items() if key.endswith("_sha256")}
    return {
        **trained["lineage"],
        **hashes,
        "style": name,
        "recipe": trained["params"]["recipe"],
        "params": json.dumps(trained["params"]),
    }


def _measure_anew(
    version: Version, card: dict[str, Any], metrics: dict[str, float], results: Path
) -> Version:
    """Give a version the numbers and pages of a later evaluation of the same weights."""
    name, trained = version.style, card["training"]
    tags = _tags(name, trained)
    return registry.measured_anew(
        version,
        metrics,
        _judge(results),
        _card(name, card, metrics, tags, results),
        step=trained["steps"],
        has_run=_attach(version, results),
    )


def _attach(version: Version, results: Path) -> bool:
    """Attach the results to a version's run, if there still is one; whether there is."""
    with store.asked():
        has_run = tracking.exists(store.connect(), version.run_id)
    if has_run:
        with tracking.amend(version.style, run_id=version.run_id, params={}, tags={}) as tracked:
            _send(results, tracked)
    return has_run


def _send(results: Path, tracked: tracking.Run) -> None:
    for file in (*RESULTS, *([TRADE_OFF] if (results / TRADE_OFF).exists() else [])):
        tracked.file(results / file, "results")


def _register(
    name: str, card: dict[str, Any], metrics: dict[str, float], models: Path, results: Path
) -> Version:
    """Complete the run of the training, or make it again, and a version of it."""
    trained = card["training"]
    tags = _tags(name, trained)
    with tracking.amend(
        f"{name} {trained['params']['recipe']}",
        run_id=files.read_json(models / journal.RUN)["run_id"],
        params=tracking.flatten(trained["params"]),
        tags=tags,
    ) as tracked:
        tracked.fill(files.read_numbers(models / journal.CURVE))
        _show(models / journal.SAMPLES, tracked)
        _send(results, tracked)
        return registry.register(
            models,
            style=name,
            run_id=tracked.id,
            metrics=metrics,
            tags={**tags, **_judge(results)},
            card=_card(name, card, metrics, tags, results),
        )


def _record(results: Path, version: Version, weights: str) -> None:
    """Say for the reader, and for `fnst summary`, which version these files are."""
    files.write_json(
        results / "registered.json",
        {"style": version.style, "version": version.number, "weights_sha256": weights},
    )
    print(
        f"register {version.style}: the sheet, the curve and all numbers are in "
        f"{results}/index.html"
    )
    print(
        f"register {version.style}: try `fnst stylize --style {version.style} "
        f"--model-version {version.number} photo.jpg`"
    )


def _show(samples: Path, tracked: tracking.Run) -> None:
    """Give a run what it lacks of the samples that the training left on disk."""
    has = tracked.pictured("sample")
    for path in sorted(samples.glob("step-*.jpg")):
        step = int(path.stem.removeprefix("step-"))
        if step not in has:
            tracked.picture(images.load(path).rgb, key="sample", step=step)


def _anchored(results: Path, total: float) -> str:
    """What optimising the pixels takes to be as good; it has photographs and a size of its own."""
    curve = [row["total"] for row in files.read_numbers(results / "gatys.csv")]
    anchor = Anchor(curve, total)
    if not anchor.is_better:
        return "no better than the photographs with which optimising their pixels begins"
    return f"optimising the pixels themselves takes {anchor} to be as good"


def _card(
    name: str, card: dict[str, Any], metrics: dict[str, float], tags: dict[str, str], results: Path
) -> str:
    """The model card, Markdown; MLflow's list of versions shows its first line."""
    anchored = _anchored(results, metrics["gatys_total"])
    trained = card["training"]
    style, loss = trained["params"]["style"], trained["params"]["loss"]
    origin = "\n".join(f"- {key}: `{value}`" for key, value in sorted(tags.items()))
    return f"""Held-out total {metrics["total"]:.3f} ({metrics["relative_total"]:.0%}): \
photographs repainted in the style of `{style["image"]}`.

    fnst stylize --style {name} photo.jpg

Any picture goes in (RGB, sRGB); the same size comes out.

## On {metrics["photographs"]} photographs it never saw

Means; of content, style and total, lower is better.

- content: {metrics["content"]:.4g}, how far the result's structure is from the photograph's
- style: {metrics["style"]:.4g}, how far its texture is from the painting's; \
{metrics["relative_style"]:.0%} of what the untouched photographs score
- total: {metrics["total"]:.4g}, the sum of both, of variation ({metrics["variation"]:.3g}) and of \
the grid term ({metrics["grid"]:.3g}), all weighted; {metrics["relative_total"]:.0%} of what the \
untouched photographs score
- grid {metrics["grid_ratio"]:.3g}, border {metrics["border_ratio"]:.3g}: how far these artefacts \
stick out; 1 is none
- {anchored}

## How it was made

{trained["steps"]} steps on {trained["photographs"]} photographs, recipe `{tags["recipe"]}`, \
strength {style.get("strength", 1):g} (content weight {style["content_weight"]:g}, style weight \
{style["style_weight"]:g}), loss network `{loss["network"]}`.

{origin}
- weights_sha256: `{card["weights_sha256"]}`

## Limits

Made for one style. Faces and fine print lose detail.
"""


if __name__ == "__main__":
    run(main)
