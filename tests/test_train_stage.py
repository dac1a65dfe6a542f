"""The training stage's own loop: killed at any moment, or led astray, it ends where it should."""

import contextlib
import io
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fnst import distributed, files, journal, packing, params, training
from fnst.collection import Entry
from fnst.errors import TrainingError
from fnst.journal import Journal
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.params import Train
from fnst.photos import Photos
from stages import train

STEPS = 600


class Nowhere:
    """A run that is tracked by nobody; what it would have sent."""

    def __init__(self):
        self.waiting, self.sent, self.pictures, self.kept = [], [], [], None

    def log(self, step, metrics):
        self.waiting.append(step)

    def forget(self, step):
        self.waiting = [waiting for waiting in self.waiting if waiting <= step]
        self.kept = step

    def send(self, step):
        self.sent += [waiting for waiting in self.waiting if waiting <= step]
        self.waiting = [waiting for waiting in self.waiting if waiting > step]

    def picture(self, picture, *, key, step):
        self.pictures.append(step)


def parts(folder, steps=STEPS, learning_rate=0.001, batch_size=1, dtype=torch.float32):
    """A small network that learns from small photographs, judged by one random layer."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = TransformerNetwork(width=4, blocks=1).to(dtype)
    layer = nn.Conv2d(3, 4, 3, padding=1).to(dtype).requires_grad_(False)
    loss = PerceptualLoss(
        lambda image, layers: dict.fromkeys(layers, layer(image).relu()),
        torch.rand(1, 3, 16, 16).to(dtype),
        content_layer="only",
        style_layers={"only": 1.0},
        weights=Weights(),
    )
    learner = training.Learner(network, loss, training.adam(network, learning_rate))
    step = learner.step
    learner.step = lambda photos, rate: step(photos.to(dtype), rate)
    return train.Parts(
        plan=plan(steps, learning_rate, batch_size),
        network=network,
        learner=learner,
        photos=Photos(folder / "photos"),
        sample=Photos(folder / "photos").whole(0).to(dtype),
        steps=steps,
    )


def plan(steps, learning_rate, batch_size):
    return Train(
        init="scratch",
        steps=steps,
        epochs=None,
        batch_size=batch_size,
        crop=16,
        crop_scale=0.5,
        learning_rate=learning_rate,
        warmup_steps=5,
        precision="fp32",
        seed=0,
        log_every=3,
        sample_every=STEPS,
    )


def with_photographs(folder):
    """The folder, in which there is now a packed set of eight photographs."""

    def read(seed):
        return png(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))

    found = [Entry(f"{i}.png", 1, str(i), lambda i=i: read(i)) for i in range(8)]
    packing.pack(found, folder / "photos", size=32)
    return folder


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    return with_photographs(tmp_path)


def learn(folder, name, made=None, tracked=None):
    """Train from wherever the journal of that name stands, to the end; its journal."""
    made = made or parts(folder)
    book = Journal(folder / name, "a")
    if distributed.rank():
        train._learn_safely("wave", made, book)
        return book
    start = book.resume(made.learner)
    tracked = tracked or Nowhere()
    teller = train.Teller(made, book, tracked, lambda step, note="": None)
    train._learn_safely("wave", made, book, teller, start)
    return book


def learn_in_child(folder, name, began):
    journal.KEEP_SECONDS = 0.0
    began.set()
    learn(folder, name)
    os._exit(0)  # as quickly as a kill, but done


def state(book):
    return (book.folder / journal.STATE).read_bytes()


def curve(book):
    """Everything but what depends on the clock."""
    rows = files.read_numbers(book.folder / journal.CURVE)
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def test_twenty_kills_at_random_moments_change_nothing(folder):
    whole = learn(folder, "whole.partial")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stages.train"])
    chance, kills, done = random.Random(0), 0, False
    while not done:
        began = context.Event()
        child = context.Process(target=learn_in_child, args=(folder, "killed.partial", began))
        child.start()
        began.wait()
        if kills < 20:
            time.sleep(chance.uniform(0, 0.4))
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        done = child.exitcode == 0
    killed = Journal(folder / "killed.partial", "a")
    assert kills == 20
    assert state(killed) == state(whole)
    assert curve(killed) == curve(whole)
    assert [row["step"] for row in curve(killed)] == list(range(3, STEPS + 1, 3))


def test_who_watches_hears_of_every_step_and_of_where_it_goes_on(folder):
    made, book = parts(folder, steps=6), Journal(folder / "wave.partial", "a")
    heard = []
    teller = train.Teller(made, book, Nowhere(), lambda step, note="": heard.append((step, note)))
    start = book.resume(made.learner)
    train._learn_safely("wave", made, book, teller, start)
    steps, notes = zip(*heard, strict=True)
    assert steps == (0, 1, 2, 3, 4, 5, 6)
    assert [bool(note) for note in notes] == [False] * 3 + [True] * 4
    heard.clear()
    teller.begin(4)
    assert heard == [(4, "")]


# --- divergence -----------------------------------------------------------------------------------


def poison(made, monkeypatch, times, step, pause=0.0):
    """Let the batch of one step be no numbers, and come late, the first times that it is drawn."""
    batches, left = type(made.photos).batches, [times]

    def drawn(self, *, start=0, **options):
        for number, batch in enumerate(batches(self, start=start, **options), start=start + 1):
            if number == step and left[0]:
                left[0] -= 1
                time.sleep(pause)
                batch = torch.full_like(batch, float("nan"))
            yield batch

    monkeypatch.setattr(type(made.photos), "batches", drawn)


def test_a_training_that_diverges_goes_back_and_ends_well(folder, monkeypatch, capsys):
    made = parts(folder, steps=30)
    poison(made, monkeypatch, times=2, step=20, pause=1.0)
    monkeypatch.setattr(journal, "KEEP_SECONDS", 0.0)
    tracked = Nowhere()
    book = learn(folder, "wave.partial", made, tracked)
    assert book.setbacks == 2
    assert tracked.kept == 18  # what was told of later steps is taken back
    assert tracked.sent == list(range(3, 31, 3))  # and nothing was sent that had to be
    assert all(weights.isfinite().all() for weights in made.network.parameters())
    assert [row["step"] for row in curve(book)] == list(range(3, 31, 3))
    assert book.seconds > 2 * 1.0  # what was in vain counts too
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "train wave: the loss was nan at step 21: expected a number; going on after step 18 with "
        f"the learning rate times {caution}"
        for caution in ("0.5", "0.25")
    ]


def test_nothing_is_sent_that_a_setback_takes_back(folder, monkeypatch):
    """Where states are kept seldom, many reports are behind the one that is gone back to."""
    made = parts(folder, steps=30)
    poison(made, monkeypatch, times=1, step=20)
    reports = iter([False, False, True])  # at step 9 it is kept, and after that in the end alone

    def is_due(self, good):
        return next(reports, False) if good else bool(made.learner.meter.sums[4] == 2)

    monkeypatch.setattr(Journal, "is_due", is_due)
    tracked = Nowhere()
    learn(folder, "wave.partial", made, tracked)
    assert tracked.kept == 9
    assert tracked.sent == list(range(3, 31, 3))


def test_a_training_that_diverges_again_and_again_is_given_up(folder, monkeypatch):
    made = parts(folder, steps=30)
    poison(made, monkeypatch, times=9, step=20)
    with pytest.raises(TrainingError, match=r"nan at step 21.*3 returns.*did not help"):
        learn(folder, "wave.partial", made)


def test_a_training_that_diverges_at_once_goes_back_to_the_very_beginning(folder, monkeypatch):
    made = parts(folder, steps=30)
    poison(made, monkeypatch, times=1, step=1)
    tracked = Nowhere()
    book = learn(folder, "wave.partial", made, tracked)
    assert book.setbacks == 1
    assert tracked.pictures.count(0) == 1
    assert curve(book)[-1]["step"] == 30


# --- interrupts -----------------------------------------------------------------------------------


def test_the_first_interrupt_says_what_happens_and_the_second_ends_at_once(capfd):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with train._interrupts() as caught:
        signal.raise_signal(signal.SIGINT)
        assert caught == [signal.SIGINT]
        assert "stopping after this step; once more ends at once\n" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def interrupt_at(step):
    """What is watched by somebody who presses Ctrl-C after this step."""
    return lambda done, note="": done == step and signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("pressed", "ended"), [(6, (6, True)), (9, (9, True)), (99, (9, False))])
def test_an_interrupt_is_not_forgotten_even_in_the_last_step(folder, pressed, ended):
    made = parts(folder, steps=9)
    book = Journal(folder / "wave.partial", "a")
    start = book.resume(made.learner)
    teller = train.Teller(made, book, Nowhere(), interrupt_at(pressed))
    assert train._learn_safely("wave", made, book, teller, start) == ended


@pytest.mark.parametrize("ended", ["interrupt", "error"])
def test_a_training_that_ends_between_two_good_states_tells_no_more_than_the_last(
    folder, monkeypatch, ended
):
    """What comes after it may come again, and other."""
    made = parts(folder, steps=30)
    monkeypatch.setattr(Journal, "is_due", lambda self, good: good and made.learner.steps_made == 6)
    step, made.learner.steps_made = made.learner.step, 0

    def counted(*given):
        made.learner.steps_made += 1
        if made.learner.steps_made == 11 and ended == "error":
            raise OSError("gone")
        step(*given)

    made.learner.step = counted
    book, tracked = Journal(folder / "wave.partial", "a"), Nowhere()
    start, recorded = book.resume(made.learner), made.learner._update
    pressed = interrupt_at(11) if ended == "interrupt" else lambda done, note="": None
    with contextlib.suppress(OSError):
        train._learn_safely("wave", made, book, train.Teller(made, book, tracked, pressed), start)
    assert book.good == tracked.kept == 6
    assert tracked.sent == [3, 6]
    assert tracked.waiting == []
    assert made.learner._update is not recorded  # NCCL waits until that is gone
    again = parts(folder, steps=30)
    learn(folder, "wave.partial", again, tracked)
    assert set(tracked.sent) <= set(range(3, 31, 3))
    assert len(set(tracked.sent)) == len(tracked.sent)


def test_where_no_photograph_teaches_anything_it_is_said(tmp_path):
    with pytest.raises(TrainingError, match="every crop of a photograph was of one colour"):
        train._summary(Journal(tmp_path, "a"), 1)


@pytest.mark.parametrize(("on_gpu", "whose"), [(True, "GPU"), (False, "process")])
def test_in_the_end_it_is_said_of_what_the_numbers_are(monkeypatch, on_gpu, whose):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    summary = {"seconds": 9.0, "images_per_second": 2.5, "peak_memory_mb": 812}
    assert train._told(20, {**summary, "content": 1.0, "style": 2.0}) == (
        f"20 steps in 9 s, 2.5 images/s, at most 812 MB of the {whose}'s memory; over its last "
        "tenth content 1.000, style 2.000"
    )


def test_each_set_is_shown_with_the_side_of_its_own_squares():
    photos = replace(params.load().chosen.photos, size=288, held_out_size=480)
    shown = {dataset.name: dataset.size for dataset in train._datasets(photos, "a")}
    assert shown == {"train": 288, "held out": 480}


# --- what belongs to one training -----------------------------------------------------------------


def test_two_trainings_of_a_style_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = pytest.raises(TrainingError, match="another process is training wave here already")
    with train._alone("wave"), train._alone("other"), refused, train._alone("wave"):
        pass
    with train._alone("wave"):
        pass


def test_whatever_a_training_depends_on_changes_its_fingerprint():
    wanted = params.load()
    given = {**train._describe(wanted, "indigo-wave"), "style_sha256": "a", "dtype": "b"}
    known = train._fingerprint(given)
    assert train._fingerprint(dict(reversed(given.items()))) == known
    assert given.keys() >= {"recipe", "style", "loss", "network", "train"}
    for path in leaves(given):
        assert train._fingerprint(changed(given, path)) != known, path


def leaves(values, *above):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, *above, name)
        else:
            yield (*above, name)


def changed(values, path):
    name, *below = path
    return {**values, name: changed(values[name], below) if below else "other"}


def test_it_says_by_the_contents_what_it_begins_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = ("wave.png", "vgg", "data/photos/report.json", "init/model.safetensors")
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("before")
    given = train.Inputs(tmp_path / "wave.png", tmp_path / "vgg", tmp_path / "init")
    known = given.hashes()
    assert len(known) == len(places)
    for place, name in zip(places, known, strict=True):
        (tmp_path / place).write_text("after")
        assert [k for k, v in given.hashes().items() if v != known[k]] == [name]
        (tmp_path / place).write_text("before")


def test_what_dvc_has_noted_is_its_entry_of_this_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert train._noted() is None  # it is not DVC that runs it
    monkeypatch.setenv("DVC_STAGE", "train@wave")
    assert train._noted() == "null"
    lock = tmp_path / "dvc.lock"
    lock.write_text("stages:\n  train@wave: {outs: [a]}\n  other: {outs: [b]}\n")
    known = train._noted()
    lock.write_text("# rewritten\nstages:\n  other: {outs: [c]}\n  train@wave: {outs: [a]}\n")
    assert train._noted() == known
    lock.write_text("stages:\n  train@wave: {outs: [d]}\n")
    assert train._noted() != known
