"""What an interrupted training finds again, and what a finished one leaves."""

import os
import time

import pytest
import torch

from fnst import files, journal
from fnst.errors import TrainingError
from fnst.journal import Journal
from fnst.losses import PerceptualLoss, Weights
from fnst.network import TransformerNetwork
from fnst.training import DivergedError, Learner, adam


@pytest.fixture
def fresh(extract):
    """Makes what has learnt nothing yet."""
    loss = PerceptualLoss(
        extract,
        torch.rand(1, 3, 16, 16),
        content_layer="deep",
        style_layers={"shallow": 1.0},
        weights=Weights(),
    )

    def make():
        made = TransformerNetwork(width=1, blocks=0)
        return Learner(made, loss, adam(made, 0.01))

    return make


@pytest.fixture
def parts(fresh):
    made = fresh()
    made.step(torch.rand(1, 3, 16, 16), 0.01)
    made.meter.read()
    return made


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "wave.partial"


def row(step):
    return {"step": float(step), "total": 1 / step, "seconds": 2.0 * step}


def kept(folder, parts, steps, upto, fingerprint="a"):
    """A journal whose curve went on to ``steps``, but whose state is that of ``upto``."""
    book = Journal(folder, fingerprint)
    book.resume(parts)
    book.rows = [row(step) for step in range(1, steps + 1)]
    book.seconds = 2.0 * upto
    book.keep(parts, upto, good=True)
    return book


def test_a_new_training_begins_at_zero_with_a_place_for_samples(folder, parts):
    book = Journal(folder, "a")
    assert book.resume(parts) == 0
    assert book.rows == []
    assert book.seconds == 0
    assert book.samples.is_dir()
    assert book.run_id is None


def test_a_training_that_was_stopped_before_its_first_step_keeps_its_run(folder, parts, fresh):
    book = Journal(folder, "a")
    book.resume(parts)
    book.run_id = "run"
    again, made = Journal(folder, "a"), fresh()
    assert again.resume(made) == 0
    assert again.run_id == "run"
    for one, same in zip(made.network.parameters(), parts.network.parameters(), strict=True):
        assert torch.equal(one, same)


def test_an_interrupted_training_goes_on_after_the_step_that_was_kept(folder, parts, fresh):
    kept(folder, parts, steps=4, upto=4).run_id = "run"
    (folder / "samples" / "step-000004.jpg").write_bytes(b"picture")
    book = Journal(folder, "a")
    other = fresh()
    assert book.resume(other) == 4
    assert [entry["step"] for entry in book.rows] == [1, 2, 3, 4]
    assert book.seconds == 8
    assert book.run_id == "run"
    assert (book.samples / "step-000004.jpg").read_bytes() == b"picture"
    for one, same in zip(other.network.parameters(), parts.network.parameters(), strict=True):
        assert torch.equal(one, same)


def test_what_is_no_number_is_not_kept(folder, parts, fresh):
    book = kept(folder, parts, steps=4, upto=4)
    parts.step(torch.full((1, 3, 16, 16), float("nan")), 0.01)
    book.keep(parts, 5, good=True)
    assert book.step == 4  # which is what a training that is stopped here can say
    assert Journal(folder, "a").resume(fresh()) == 4


def test_rows_after_the_kept_step_are_cut_off(folder, parts):
    """The curve is written before the state; an interrupt in between leaves it ahead."""
    kept(folder, parts, steps=7, upto=5)
    book = Journal(folder, "a")
    assert book.resume(parts) == 5
    assert [entry["step"] for entry in book.rows] == [1, 2, 3, 4, 5]


def test_a_resumed_curve_keeps_all_digits_of_its_steps(folder, parts):
    book = Journal(folder, "a")
    book.rows = [{**row(1), "step": 1_234_567}]
    book.keep(parts, 1_234_567, good=True)
    for _ in range(2):
        book = Journal(folder, "a")
        assert book.resume(parts) == book.step == 1_234_567
        assert [entry["step"] for entry in book.rows] == [1_234_567]
        book.keep(parts, 1_234_567, good=True)


def test_what_a_kill_left_half_written_is_removed(folder, parts):
    book = kept(folder, parts, steps=4, upto=4)
    for whole in (folder / "state.safetensors", book.samples / "step-000004.jpg"):
        whole.with_name(f".{whole.name}.abc123").write_bytes(b"half")
    assert Journal(folder, "a").resume(parts) == 4
    assert not list(folder.rglob(".*"))
    assert (folder / "state.safetensors").exists()


