"""Train: one style, from the packed photographs to a checkpoint, with samples along the way.

Work in progress lies in data/models/STYLE.partial/; after an interrupt the next run takes it up.
"""

import hashlib
import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from fnst import build, checkpoint, files, images, params, tracking, training
from fnst.journal import Journal
from fnst.losses import PerceptualLoss
from fnst.network import TransformerNetwork
from fnst.photos import Photos
from fnst.progress import Update, watch
from fnst.stylize import device, stylize
from fnst.training import DivergedError
from stages import run, style_named

Photo = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]

DATA = Path("data")
FORMAT = 1  # raised when the same params no longer mean the same training


@dataclass(frozen=True)
class Parts:
    """Everything a training is put together from."""

    plan: params.Train
    network: TransformerNetwork
    loss: PerceptualLoss
    optimizer: torch.optim.Optimizer
    photos: Photos
    sample: Photo  # stylized now and then, to look at
    steps: int
    dtype: torch.dtype


def main() -> None:
    """Train the style named on the command line."""
    name = style_named()
    wanted = params.load()
    picture = build.only_file(DATA / "raw" / "styles" / name)
    vgg = build.only_file(DATA / "raw" / "network")
    parts = _assemble(wanted, wanted.style(name), picture, vgg)
    described = _describe(wanted, name)
    hashes = {
        "style_sha256": files.sha256(picture),
        "loss_network_sha256": files.sha256(vgg),
        "photographs_sha256": files.sha256(DATA / "photos" / "report.json"),
    }
    shown = {**described, "photos": asdict(wanted.chosen.photos)}
    lineage = tracking.lineage()

    journal = Journal(DATA / "models" / f"{name}.partial", _fingerprint(described | hashes))
    start = journal.resume(parts.network, parts.optimizer)
    if journal.aside:
        print(
            f"train {name}: {journal.folder} was of other params, photographs or code, so this "
            f"training begins anew; the other is kept in {journal.aside}",
            flush=True,
        )
    if start:
        print(f"train {name}: going on after step {start} of {parts.steps}", flush=True)
    with (
        tracking.record(
            f"{name} {wanted.recipe}",
            run_id=journal.run_id,
            params=tracking.flatten(shown),
            tags={**lineage, **hashes, "style": name},
            datasets=_datasets(parts.photos.size, hashes["photographs_sha256"]),
        ) as tracked,
        watch(f"train {name}", parts.steps) as update,
    ):
        journal.run_id = tracked.id
        step = _learn_safely(name, parts, journal, tracked, update, start)
        if step < parts.steps:
            print(f"train {name}: stopped after step {step}; `dvc repro` goes on from there.")
            sys.exit(130)

    history = {
        "params": shown,
        "steps": step,
        "photographs": len(parts.photos),
        "setbacks": journal.setbacks,
        "lineage": lineage,
        **hashes,
    }
    checkpoint.save(DATA / "models" / name, parts.network, style=name, training=history)
    summary = _summary(journal, parts.plan.batch_size)
    files.write_json(DATA / "results" / name / "train.json", summary)
    journal.finish(DATA / "models" / name)
    print(
        f"train {name}: {step} steps in {summary['seconds']:.0f} s, "
        f"{summary['images_per_second']:.1f} images/s, peak {summary['peak_memory_mb']:.0f} MB, "
        f"content {summary['content']:.3f}, style {summary['style']:.3f}"
    )
    print(f"train {name}: model, loss curve and samples in {DATA / 'models' / name}/")


def _assemble(wanted: params.Params, style: params.Style, picture: Path, vgg: Path) -> Parts:
    plan, where = wanted.chosen.train, device()
    dtype = training.choose_dtype(plan.precision, where)
    network = build.network(wanted.chosen.network, seed=plan.seed).to(where)
    photos = Photos(DATA / "photos" / "train")
    return Parts(
        plan=plan,
        network=network,
        loss=build.loss(wanted.loss, style, picture=picture, vgg=vgg, device=where, dtype=dtype),
        optimizer=training.adam(network, plan.learning_rate),
        photos=photos,
        sample=Photos(DATA / "photos" / "held_out").whole(0),
        steps=training.count_steps(
            len(photos), batch_size=plan.batch_size, steps=plan.steps, epochs=plan.epochs
        ),
        dtype=dtype,
    )


