"""Gatys: the loss of a style, lowered on a few held-out photographs' own pixels, to compare with.

It depends on the style and the photographs, not on any model: another training is compared with the
same curve. An interrupt costs the photograph at which it was.
"""

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import Tensor

from fnst import criterion, features, files, gatys, losses, params
from fnst.devices import device
from fnst.photos import Photos
from fnst.progress import watch
from stages import run, style_named

DATA = Path("data")


def main() -> None:
    """Optimise the first held-out photographs under the style named on the command line."""
    name = style_named()
    wanted = params.load()
    plan, style, where = wanted.chosen.gatys, wanted.style(name), device()
    picture = criterion.only_file(DATA / "raw" / "styles" / name)
    vgg = criterion.only_file(DATA / "raw" / "network")
    loss = criterion.loss(wanted.loss, style, picture=picture, vgg=vgg, device=where)
    photos = Photos(DATA / "photos" / "held_out").on(where)
    subjects = gatys.subjects(photos, plan.photographs, plan.size)
    begun = DATA / "results" / name / "gatys.partial.json"
    given = _fingerprint(
        [asdict(plan), asdict(wanted.loss), asdict(style), str(where)],
        [files.sha256(picture), files.sha256(vgg), *_code(), *map(_digest, subjects)],
    )
    with watch(f"gatys {name}", len(subjects) * (plan.iterations + 1)) as update:
        curve = gatys.curve(
            loss,
            subjects,
            plan.iterations,
            lambda done, total: update(done, f"total {total:.3f}"),
            begun=_begun(begun, given),
            keep=partial(_keep, begun, given),
        )
    files.write_rows(DATA / "results" / name / "gatys.csv", gatys.as_rows(curve))
    begun.unlink(missing_ok=True)
    print(
        f"gatys {name}: optimising {len(subjects)} photographs pixel by pixel takes their mean "
        f"total from {curve[0]:.3f} to {curve[-1]:.3f} in {plan.iterations} iterations"
    )


def _fingerprint(values: Sequence[object], hashes: Sequence[str]) -> str:
    text = json.dumps([*values, *hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _code() -> list[str]:
    modules = (criterion, features, gatys, losses)
    return [files.sha256(Path(inspect.getfile(module))) for module in modules]


def _digest(photo: Tensor) -> str:
    return hashlib.sha256(photo.cpu().numpy().tobytes()).hexdigest()


def _begun(path: Path, given: str) -> list[list[float]]:
    """The curves that an interrupted run has kept, if it was of the same loss and photographs."""
    kept = files.read_json(path) if path.exists() else {}
    return kept["curves"] if kept.get("fingerprint") == given else []


def _keep(path: Path, given: str, curves: Sequence[Sequence[float]]) -> None:
    files.write_json(path, {"fingerprint": given, "curves": curves})


if __name__ == "__main__":
    run(main)