def test_the_curve_is_on_disk_before_the_state_that_vouches_for_it(folder, parts, monkeypatch):
    book = Journal(folder, "a")
    book.rows = [row(1)]
    written = []
    write = files.write
    monkeypatch.setattr(
        files, "write", lambda path, content: (written.append(path.name), write(path, content))
    )
    book.keep(parts, 1, good=False)
    assert written == ["loss.csv", "clock.json", "state.safetensors"]


def test_what_another_training_left_is_not_continued_but_set_aside(folder, parts):
    kept(folder, parts, steps=3, upto=3, fingerprint="old").run_id = "old"
    (folder / "samples" / "step-000003.jpg").write_bytes(b"picture")
    book = Journal(folder, "new")
    assert book.resume(parts) == 0
    assert book.rows == []
    assert book.run_id is None
    assert list(book.samples.iterdir()) == []
    assert Journal(book.aside, "old").resume(parts) == 3
    assert Journal(book.aside, "old").run_id == "old"


def test_a_training_whose_params_are_back_goes_on(folder, parts, fresh):
    kept(folder, parts, steps=3, upto=3, fingerprint="first").run_id = "run"
    kept(folder, parts, steps=1, upto=1, fingerprint="tried")
    book = Journal(folder, "first")
    assert book.resume(fresh()) == 3
    assert book.run_id == "run"
    assert Journal(folder, "tried").resume(fresh()) == 1


def test_so_many_trainings_wait_and_no_more(folder, parts, fresh):
    names = [f"{number}-of-many" for number in range(journal.ASIDE + 2)]
    for age, name in enumerate(names):
        kept(folder, parts, steps=1, upto=1, fingerprint=name)
        os.utime(folder / journal.STATE, (age, age))
    Journal(folder, "new").resume(fresh())
    waiting = sorted(path.name for path in folder.parent.iterdir() if path != folder)
    assert waiting == [f"wave.partial.{name[:8]}" for name in names[2:]]


# --- going back -----------------------------------------------------------------------------------

DIVERGED = DivergedError("the loss was nan at step 9: expected a number")


def test_going_back_takes_up_the_last_state_with_half_the_learning_rate(folder, parts):
    book = kept(folder, parts, steps=4, upto=4)
    before = [p.clone() for p in parts.network.parameters()]
    with torch.no_grad():
        for weights in parts.network.parameters():
            weights.fill_(float("nan"))
    book.rows.append(row(8))
    assert book.go_back(parts, DIVERGED) == 4
    assert book.caution == 0.5
    assert [entry["step"] for entry in book.rows] == [1, 2, 3, 4]
    for weights, kept_weights in zip(parts.network.parameters(), before, strict=True):
        assert torch.equal(weights, kept_weights)


def test_going_back_passes_over_what_was_kept_between_two_reports(folder, parts, fresh):
    """Its losses may already be those of a training that has gone astray."""
    book = kept(folder, parts, steps=4, upto=4)
    good = [p.clone() for p in parts.network.parameters()]
    parts.step(torch.rand(1, 3, 16, 16), 0.5)
    book.keep(parts, 5, good=False)
    again = Journal(folder, "a")
    made = fresh()
    assert again.resume(made) == 5
    assert again.go_back(made, DIVERGED) == 4
    for weights, before in zip(made.network.parameters(), good, strict=True):
        assert torch.equal(weights, before)
    assert Journal(folder, "a").resume(fresh()) == 4


def test_a_follower_takes_up_the_same_step_or_refuses(folder, parts, fresh):
    kept(folder, parts, steps=4, upto=4)
    Journal(folder, "a").follow(fresh(), 4)
    with pytest.raises(TrainingError, match="after step 5, as the first process has it, got 4"):
        Journal(folder, "a").follow(fresh(), 5)
    with pytest.raises(TrainingError, match="got none; all machines need the same folder"):
        Journal(folder, "b").follow(fresh(), 4)
    assert Journal(folder, "a").resume(fresh()) == 4


def test_a_resumed_training_remembers_that_it_went_back(folder, parts):
    book = kept(folder, parts, steps=4, upto=4)
    book.go_back(parts, DIVERGED)
    again = Journal(folder, "a")
    assert again.resume(parts) == 4
    assert again.setbacks == 1
    again.go_back(parts, DIVERGED)
    assert again.caution == 0.25


def test_after_three_returns_it_is_given_up_with_advice(folder, parts):
    book = kept(folder, parts, steps=4, upto=4)
    for _ in range(3):
        book.go_back(parts, DIVERGED)
    with pytest.raises(TrainingError, match=r"nan at step 9.*3 returns.*smaller learning_rate"):
        book.go_back(parts, DIVERGED)


def test_one_can_go_back_to_the_very_beginning(folder, parts):
    book = Journal(folder, "a")
    book.resume(parts)
    assert book.go_back(parts, DIVERGED) == 0
    assert book.setbacks == 1
    assert book.samples.is_dir()


