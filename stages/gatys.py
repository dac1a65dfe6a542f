"""Gatys: the loss of a style, lowered on a few held-out photographs' own pixels, to compare with.

It depends on the style and the photographs, not on any model: another training is compared with the
same curve.
"""

from pathlib import Path

from fnst import criterion, files, gatys, params
from fnst.devices import device
from fnst.photos import Photos
from fnst.progress import watch
from stages import run, style_named

DATA = Path("data")


def main() -> None:
    """Optimise the first held-out photographs under the style named on the command line."""
    name = style_named()
    wanted = params.load()
    plan, where = wanted.chosen.gatys, device()
    loss = criterion.loss(
        wanted.loss,
        wanted.style(name),
        picture=criterion.only_file(DATA / "raw" / "styles" / name),
        vgg=criterion.only_file(DATA / "raw" / "network"),
        device=where,
    )
    photos = Photos(DATA / "photos" / "held_out").on(where)
    subjects = gatys.subjects(photos, plan.photographs, plan.size)

    with watch(f"gatys {name}", len(subjects) * (plan.iterations + 1)) as update:
        curve = gatys.curve(
            loss,
            subjects,
            plan.iterations,
            lambda done, total: update(done, f"total {total:.3f}"),
        )
    files.write_rows(DATA / "results" / name / "gatys.csv", gatys.as_rows(curve))
    print(
        f"gatys {name}: optimising {len(subjects)} photographs pixel by pixel takes their mean "
        f"total from {curve[0]:.3f} to {curve[-1]:.3f} in {plan.iterations} iterations"
    )


if __name__ == "__main__":
    run(main)
