"""A training as a run: what it shows, what survives an interrupt, and a server that goes away."""

import contextlib
import subprocess
import time
from pathlib import Path

import pytest
import registry_fixtures
import torch
from registry_fixtures import free_port

from fnst import store, tracking
from fnst.errors import RegistryError

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


def record(run_id=None, **changed):
    wanted = {"params": {"style.size": 512, "long": None}, "tags": {"style": "wave"}}
    return tracking.record("wave tiny", run_id=run_id, **(wanted | changed))


def curve(run_id, name):
    return [(m.step, m.value) for m in store.connect().get_metric_history(run_id, name)]


def test_a_run_shows_its_name_parameters_tags_and_curves(project):
    with record() as run:
        run.log(10, {"total": 2.0, "style": 1.5})
        run.log(20, {"total": 1.0, "style": 0.5})
    found = store.connect().get_run(run.id)
    assert found.info.run_name == "wave tiny"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"style.size": "512", "long": "None"}
    assert found.data.tags["style"] == "wave"
    assert curve(run.id, "total") == [(10, 2.0), (20, 1.0)]


def test_the_source_is_the_stage_not_a_path_of_this_machine(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@wave")
    with record() as run:
        pass
    assert store.connect().get_run(run.id).data.tags["mlflow.source.name"] == "train@wave"


def test_more_parameters_than_one_call_takes(project):
    with record(params={f"p{i}": i for i in range(230)}) as run:
        pass
    assert len(store.connect().get_run(run.id).data.params) == 230


def test_a_run_that_was_interrupted_goes_on_as_one(project):
    with contextlib.suppress(KeyboardInterrupt), record() as first:
        first.log(10, {"total": 2.0})
        raise KeyboardInterrupt
    assert store.connect().get_run(first.id).info.status == "KILLED"
    with record(run_id=first.id) as second:
        second.log(20, {"total": 1.0})
    assert second.id == first.id
    assert curve(first.id, "total") == [(10, 2.0), (20, 1.0)]
    assert store.connect().get_run(first.id).info.status == "FINISHED"


def test_a_run_that_was_stopped_while_it_began_is_known_and_goes_on(project, monkeypatch):
    import mlflow

    known = []

    def interrupted(**options):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(mlflow, "start_run", interrupted)
        with contextlib.suppress(KeyboardInterrupt), record(begun=known.append):
            pass
    with record(run_id=known[0], begun=known.append) as run:
        assert known == [run.id, run.id]
    assert store.connect().get_run(run.id).data.params["style.size"] == "512"


def test_a_run_that_the_store_has_lost_or_deleted_is_begun_anew(project):
    with record() as first:
        pass
    store.connect().delete_run(first.id)
    for lost in (first.id, "f" * 32):
        with record(run_id=lost) as again:
            pass
        assert again.id != lost


def test_to_amend_a_run_leaves_its_times_alone(project):
    with record() as run:
        pass
    before = store.connect().get_run(run.id).info
    time.sleep(0.01)
    with tracking.amend("x", run_id=run.id, params={}, tags={}) as amended:
        amended.log(30, {"total": 0.5})
    after = store.connect().get_run(run.id).info
    assert (after.end_time, after.run_name) == (before.end_time, "wave tiny")
    assert curve(run.id, "total") == [(30, 0.5)]


def test_to_amend_a_run_whose_end_was_never_told_ends_it(project):
    """As when the server was away when the training was done."""
    client = store.connect()
    run = client.create_run(store.experiment_id(client)).info
    with tracking.amend("x", run_id=run.run_id, params={}, tags={}):
        assert client.get_run(run.run_id).info.status == "RUNNING"
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_to_amend_a_lost_run_makes_it_again_and_ends_it(project):
    with tracking.amend("wave", run_id="f" * 32, params={"a": 1}, tags={}) as amended:
        assert amended.id != "f" * 32
    found = store.connect().get_run(amended.id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})