def _learn_safely(
    name: str, parts: Parts, journal: Journal, tracked: tracking.Run, update: Update, start: int
) -> int:
    """Train until the last step or an interrupt; where it diverges, go back and try again."""
    interrupts = _interrupts()
    if not start:
        journal.keep(parts.network, parts.optimizer, 0)  # somewhere to go back to
    while True:
        try:
            return _learn(parts, journal, tracked, update, start, interrupts)
        except DivergedError as reason:
            start = journal.go_back(parts.network, parts.optimizer, reason)
            print(
                f"train {name}: {reason}; going on after step {start} with the learning rate "
                f"times {journal.caution:g}",
                flush=True,
            )


def _learn(
    parts: Parts,
    journal: Journal,
    tracked: tracking.Run,
    update: Update,
    start: int,
    interrupts: Sequence[int],
) -> int:
    """Train until the last step or an interrupt; the number of steps done."""
    plan, began, before = parts.plan, time.monotonic(), journal.seconds
    batches = parts.photos.batches(
        batch_size=plan.batch_size,
        crop=plan.crop,
        crop_scale=plan.crop_scale,
        seed=plan.seed,
        start=start,
    )
    if not start:
        _keep_sample(journal, tracked, parts.sample, 0)
    step = sampled = start
    for step, losses in training.train(
        parts.network,
        parts.loss,
        parts.optimizer,
        batches,
        steps=parts.steps,
        start=start,
        schedule=training.warmup_cosine(
            plan.learning_rate * journal.caution, warmup=plan.warmup_steps, steps=parts.steps
        ),
        dtype=parts.dtype,
        report_every=plan.log_every,
    ):
        seconds = time.monotonic() - began
        rate = (step - start) * plan.batch_size / seconds
        curves = {**asdict(losses), "images_per_second": rate}
        journal.rows.append({"step": step, **curves, "seconds": before + seconds})
        tracked.log(step, curves)
        update(step, f"{rate:.1f} images/s, content {losses.content:.3f}, style {losses.style:.3f}")

        last = step == parts.steps
        if step // plan.sample_every > sampled // plan.sample_every or last:
            _keep_sample(journal, tracked, stylize(parts.network, parts.sample), step)
            sampled = step
        if journal.is_due() or interrupts or last:
            journal.keep(parts.network, parts.optimizer, step)
        if interrupts:
            break
    return step


def _keep_sample(journal: Journal, tracked: tracking.Run, picture: Photo, step: int) -> None:
    """Keep a picture of how far the training is; that of step 0 is the photograph itself."""
    images.save(images.Picture(picture), journal.samples / f"step-{step:06d}.jpg")
    tracked.picture(picture, key="sample", step=step)


def _describe(wanted: params.Params, style: str) -> dict[str, Any]:
    """Every parameter that the result depends on."""
    return {
        "recipe": wanted.recipe,
        "style": asdict(wanted.style(style)),
        "loss": asdict(wanted.loss),
        "network": asdict(wanted.chosen.network),
        "train": asdict(wanted.chosen.train),
    }


def _fingerprint(described: dict[str, Any]) -> str:
    text = json.dumps({"format": FORMAT, **described}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _datasets(size: int, digest: str) -> list[tracking.Dataset]:
    folder = DATA / "photos"
    return [
        tracking.Dataset("train", folder / "train", size, digest, "training"),
        tracking.Dataset("held out", folder / "held_out", size, digest, "evaluation"),
    ]


def _interrupts() -> Sequence[int]:
    """Signals that asked for an end; the loop stops between two steps, a second signal at once."""
    caught: list[int] = []

    def remember(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, remember)
    signal.signal(signal.SIGTERM, remember)
    return caught


def _summary(journal: Journal, batch_size: int) -> dict[str, float]:
    """What the training came to: time, rate, memory, and the losses of its last tenth."""
    last = journal.rows[-max(1, len(journal.rows) // 10) :]
    end = journal.rows[-1]
    return {
        "steps": int(end["step"]),
        "seconds": round(end["seconds"], 1),
        "images_per_second": round(end["step"] * batch_size / end["seconds"], 2),
        "peak_memory_mb": round(_peak_memory() / 1e6),
        **{k: round(sum(r[k] for r in last) / len(last), 6) for k in ("content", "style", "total")},
    }


def _peak_memory() -> float:
    """Bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


if __name__ == "__main__":
    run(main)
