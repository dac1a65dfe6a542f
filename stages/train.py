"""Train: one style, from the packed photographs to a checkpoint, with samples along the way.

Work in progress lies in data/models/STYLE.partial/; after an interrupt the next run takes it up.
Where there are several GPUs, as many processes share every batch; the first of them tells and keeps
what there is to tell and keep.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float

from fnst import (
    build,
    checkpoint,
    criterion,
    distributed,
    files,
    images,
    memory,
    params,
    tracking,
    training,
)
from fnst.devices import device
from fnst.errors import TrainingError
from fnst.journal import Journal
from fnst.network import TransformerNetwork
from fnst.photos import Photos
from fnst.progress import Update, watch
from fnst.stylize import stylize
from fnst.training import DivergedError, Learner, Losses
from stages import run, style_named

Photo = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]

DATA = Path("data")

# Raised by hand when the same params lead to other weights or another curve (the network, the loss,
# the optimizer, the order and crops of photographs), and when a state holds something else, or
# means something else by it (``training.save_state``): what was begun before is then set aside, and
# not gone on with as if it were one of now.
FORMAT = 6

# Short side of the samples, pixels; chosen by us: strokes can be told, and drawing one takes about
# as long as a step of the smallest recipe.
SAMPLE_SIDE = 320


@dataclass(frozen=True)
class Inputs:
    """The files that a training begins with."""

    picture: Path
    vgg: Path
    begin: Path | None  # a checkpoint's folder; none begins with noise

    def hashes(self) -> dict[str, str]:
        """The contents of all that the result depends on, by what each is."""
        paths = {
            "style_sha256": self.picture,
            "loss_network_sha256": self.vgg,
            "photographs_sha256": DATA / "photos" / "report.json",
            **({"init_sha256": self.begin / checkpoint.WEIGHTS} if self.begin else {}),
        }
        return {name: files.sha256(path) for name, path in paths.items()}


@dataclass(frozen=True)
class Parts:
    """Everything a training is put together from."""

    plan: params.Train
    network: TransformerNetwork
    learner: Learner
    photos: Photos
    sample: Photo  # stylized now and then, to look at
    steps: int


def main() -> None:
    """Train the style named on the command line."""
    name = style_named()
    wanted = params.load()
    inputs(wanted, name)  # what is missing is missed once, and not by every process
    processes = distributed.processes_for(wanted.chosen.train.batch_size)
    distributed.launch("stages.train", [name], processes=processes)
    memory.hold()
    with distributed.joined(), _alone(name):
        _train(name, wanted)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Keep other trainings of this style away; what the first process holds, it holds for all.

    Raises:
        TrainingError: when there is one, such as that of a `dvc repro` that was killed.
    """
    if distributed.rank():
        yield
        return
    model = DATA / "models" / name
    model.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(files.alone(model, patience=0.0))
        except TimeoutError as error:
            raise TrainingError(
                f"another process is training {name} here already; wait until it is done, or end "
                "it: the next `dvc repro` goes on where it stopped."
            ) from error
        yield


def _train(name: str, wanted: params.Params) -> None:
    given = inputs(wanted, name)
    parts = assemble(wanted, name, given)
    described, hashes = _describe(wanted, name), given.hashes()
    computed = {"dtype": str(parts.learner.dtype)}  # what ``auto`` came to on this machine
    fingerprint = _fingerprint(described | hashes | computed)
    journal = Journal(DATA / "models" / f"{name}.partial", fingerprint)
    if distributed.rank():
        # An interrupt is the first one's to tell: where another ended so, its torchrun would end
        # all, while the first one, on another machine, still has to write.
        _learn_safely(name, parts, journal)
        return
    shown = {**described, "photos": asdict(wanted.chosen.photos)}
    lineage = tracking.lineage()
    start = journal.resume(parts.learner, noted=_noted())
    if journal.aside:
        print(
            f"train {name}: {journal.folder} was of other params, photographs or code; it waits in "
            f"{journal.aside} until they are back",
            flush=True,
        )
    if start:
        print(f"train {name}: going on after step {start} of {parts.steps}", flush=True)

    def remember(run_id: str) -> None:
        journal.run_id = run_id

    with (
        tracking.record(
            f"{name} {wanted.recipe}",
            run_id=journal.run_id,
            params=tracking.flatten(shown),
            tags={**lineage, **hashes, "style": name},
            datasets=_datasets(wanted.chosen.photos, hashes["photographs_sha256"]),
            begun=remember,
        ) as tracked,
        watch(f"train {name}", parts.steps) as update,
    ):
        tracked.fill(journal.rows)
        teller = Teller(parts, journal, tracked, update)
        step, stopped = _learn_safely(name, parts, journal, teller, start)
        if step < parts.steps:
            print(
                f"train {name}: stopped after step {journal.step}; `dvc repro` goes on from there."
            )
            sys.exit(130)

    history = {
        "params": shown,
        "steps": step,
        "photographs": len(parts.photos),
        "processes": distributed.world(),
        "setbacks": journal.setbacks,
        "lineage": lineage,
        **hashes,
    }
    summary = _summary(journal, parts.plan.batch_size)
    checkpoint.save(DATA / "models" / name, parts.network, style=name, training=history)
    files.write_json(DATA / "results" / name / "train.json", summary)
    journal.finish(DATA / "models" / name)
    print(f"train {name}: {_told(step, summary)}")
    print(f"train {name}: model, loss curve and samples in {DATA / 'models' / name}/")
    if stopped:  # in the last step, or since
        sys.exit(130)