def test_pictures_fill_the_image_grid(project):
    image = torch.zeros(1, 3, 4, 6)
    image[:, 0] = 1
    with record() as run:
        run.picture(image, key="sample", step=20)
    client = store.connect()
    names = [file.path for file in client.list_artifacts(run.id, "images")]
    assert [name for name in names if name.startswith("images/sample+step+20+")] == names
    assert {Path(name).suffix for name in names} == {".png", ".webp"}
    assert client.get_run(run.id).data.tags["mlflow.loggedImages"] == "True"


def test_a_run_tells_of_which_steps_it_has_pictures(project):
    with record() as run:
        assert run.pictured("sample") == set()
        for step in (0, 20):
            run.picture(torch.zeros(1, 3, 4, 6), key="sample", step=step)
        run.flush()
        assert run.pictured("sample") == {0, 20}
        assert run.pictured("other") == set()


def test_files_lie_beside_the_run(project, tmp_path):
    (tmp_path / "sheet.jpg").write_bytes(b"x")
    with record() as run:
        run.file(tmp_path / "sheet.jpg", "results")
    assert (project / "mlartifacts" / run.id / "artifacts" / "results" / "sheet.jpg").exists()


def test_the_dataset_is_shown_with_its_shape_and_hash(project, tmp_path):
    data = tracking.Dataset("train", tmp_path / "train", 8, "a" * 64, "training")
    with record(datasets=[data]) as run:
        pass
    with record(run_id=run.id, datasets=[data]):  # it goes on
        pass
    (shown,) = store.connect().get_run(run.id).inputs.dataset_inputs
    assert (shown.dataset.name, shown.dataset.digest) == ("train", "a" * 36)
    assert "8, 8, 3" in shown.dataset.schema
    assert shown.tags[0].value == "training"


def test_what_will_not_change_any_more_is_sent_while_the_training_lasts(project):
    with record() as run:
        for step in (10, 20):
            run.log(step, {"total": 1 / step})
            run.picture(torch.zeros(1, 3, 4, 6), key="sample", step=step)
        assert curve(run.id, "total") == []
        run.send(10)
        assert curve(run.id, "total") == [(10, 0.1)]
        assert run.pictured("sample") == {10}
    assert curve(run.id, "total") == [(10, 0.1), (20, 0.05)]
    assert run.pictured("sample") == {10, 20}


def test_points_that_were_not_sent_can_be_taken_back(project):
    with record() as run:
        for step in (10, 20, 30):
            run.log(step, {"total": 1 / step})
        run.forget(10)
        run.log(20, {"total": 7.0})
    assert curve(run.id, "total") == [(10, 0.1), (20, 7.0)]


def test_a_curve_with_holes_is_filled_from_what_the_training_kept(project):
    with record() as run:
        for step in (10, 30):
            run.log(step, {"total": 1 / step})
    rows = [{"step": float(s), "total": 1 / s, "seconds": 9.0} for s in (10, 20, 30, 40)]
    for wanted in (run.id, "f" * 32):  # and where the store has lost it, all of it
        with record(run_id=wanted) as again:
            again.fill(rows)
        expected = [(step, 1 / step) for step in (10, 20, 30, 40)]
        assert sorted(curve(again.id, "total")) == expected
        assert curve(again.id, "seconds") == []


def test_what_is_missing_in_the_end_is_said(project, caplog):
    with record() as run:
        run.log(10, {"total": 1.0})
        run.client = Broken()
        run.client.error = OSError("gone")
    assert "1 points of the curves and 0 pictures are not in MLflow; `dvc repro`" in caplog.text
    with record(run_id=run.id) as again:
        again.fill([{"step": 10, "total": 1.0, "seconds": 1.0}])
    assert curve(again.id, "total") == [(10, 1.0)]


