"""Base: the network that comes with fnst, from which a new style is a few steps away.

No stage of the pipeline: it is run once for a change of the network or the loss, and its result is
committed.

    python -m stages.base --start data/models/indigo-wave --photos data/photos/train \
        --rounds 240 PAINTING...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from fnst import build, checkpoint, files, params, pretraining, training
from fnst.errors import ImageError
from fnst.losses import PerceptualLoss
from fnst.photos import Photos
from fnst.progress import watch
from fnst.stylize import device
from stages import run

# Chosen by us; no others were tried.
STEPS = 40
RATE, WARMUP = 0.001, 10
SHARES = 0.7, 0.1
CROP, CROP_SCALE = 128, 0.4
SEED = 0  # of photo order and crops, and of the order of paintings


def main(arguments: Sequence[str] | None = None) -> None:
    """Visit the paintings in turn, and write the network as fnst's own."""
    asked = _parser().parse_args(arguments)
    wanted, where = params.load(), device()
    dtype = training.choose_dtype("auto", where)
    made = {
        "how": f"stages.base: {asked.rounds} visits of {STEPS} steps",
        "seed": SEED,
        "loss": wanted.loss.network,
        "photographs": len(Photos(asked.photos)),
        "photographs_sha256": _report(asked.photos),
        "start_sha256": files.sha256(asked.start / checkpoint.WEIGHTS),
        "paintings_sha256": {path.stem: files.sha256(path) for path in asked.paintings},
    }
    network = build.network(wanted.chosen.network, seed=SEED, start=asked.start).to(where)
    paintings = [_loss(wanted, path, where, dtype) for path in asked.paintings]
    photos = Photos(asked.photos).on(where)
    visits = pretraining.reptile(
        network,
        paintings,
        photos.batches(batch_size=1, crop=CROP, crop_scale=CROP_SCALE, seed=SEED),
        rounds=asked.rounds,
        steps=STEPS,
        schedule=lambda step: RATE * min(1, step / WARMUP),
        first_share=SHARES[0],
        last_share=SHARES[1],
        dtype=dtype,
        seed=SEED,
    )
    with watch("base", asked.rounds) as update:
        for number, painting, losses in visits:
            said = f"content {losses.content:.3f}, style {losses.style:.3f}" if losses else ""
            update(number, f"{asked.paintings[painting].stem}: {said}")
    # half the space; a weight is rounded by at most a two-thousandth
    checkpoint.save(checkpoint.BASE, network, style="base", training=made, dtype=torch.float16)
    print(f"base: {checkpoint.BASE}/ is from {len(paintings)} paintings; commit it")


def _report(packed: Path) -> str:
    """The hash of what `prepare` says of its photographs, as a training's card has it."""
    try:
        return files.sha256(packed.parent / "report.json")
    except OSError as error:
        raise ImageError(
            f"{packed}: expected report.json beside the set; `dvc repro prepare` makes both."
        ) from error


def _loss(
    wanted: params.Params, picture: Path, where: torch.device, dtype: torch.dtype
) -> PerceptualLoss:
    vgg = build.only_file(Path("data/raw/network"))
    style = params.Style(str(picture))
    return build.loss(wanted.loss, style, picture=picture, vgg=vgg, device=where, dtype=dtype)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.base", description=__doc__)
    parser.add_argument("paintings", type=Path, nargs="+", help="pictures to learn from")
    parser.add_argument("--start", type=Path, required=True, help="a trained checkpoint's folder")
    parser.add_argument("--photos", type=Path, required=True, help="a packed set's folder")
    parser.add_argument("--rounds", type=int, required=True, help="visits to paintings in all")
    return parser


if __name__ == "__main__":
    run(main)
