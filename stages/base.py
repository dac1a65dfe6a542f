"""Base: the network that comes with fnst, from which a new style is a few steps away.

No stage of the pipeline: it is run once for a change of the network or the loss, and its result is
committed. docs/recipe.md says of what the present one was made.

    python -m stages.base together --visits 4800 PAINTING...             # from noise
    python -m stages.base reptile --visits 240 --start fnst/base PAINTING...    # goes on
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from fnst import build, checkpoint, criterion, files, memory, params, pretraining, sources, training
from fnst.devices import device
from fnst.errors import ImageError
from fnst.losses import PerceptualLoss
from fnst.photos import Photos
from fnst.progress import transfers, watch
from stages import run

PAINTINGS = Path("data/raw/paintings")

# Chosen by us; docs/recipe.md has what else was tried.
RATE = 0.001
TOGETHER_STEPS, TOGETHER_WARMUP = 4, 50  # steps of a visit; of the whole until the rate is reached
REPTILE_STEPS, REPTILE_WARMUP = 40, 10  # steps of a visit, and of each until the rate is reached
SHARES = 0.7, 0.1  # of the way that Reptile goes, at first and at last
CROP, CROP_SCALE = 128, 0.4
SEED = 0  # of weights, photo order and crops, and of the order of paintings


def main(arguments: Sequence[str] | None = None) -> None:
    """Learn the paintings, and write the network as fnst's own."""
    memory.hold()
    asked = _parser().parse_args(arguments)
    wanted, where = params.load(), device()
    dtype = training.choose_dtype("auto", where)
    with transfers() as progress:
        pictures = [
            path
            for source in asked.paintings
            for path in sources.bring(source, PAINTINGS, progress=progress)
        ]
    begun = {"start_sha256": files.sha256(asked.start / checkpoint.WEIGHTS)} if asked.start else {}
    made = {
        "how": f"stages.base {asked.method}: {asked.visits} visits",
        "seed": SEED,
        "loss": wanted.loss.network,
        "photographs": len(Photos(asked.photos)),
        "photographs_sha256": _report(asked.photos),
        **begun,
        "paintings_sha256": {path.name: files.sha256(path) for path in pictures},
    }
    network = build.network(wanted.chosen.network, seed=SEED, start=asked.start).to(where)
    paintings = [_loss(wanted, path, where, dtype) for path in pictures]
    photos = Photos(asked.photos).on(where)
    batches = photos.batches(batch_size=1, crop=CROP, crop_scale=CROP_SCALE, seed=SEED)
    visits = _method(asked.method, asked.visits)(
        network, paintings, batches, visits=asked.visits, dtype=dtype, seed=SEED
    )
    with watch("base", asked.visits) as update:
        for visit, painting, losses in visits:
            said = f"content {losses.content:.3f}, style {losses.style:.3f}" if losses else ""
            update(visit, f"{pictures[painting].stem}: {said}")
    # half the space; a weight is rounded by at most a two-thousandth
    checkpoint.save(checkpoint.BASE, network, style="base", training=made, dtype=torch.float16)
    print(f"base: {checkpoint.BASE}/ is from {len(pictures)} paintings; commit it")


def _method(name: str, visits: int) -> Callable[..., pretraining.Visits]:
    """How paintings are learnt, but for by which network, from what and in how many visits."""
    if name == "together":
        whole = visits * TOGETHER_STEPS
        schedule = training.warmup_cosine(RATE, warmup=TOGETHER_WARMUP, steps=whole)
        return partial(pretraining.learn_together, steps=TOGETHER_STEPS, schedule=schedule)
    return partial(
        pretraining.reptile,
        steps=REPTILE_STEPS,
        schedule=lambda step: RATE * min(1, step / REPTILE_WARMUP),
        first_share=SHARES[0],
        last_share=SHARES[1],
    )


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
    vgg = criterion.only_file(Path("data/raw/network"))
    style = params.Style(str(picture))
    return criterion.loss(wanted.loss, style, picture=picture, vgg=vgg, device=where, dtype=dtype)


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {count}")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stages.base", description=__doc__)
    parser.add_argument(
        "method",
        choices=["together", "reptile"],
        help="all at once, each with norms of its own; or one after the other, part of the way",
    )
    parser.add_argument(
        "paintings", nargs="+", help="pictures to learn from: paths, names of known assets, or URLs"
    )
    parser.add_argument(
        "--photos",
        type=Path,
        default=Path("data/photos/train"),
        help="a packed set's folder; data/photos/train if not given",
    )
    parser.add_argument(
        "--start", type=Path, help="a checkpoint's folder to begin with; else noise"
    )
    parser.add_argument("--visits", type=_count, required=True, help="to paintings, in all")
    return parser


if __name__ == "__main__":
    run(main, again="the same command begins anew")