def test_pictures_that_are_missing_in_the_end_are_said(project, caplog):
    with record() as run:
        run.client = Broken()
        run.client.refuses_pictures = True
        run.log(10, {"total": 1.0})
        run.picture(torch.zeros(1, 3, 4, 6), key="sample", step=10)
    assert "0 points of the curves and 1 pictures are not in MLflow; `dvc repro`" in caplog.text


class Broken:
    """A client whose store answers, or does not, as it is told; what it was given."""

    def __init__(self):
        self.error, self.tries, self.points, self.pictures = None, 0, [], []
        self.refuses_pictures = False

    def answer(self):
        self.tries += 1
        if self.error:
            raise self.error

    def log_batch(self, run_id, metrics):
        self.answer()
        self.points += [(metric.step, metric.value) for metric in metrics]

    def log_image(self, run_id, pixels, *, key, step):
        self.answer()
        if self.refuses_pictures:
            raise ClientError("access denied")
        self.pictures.append((key, step, pixels.shape))


class ClientError(Exception):
    """Of a library that MLflow uses, such as botocore's."""


def test_whatever_a_store_raises_the_training_goes_on_and_it_is_said_once(project, caplog):
    run = tracking.Run("a", Broken())
    run.client.error = ClientError("access denied")
    for step in (10, 20):
        run.log(step, {"total": 1.0})
        run.flush()
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "access denied; going on, and trying again now and then."
    ]
    run.client.error = None
    run.flush()
    assert run.client.points == [(10, 1.0), (20, 1.0)]


def test_a_store_that_is_away_is_tried_now_and_then_and_gets_all_when_it_is_back(
    project, monkeypatch
):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    run = tracking.Run("a", Broken())
    run.client.error = OSError("gone")
    for step in (10, 20, 30):
        run.picture(torch.zeros(1, 3, 4, 6), key="sample", step=step)
        run.log(step, {"total": 1.0})
        run.send(step)
    assert run.client.tries == 1
    now += tracking.FIRST_PAUSE
    run.send(30)
    run.send(30)
    assert run.client.tries == 2
    run.forget(20)
    run.client.error = None
    now += 2 * tracking.FIRST_PAUSE - 1
    run.send(20)
    assert run.client.tries == 2
    now += 1
    run.send(20)
    assert run.client.pictures == [("sample", step, (4, 6, 3)) for step in (10, 20)]
    assert run.client.points == [(10, 1.0), (20, 1.0)]
    assert run._pause == 0


def test_a_store_that_is_away_at_the_start_is_an_error(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RegistryError, match="does not answer"), record():
        pass


def test_lineage_tells_a_changed_tree_from_a_committed_one(project):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)

    assert "git.commit" not in tracking.lineage()
    (project / ".gitignore").write_text("mlflow.db*\n")
    (project / "code.py").write_text("a = 1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "x")
    assert tracking.lineage()["git.dirty"] == "false"
    (project / "dvc.lock").write_text("made by the pipeline")
    assert tracking.lineage()["git.dirty"] == "false"
    (project / "code.py").write_text("a = 2")
    assert tracking.lineage()["git.dirty"] == "true"


def test_lineage_names_dvcs_stage_and_experiment(project, monkeypatch):
    monkeypatch.setenv("DVC_STAGE", "train@wave")
    monkeypatch.setenv("DVC_EXP_NAME", "tidy-fox")
    tags = tracking.lineage()
    assert (tags["dvc.stage"], tags["dvc.experiment"]) == ("train@wave", "tidy-fox")


def test_nested_parameters_get_dotted_names():
    assert tracking.flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def test_system_metrics_are_sampled(project, monkeypatch):
    import mlflow

    asked = mlflow.set_system_metrics_sampling_interval
    monkeypatch.setattr(mlflow, "set_system_metrics_sampling_interval", lambda _: asked(0.2))
    with record() as run:
        time.sleep(1)
    names = store.connect().get_run(run.id).data.metrics
    assert any(name.startswith("system/cpu") for name in names)


def test_no_path_is_written_outside_the_project(project):
    with record():
        pass
    assert not Path("mlruns").exists()
