"""Whether bfloat16 learns as well as float32: whole trainings, judged on held-out photographs."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Literal

from benchmarks import Result, UnavailableError
from fnst import build, criterion, evaluation, images, params, training
from fnst.devices import device
from fnst.errors import FnstError
from fnst.losses import PerceptualLoss
from fnst.photos import Photos
from fnst.stylize import stylize

SEEDS = (0, 1, 2)
DATA = Path("data")
STYLE = "indigo-wave"

Precision = Literal["bf16", "fp32"]


def measure() -> Iterator[Result]:
    """The laptop recipe with three seeds in both precisions; minutes on two cores.

    Each row is the total loss of a finished training on the recipe's held-out photographs, judged
    in float32; the ratio is float32's loss to bfloat16's with the same seed. Needs what
    `dvc repro prepare` makes.
    """
    totals: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for seed in SEEDS:
        exact, fast = _total("fp32", seed), _total("bf16", seed)
        yield Result(f"precision/laptop/fp32/seed-{seed}", exact, "total loss")
        yield Result(f"precision/laptop/bf16/seed-{seed}", fast, "total loss", exact / fast)
        totals["fp32"].append(exact)
        totals["bf16"].append(fast)
    exact, fast = fmean(totals["fp32"]), fmean(totals["bf16"])
    yield Result("precision/laptop/fp32/mean", exact, "total loss")
    yield Result("precision/laptop/bf16/mean", fast, "total loss", exact / fast)


def _total(precision: Precision, seed: int) -> float:
    """Train with this precision and this seed; the mean total on held-out photographs."""
    wanted = params.load()
    recipe = wanted.recipes["laptop"]
    plan = replace(recipe.train, precision=precision, seed=seed)
    try:
        picture = criterion.only_file(DATA / "raw" / "styles" / STYLE)
        vgg = criterion.only_file(DATA / "raw" / "network")
        photos = Photos(DATA / "photos" / "train").on(device())
        held_out = Photos(DATA / "photos" / "held_out")
    except (FnstError, OSError) as error:
        raise UnavailableError(f"{error} (`dvc repro prepare` makes what this needs)") from error

    def judge(dtype_of: Precision) -> PerceptualLoss:
        return criterion.loss(
            wanted.loss,
            wanted.style(STYLE),
            picture=picture,
            vgg=vgg,
            device=device(),
            dtype=training.choose_dtype(dtype_of, device()),
        )

    begin = DATA / "raw" / "init" if plan.init != "scratch" else None
    network = build.network(recipe.network, seed=seed, start=begin).to(device())
    learner = training.Learner(
        network,
        judge(precision),
        training.adam(network, plan.learning_rate),
        training.choose_dtype(precision, device()),
    )
    steps = training.count_steps(
        len(photos), batch_size=plan.batch_size, steps=plan.steps, epochs=plan.epochs
    )
    batches = photos.batches(
        batch_size=plan.batch_size, crop=plan.crop, crop_scale=plan.crop_scale, seed=seed
    )
    rate = training.warmup_cosine(plan.learning_rate, warmup=plan.warmup_steps, steps=steps)
    for _ in training.train(learner, batches, steps=steps, schedule=rate, report_every=50):
        pass
    scores = [
        evaluation.total(
            partial(stylize, network),
            judge("fp32"),
            images.fit(held_out.whole(i).to(device()), min(recipe.evaluate.sizes)),
        )
        for i in range(len(held_out))
    ]
    return fmean(scores)