# --- what is kept, and when -----------------------------------------------------------------------


def test_a_damaged_state_is_not_thrown_away_unasked(folder, parts):
    kept(folder, parts, steps=3, upto=3)
    (folder / "state.safetensors").write_bytes(b"no state")
    with pytest.raises(TrainingError, match="is damaged"):
        Journal(folder, "a").resume(parts)
    assert (folder / "loss.csv").exists()


def test_a_state_that_cannot_be_read_is_not_called_damaged(folder, parts):
    (folder / "state.safetensors").mkdir(parents=True)
    with pytest.raises(TrainingError, match="cannot be read") as refused:
        Journal(folder, "a").resume(parts)
    assert "delete" not in str(refused.value)


def test_keeping_is_due_when_enough_work_would_be_lost(folder, parts, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    book = Journal(folder, "a")
    now += journal.KEEP_SECONDS - 1
    assert not book.is_due(good=True)
    now += 2
    assert book.is_due(good=True)
    book.keep(parts, 1, good=False)
    assert not book.is_due(good=False)
    assert book.is_due(good=True)  # something to go back to has to be as young
    book.keep(parts, 1, good=True)
    assert not book.is_due(good=True)


def test_a_finished_training_leaves_curve_samples_and_run_and_nothing_else(folder, parts, tmp_path):
    book = kept(folder, parts, steps=2, upto=2)
    book.run_id = "run"
    (book.samples / "step-000002.jpg").write_bytes(b"picture")
    target = tmp_path / "wave"
    (target / "samples").mkdir(parents=True)
    (target / "samples" / "step-999999.jpg").write_bytes(b"of an earlier training")
    (target / "loss.csv").write_text("earlier")
    (target / "model.json").write_text("{}")
    book.finish(target)
    assert not folder.exists()
    left = sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file())
    assert left == ["loss.csv", "model.json", "run.json", "samples/step-000002.jpg"]
    assert [entry["step"] for entry in files.read_numbers(target / "loss.csv")] == [1, 2]
    assert files.read_json(target / "run.json") == {"run_id": "run"}


def finished(folder, learner, target, noted):
    """A training that ended when so much was known of the one before."""
    book = Journal(folder, "a")
    book.resume(learner, noted=noted)
    book.rows = [row(1), row(2)]
    book.keep(learner, 2, good=True)
    book.run_id = "run"
    book.finish(target)


def test_what_was_finished_can_be_finished_again_where_nobody_took_note(
    folder, parts, fresh, tmp_path
):
    """As when DVC is killed after the stage has ended, and before it has written its lock."""
    finished(folder, parts, tmp_path / "wave", noted="the last")
    again = Journal(folder, "a")
    assert again.resume(fresh(), noted="the last") == 2
    again.finish(tmp_path / "other")
    assert files.read_json(tmp_path / "other" / "run.json") == {"run_id": "run"}


def test_a_training_begun_by_hand_takes_note_where_dvc_goes_on_with_it(
    folder, parts, fresh, tmp_path
):
    kept(folder, parts, steps=1, upto=1)
    for noted in ("the last", "another"):  # the first one counts
        Journal(folder, "a").resume(parts, noted=noted)
    finished(folder, parts, tmp_path / "wave", noted=None)
    assert Journal(folder, "a").resume(fresh(), noted="the last") == 2


@pytest.mark.parametrize(
    ("fingerprint", "noted"), [("a", "this one"), ("b", "the last"), ("a", None)]
)
def test_what_was_finished_and_noted_or_of_another_kind_is_not_taken_up(
    folder, parts, fresh, tmp_path, fingerprint, noted
):
    kept(folder, parts, steps=1, upto=1, fingerprint="older")
    finished(folder, parts, tmp_path / "wave", noted="the last")
    aside = folder.with_name(f"{folder.name}.older")
    assert Journal(aside, "older").resume(fresh()) == 1
    again = Journal(folder, fingerprint)
    assert again.resume(fresh(), noted=noted) == 0
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert not again.run_id
    assert Journal(aside, "older").resume(fresh()) == 1  # a training that was never finished


def test_an_interrupt_while_finishing_leaves_a_training_that_can_be_resumed(
    folder, parts, tmp_path, monkeypatch
):
    book = kept(folder, parts, steps=2, upto=2)
    book.run_id = "run"
    target = tmp_path / "wave"

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(type(folder), "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            book.finish(target)
    again = Journal(folder, book.fingerprint)
    assert again.resume(parts) == 2
    again.finish(target)
    assert [entry["step"] for entry in files.read_numbers(target / "loss.csv")] == [1, 2]
