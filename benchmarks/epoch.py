"""A training as it runs: not a step alone, but photographs drawn, losses reported, states kept."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import Result, timing, train_step
from fnst import build, criterion, files, memory, params, training
from fnst.devices import device
from fnst.journal import Journal
from fnst.losses import PerceptualLoss
from fnst.packing import SHARD
from fnst.photos import Photos

COCO = 40_670  # photographs of MS COCO 2017 test


def measure() -> Iterator[Result]:
    """Steps of recipe `coco` in a row, with crops, reports and states; MLflow is left out.

    Photographs are noise, packed at the recipe's size. `start` is from the network to the end of
    the first step, imports left out; `epoch` is what COCO 2017 test would take at this rate.
    """
    steps = 2000 if timing.on_gpu() else 10
    wanted = params.load()
    recipe = wanted.recipes["coco"]
    plan = recipe.train
    # as many to a step as COCO has: each is brought to a GPU once
    count = round(plan.batch_size * steps / SHARD) * SHARD or 16
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _noise(folder / "photos", count, recipe.photos.size)
        memory.hold()
        began = time.perf_counter()
        learner = _learner(wanted, recipe)
        journal = Journal(folder / "journal", "none")
        photos = Photos(folder / "photos").on(device())
        made = training.train(
            learner,
            photos.batches(
                batch_size=plan.batch_size, crop=plan.crop, crop_scale=plan.crop_scale, seed=0
            ),
            steps=steps,
            schedule=training.warmup_cosine(
                plan.learning_rate, warmup=plan.warmup_steps, steps=steps
            ),
            report_every=min(plan.log_every, steps // 2),
        )
        next(made)
        timing.wait()
        first = time.perf_counter()
        for step, losses in made:
            if journal.is_due(good=losses is not None):
                journal.keep(learner, step, good=losses is not None)
        timing.wait()
        seconds = (time.perf_counter() - first) / (steps - 1)
    where = f"train-epoch/{device().type}/b{plan.batch_size}"
    yield Result(where, plan.batch_size / seconds, "images/s")
    yield Result(f"{where}/start", first - began, "s")
    yield Result(f"{where}/epoch", COCO / plan.batch_size * seconds, "s")


def _noise(folder: Path, count: int, side: int) -> None:
    """A packed set of so many photographs."""
    folder.mkdir()
    draws = np.random.default_rng(0)
    shards = {f"{first}.npy": min(SHARD, count - first) for first in range(0, count, SHARD)}
    for name, length in shards.items():
        shape = (length, side, side, 3)
        pixels = np.lib.format.open_memmap(folder / name, "w+", np.uint8, shape)
        for photo in pixels:
            photo[:] = draws.integers(0, 256, photo.shape, np.uint8)
        pixels.flush()
    told = {"size": side, "photographs": count, "shards": shards}
    files.write_json(folder / "set.json", told)


def _learner(wanted: params.Params, recipe: params.Recipe) -> training.Learner:
    """The recipe's network, and a loss whose VGG19 has random weights: they take as long."""
    dtype = training.choose_dtype(recipe.train.precision, device())
    network = build.network(recipe.network, seed=0).to(device())
    loss = PerceptualLoss(
        train_step.random_vgg().in_precision(dtype).to(device()),
        train_step.painting(),
        content_layer=wanted.loss.content_layer,
        style_layers=wanted.loss.style_layers,
        weights=criterion.weights(wanted.loss, params.Style("noise")),
    )
    optimizer = training.adam(network, recipe.train.learning_rate)
    return training.Learner(network, loss, optimizer, dtype)