def _noted() -> str | None:
    """What DVC has noted of this stage's last run, in dvc.lock: of every run it is another.

    None where it is not DVC that runs this stage: who does so by hand wants a training.
    """
    stage, lock = os.environ.get("DVC_STAGE"), Path("dvc.lock")
    if stage is None:
        return None
    noted = yaml.safe_load(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    return json.dumps(noted.get("stages", {}).get(stage), sort_keys=True)


def inputs(wanted: params.Params, name: str) -> Inputs:
    """What `dvc repro fetch` has put there for a style.

    Raises:
        ImageError: when something is missing.
    """
    return Inputs(
        picture=criterion.only_file(DATA / "raw" / "styles" / name),
        vgg=criterion.only_file(DATA / "raw" / "network"),
        begin=DATA / "raw" / "init" if wanted.chosen.train.init != "scratch" else None,
    )


def assemble(wanted: params.Params, name: str, given: Inputs) -> Parts:
    """Put together what a style's training needs."""
    plan, where = wanted.chosen.train, device()
    dtype = training.choose_dtype(plan.precision, where)
    network = build.network(wanted.chosen.network, seed=plan.seed, start=given.begin).to(where)
    loss = criterion.loss(
        wanted.loss,
        wanted.style(name),
        picture=given.picture,
        vgg=given.vgg,
        device=where,
        dtype=dtype,
    )
    photos = Photos(DATA / "photos" / "train").on(where)
    return Parts(
        plan=plan,
        network=network,
        learner=Learner(network, loss, training.adam(network, plan.learning_rate), dtype),
        photos=photos,
        sample=_sample(Photos(DATA / "photos" / "held_out")),
        steps=training.count_steps(
            len(photos), batch_size=plan.batch_size, steps=plan.steps, epochs=plan.epochs
        ),
    )


def _sample(held_out: Photos) -> Photo:
    """The first of them, no larger than it came."""
    return images.fit(held_out.whole(0), min(SAMPLE_SIDE, held_out.side(0)))


class Teller:
    """Tells MLflow, the journal and whoever watches how the training goes, and draws samples."""

    def __init__(
        self, parts: Parts, journal: Journal, tracked: tracking.Run, update: Update
    ) -> None:
        self.parts, self.journal, self.tracked, self.update = parts, journal, tracked, update

    def begin(self, start: int) -> None:
        """Count time and steps from here."""
        self.start, self.began, self.before = start, time.monotonic(), self.journal.seconds
        self.said = ""
        self.update(start)
        self.sampled = int(self.journal.rows[-1]["step"]) if self.journal.rows else 0

    @property
    def seconds(self) -> float:
        """Time spent on this training until now, by all processes that took it up."""
        return self.before + time.monotonic() - self.began

    def report(self, step: int, losses: Losses) -> None:
        """Tell the losses, and every so often draw a sample."""
        plan, seconds = self.parts.plan, self.seconds
        rate = (step - self.start) * plan.batch_size / (seconds - self.before)
        curves = {**asdict(losses), "images_per_second": rate}
        self.journal.rows.append({"step": step, **curves, "seconds": seconds})
        self.tracked.log(step, curves)
        self.said = f"{rate:.1f} images/s, content {losses.content:.3f}, style {losses.style:.3f}"
        due = step // plan.sample_every > self.sampled // plan.sample_every
        if due or step == self.parts.steps:
            with self.parts.learner.precision():
                picture = stylize(self.parts.network, self.parts.sample)
            self.sample(step, picture)

    def path(self, step: int) -> Path:
        """Where the sample of a step lies."""
        return self.journal.samples / f"step-{step:06d}.jpg"

    def sample(self, step: int, picture: Photo) -> None:
        """Keep a picture of how far the training is."""
        images.save(images.Picture(picture), self.path(step))
        self.tracked.picture(picture, key="sample", step=step)
        self.sampled = step


def _learn_safely(
    name: str, parts: Parts, journal: Journal, teller: Teller | None = None, start: int = 0
) -> tuple[int, bool]:
    """Train until the last step or an interrupt; where it diverges, go back and try again.

    Returns:
        The number of steps done, and whether there was an interrupt.
    """
    try:
        with _interrupts() as caught:
            while True:
                start = _agreed(start, parts, journal)
                try:
                    step = _learn(parts, journal, teller, start, caught)
                    return step, bool(caught) or step < parts.steps
                except DivergedError as reason:
                    if not teller:
                        continue
                    journal.seconds = teller.seconds
                    start = journal.go_back(parts.learner, reason)
                    teller.tracked.forget(start)  # those steps will come again
                    print(
                        f"train {name}: {reason}; going on after step {start} with the learning "
                        f"rate times {journal.caution:g}",
                        flush=True,
                    )
    finally:
        parts.learner.renew()
        if teller and journal.step < parts.steps:
            teller.tracked.forget(journal.good)  # they may come again, when it goes on


def _agreed(start: int, parts: Parts, journal: Journal) -> int:
    """The first process's step, whose state the others take up."""
    start = distributed.of_first(start)
    if distributed.rank():
        journal.follow(parts.learner, start)
    return start


def _learn(
    parts: Parts, journal: Journal, teller: Teller | None, start: int, interrupts: Sequence[int]
) -> int:
    """Train until the last step or an interrupt; the number of steps done."""
    plan = parts.plan
    batches = parts.photos.batches(
        batch_size=plan.batch_size,
        crop=plan.crop,
        crop_scale=plan.crop_scale,
        seed=plan.seed,
        start=start,
        part=distributed.rank(),
        parts=distributed.world(),
    )
    if teller:
        teller.begin(start)
    if teller and not start and not teller.path(0).exists():
        teller.sample(0, parts.sample)
    step = start
    for step, losses in training.train(
        parts.learner,
        batches,
        steps=parts.steps,
        start=start,
        schedule=training.warmup_cosine(
            plan.learning_rate * journal.caution, warmup=plan.warmup_steps, steps=parts.steps
        ),
        report_every=plan.log_every,
    ):
        if teller and losses:
            teller.report(step, losses)
        if teller:
            teller.update(step, teller.said)
        due = teller is not None and journal.is_due(good=losses is not None)
        stopping, keeping = distributed.any_of(bool(interrupts), due)
        if keeping or stopping or step == parts.steps:
            distributed.average(parts.learner.meter.sums)  # the state is that of all
            if teller:
                journal.seconds = teller.seconds
                journal.keep(parts.learner, step, good=losses is not None)
                if losses:  # no setback goes back behind this
                    teller.tracked.send(journal.step)
        if stopping:
            break
    return step


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


def _datasets(photos: params.Photos, digest: str) -> list[tracking.Dataset]:
    train, held_out = DATA / "photos" / "train", DATA / "photos" / "held_out"
    return [
        tracking.Dataset("train", train, photos.size, digest, "training"),
        tracking.Dataset("held out", held_out, photos.held_out_size, digest, "evaluation"),
    ]


@contextmanager
def _interrupts() -> Iterator[Sequence[int]]:
    """Signals that ask for an end while the block lasts; the second one ends at once."""
    caught: list[int] = []

    def remember(number: int, frame: object) -> None:
        caught.append(number)
        if distributed.is_launched():
            return  # torchrun kills by itself, after half a minute
        ends = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, ends)
        os.write(2, b"\nstopping after this step; once more ends at once\n")

    before = {n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(journal: Journal, batch_size: int) -> dict[str, float]:
    """What the training came to: time, rate, memory, and the losses of its last tenth.

    Raises:
        TrainingError: when nothing was ever reported.
    """
    if not journal.rows:
        raise TrainingError(
            "nothing was learnt, because every crop of a photograph was of one colour; expected "
            "photographs in which there is something."
        )
    last = journal.rows[-max(1, len(journal.rows) // 10) :]
    end = journal.rows[-1]
    return {
        "steps": int(end["step"]),
        "seconds": round(end["seconds"], 1),
        "images_per_second": round(end["step"] * batch_size / end["seconds"], 2),
        "peak_memory_mb": round(_peak_memory() / 1e6),
        **{k: round(sum(r[k] for r in last) / len(last), 6) for k in ("content", "style", "total")},
    }


def _told(steps: int, summary: Mapping[str, float]) -> str:
    """What the training came to, for people."""
    whose = "GPU" if torch.cuda.is_available() else "process"
    return (
        f"{steps} steps in {summary['seconds']:.0f} s, "
        f"{summary['images_per_second']:.1f} images/s, at most {summary['peak_memory_mb']:.0f} MB "
        f"of the {whose}'s memory; over its last tenth content {summary['content']:.3f}, style "
        f"{summary['style']:.3f}"
    )


def _peak_memory() -> float:
    """Bytes: of the GPU where there is one, else of this process."""
    return float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else memory.peak()


if __name__ == "__main__":
    run(main)
