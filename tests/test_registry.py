"""Styles in the registry: one version per weights, a gate, healing, and a store over HTTP."""

import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import registry_fixtures
import torch
from registry_fixtures import (
    METRICS,
    free_port,
    register,
    server,
    stop,
    train,
    use,
    wait_for,
    weights,
)

from fnst import checkpoint, registry, store, tracking
from fnst.errors import CheckpointError, RegistryError

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


def test_a_version_says_where_it_comes_from_and_what_it_scored(project, tmp_path):
    made = register(train(tmp_path / "a"))
    found = registry.get("wave", 1)
    assert made == found
    assert found.metrics == METRICS
    assert found.tags["git.commit"] == "abc"
    assert found.tags["weights_sha256"] == weights(tmp_path / "a")
    assert found.card == "Held-out total 1.5\n\nmore"


def test_the_same_weights_stay_one_version(project, tmp_path):
    first = register(train(tmp_path / "a"))
    second = register(train(tmp_path / "b"))
    assert (first.number, second.number) == (1, 1)
    assert register(train(tmp_path / "c", seed=1)).number == 2


def test_each_style_counts_its_own_versions(project, tmp_path):
    register(train(tmp_path / "a"))
    register(train(tmp_path / "b", seed=1), style="ink")
    assert [(v.style, v.number) for v in registry.versions()] == [("ink", 1), ("wave", 1)]


def test_a_version_is_found_by_its_weights(project, tmp_path):
    register(train(tmp_path / "a"))
    assert registry.find("wave", weights(tmp_path / "a")).number == 1
    assert registry.find("wave", "0" * 64) is None


def test_run_and_model_say_which_version_they_became(project, tmp_path):
    made = register(train(tmp_path / "a"))
    client = store.connect()
    run = client.get_run(made.run_id)
    assert run.info.run_name == "wave v1"
    assert "results%2Fsheet.jpg" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["held_out/total"] == 1.5
    history = client.get_metric_history(made.run_id, "held_out/total")
    assert [(m.step, m.value) for m in history] == [(20, 1.5)]
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert "fnst-wave" in model.tags["mlflow.modelVersions"]
    assert model.experiment_id == store.experiment_id(client)


def test_nothing_is_pickled(project, tmp_path):
    register(train(tmp_path / "a"))
    files = {p for p in (project / "mlartifacts").rglob("*") if p.is_file()}
    assert {p.name for p in files} >= {"model.safetensors", "model.json", "serving.py", "MLmodel"}
    assert not [p for p in files if p.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]
    assert not [p for p in files if p.read_bytes()[:1] == b"\x80"]


def test_a_damaged_model_is_not_registered(project, tmp_path):
    (train(tmp_path / "a") / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        register(tmp_path / "a")
    assert registry.versions() == []


# --- the gate -------------------------------------------------------------------------------------


LIMITS = {"grid_ratio": 1.5, "border_ratio": 1.2, "flat": None}


def champion():
    return registry.fetch("wave").number


def judged(folder, seed=0, **measured):
    """Register other weights, and ask the gate."""
    made = register(train(folder / str(seed), seed=seed), **measured)
    return registry.judge(made, LIMITS)


def table(*totals):
    """A run's table of photographs, at the size that counts and at one that does not."""
    rows = [f"{i}.jpg,{size},{t + size}" for size in (0, 512) for i, t in enumerate(totals)]
    return "\n".join(["photo,size,total", *rows, ""])


def test_the_first_version_is_champion_with_its_shortcomings_written_on_it(project, tmp_path):
    verdict = judged(tmp_path, grid_ratio=3.0)
    made = registry.get("wave", 1)
    assert made.aliases == ("champion",)
    assert verdict.passed
    assert str(verdict) == (
        "passed: the first version of its style, although grid_ratio 3 is above its limit 1.5"
    )
    assert made.verdict == verdict
    assert made.card == f"Held-out total 1.5\n\nmore\n\n## Gate\n\n{verdict}\n"
    note = store.connect().get_run(made.run_id).data.tags["mlflow.note.content"]
    assert note.endswith(f"{verdict}\n")


@pytest.mark.parametrize(("total", "expected"), [(1.4, 2), (1.5, 2), (1.6, 1)])
def test_a_version_becomes_champion_when_it_is_no_worse(project, tmp_path, total, expected):
    judged(tmp_path)
    verdict = judged(tmp_path, seed=1, total=total)
    assert champion() == expected
    assert verdict.passed == (expected == 2)
    assert f"{total:.4g} against 1.5" in verdict.reason
    assert registry.get("wave", 2).verdict == verdict


def test_what_each_photograph_scored_decides_where_it_is_known(project, tmp_path):
    """The means alone, 1.4 against 1.5, would say the contrary."""
    judged(tmp_path, table=table(1.0, 2.0, 3.0))
    verdict = judged(tmp_path, seed=1, total=1.4, table=table(1.1, 2.1, 3.2))
    assert champion() == 1
    assert (
        "+0.133 on the same 3 photographs (so few tell little: between +0.1 and +0.2)"
        in verdict.reason
    )


def test_a_version_with_an_artefact_stays_behind_however_good_it_is(project, tmp_path):
    judged(tmp_path)
    verdict = judged(tmp_path, seed=1, total=0.1, grid_ratio=1.6, border_ratio=1.3, flat=0.9)
    assert champion() == 1
    assert str(verdict) == (
        "refused: grid_ratio 1.6 is above its limit 1.5 and border_ratio 1.3 is above its limit 1.2"
    )


def test_versions_that_were_judged_differently_are_not_compared(project, tmp_path):
    judged(tmp_path)
    verdict = judged(tmp_path, seed=1, total=0.1, judged_by="y")
    assert champion() == 1
    assert verdict.word == "not compared"
    assert registry.promote("wave", 2).forced is None  # nothing speaks against it


def test_versions_older_than_the_gates_numbers_are_handled(project, tmp_path):
    old = registry.register(
        train(tmp_path / "old"),
        style="wave",
        run_id=registry_fixtures.begin(),
        metrics={},
        tags={"gate": "not champion: held-out total 1.6 > 1.5 of version 7"},
        card="",
    )
    assert old.verdict.word == "refused"
    registry.promote("wave", 1, force=True)
    verdict = judged(tmp_path, seed=1, judged_by="")
    assert str(verdict) == "not compared: version 1 has no held-out total"


def test_a_judgement_that_was_interrupted_is_completed(project, tmp_path):
    made = register(train(tmp_path / "a"))
    registry.promote("wave", 1)
    assert registry.judge(made, LIMITS).reason == "it is the champion already"


def test_the_first_that_was_judged_passes_whatever_was_registered_before(project, tmp_path):
    register(train(tmp_path / "never judged"))
    verdict = judged(tmp_path, seed=1, grid_ratio=9.0)
    assert str(verdict).startswith("passed: the first version of its style, although grid_ratio 9")
    assert champion() == 2


def test_a_store_that_fails_decides_nothing(project, tmp_path):
    judged(tmp_path, table=table(1.0, 2.0))
    (file,) = project.glob("mlartifacts/**/photographs.csv")
    file.unlink()
    file.mkdir()  # it is there, and cannot be read
    with pytest.raises(RegistryError, match="Is a directory"):
        judged(tmp_path, seed=1, table=table(1.0, 2.0))
    assert registry.get("wave", 2).verdict is None
    file.rmdir()
    assert registry.judge(registry.get("wave", 2), LIMITS).passed


def test_where_the_champion_was_deleted_limits_hold_for_the_next(project, tmp_path):
    judged(tmp_path)
    judged(tmp_path, seed=1)
    store.connect().delete_model_version("fnst-wave", "2")
    verdict = judged(tmp_path, seed=2, grid_ratio=9.0)
    assert str(verdict) == "refused: grid_ratio 9 is above its limit 1.5"
    assert judged(tmp_path, seed=3).reason == "there is no champion to be compared with"
    assert champion() == 4


WIDER = LIMITS | {"border_ratio": 1.3}


def judged_again(number, limits=WIDER):
    version = registry.get("wave", number)
    assert version.verdict_under(LIMITS) == version.verdict
    assert version.verdict_under(limits) is None
    verdict = registry.judge(version, limits)
    version = registry.get("wave", number)
    assert version.verdict_under(limits) == verdict
    assert version.card.count("## Gate") == 1
    return verdict


def test_under_other_limits_a_version_is_judged_again(project, tmp_path):
    judged(tmp_path)
    assert not judged(tmp_path, seed=1, border_ratio=1.25).passed
    assert judged_again(2).passed
    assert champion() == 2


def test_under_other_limits_a_champion_stays_one_and_its_shortcomings_are_told_anew(
    project, tmp_path
):
    judged(tmp_path, border_ratio=1.4)
    verdict = judged_again(1)
    assert str(verdict).endswith("of its style, although border_ratio 1.4 is above its limit 1.3")
    assert champion() == 1
    assert str(verdict) in registry.get("wave", 1).card


def test_a_version_whose_run_is_gone_is_judged_again_without_it(project, tmp_path):
    judged(tmp_path)
    store.connect().delete_run(registry.get("wave", 1).run_id)
    assert judged_again(1).passed


def test_under_other_limits_a_forced_version_stays_forced(project, tmp_path):
    judged(tmp_path)
    judged(tmp_path, seed=1, border_ratio=1.25)
    forced = registry.promote("wave", 2, force=True).forced
    assert str(judged_again(2)) == "passed: it is the champion already"
    assert registry.get("wave", 2).forced == forced
    assert f"Made champion {forced}." in registry.get("wave", 2).card
    assert champion() == 2


def test_a_version_that_somebody_went_back_from_is_not_made_champion_by_other_limits(
    project, tmp_path
):
    judged(tmp_path)
    judged(tmp_path, seed=1)
    registry.promote("wave", 1)
    assert judged_again(2).passed
    assert champion() == 1


def test_who_forces_a_version_is_written_before_it_is_champion(project, tmp_path, monkeypatch):
    judged(tmp_path)
    judged(tmp_path, seed=1, total=9.0)
    client = type(store.connect())

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "set_registered_model_alias", interrupted)
    with pytest.raises(KeyboardInterrupt):
        registry.promote("wave", 2, force=True)
    assert registry.get("wave", 2).forced
    assert champion() == 1


def test_the_same_weights_measured_anew_have_the_new_numbers(project, tmp_path):
    judged(tmp_path, border_ratio=1.0, total_512=2.0)
    judged(tmp_path, seed=1, total=9.0)
    refused = registry.get("wave", 2)
    assert registry.holds(refused, {"total": 9.0}, "x")
    assert not registry.holds(refused, {"total": 9.0}, "y")
    assert not registry.holds(refused, {"total": 1.4}, "x")
    again = registry.measured_anew(
        refused, {"total": 1.4}, {"judged_by": "x"}, "Held-out total 1.4\n\nmore", step=20
    )
    assert again.metrics == {"total": 1.4}
    assert again.verdict is None
    assert store.connect().get_run(again.run_id).data.metrics["held_out/total"] == 1.4
    assert registry.judge(again, LIMITS).passed
    assert registry.get("wave", 2).card.startswith("Held-out total 1.4\n\nmore\n\n## Gate")


def test_to_measure_anew_is_done_again_after_an_interrupt(project, tmp_path, monkeypatch):
    judged(tmp_path)
    judged(tmp_path, seed=1, total=9.0)
    version = registry.find("wave", weights(tmp_path / "1"))

    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(type(store.connect()), "log_metric", interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.measured_anew(version, {"total": 1.4}, {"judged_by": "x"}, "other", step=20)
    assert not registry.holds(registry.find("wave", weights(tmp_path / "1")), {"total": 1.4}, "x")


def test_a_version_whose_run_is_gone_is_measured_anew_without_it(project, tmp_path):
    judged(tmp_path)
    version = registry.get("wave", 1)
    store.connect().delete_run(version.run_id)
    judge = {"judged_by": "y", "judge.size": "512"}
    again = registry.measured_anew(version, {"total": 9.0}, judge, "b", step=20, has_run=False)
    assert again.tags["judge.size"] == "512"
    assert registry.holds(again, {"total": 9.0}, "y")


def test_a_champion_measured_anew_stays_one_and_keeps_its_verdict(project, tmp_path):
    verdict = judged(tmp_path, grid_ratio=3.0)
    champion = registry.find("wave", weights(tmp_path / "0"))
    again = registry.measured_anew(champion, {"total": 9.0}, {"judged_by": "y"}, "other", step=20)
    assert again.verdict == verdict
    assert again.aliases == ("champion",)
    assert again.card == f"other\n\n## Gate\n\n{verdict}\n"


def test_a_version_is_promoted_by_hand(project, tmp_path):
    judged(tmp_path)
    judged(tmp_path, seed=1, total=9.0)
    with pytest.raises(RegistryError, match="version 2 was refused: worse than version 1"):
        registry.promote("wave", 2)
    assert champion() == 1
    assert registry.promote("wave", 2, force=True).aliases == ("champion",)
    assert champion() == 2
    assert registry.promote("wave", 1).forced is None  # it had passed
    with pytest.raises(RegistryError, match="no version 7; its versions: 1, 2"):
        registry.promote("wave", 7)


# --- names that are not there ---------------------------------------------------------------------


def test_an_empty_registry_says_what_to_run(project):
    for ask in (lambda: registry.fetch(None), registry.only_style):
        with pytest.raises(RegistryError, match="No model is registered yet; `make run`"):
            ask()
    assert registry.versions() == []


def test_unknown_names_are_answered_with_those_that_exist(project, tmp_path):
    register(train(tmp_path / "a"))
    with pytest.raises(RegistryError, match="'wavy'; did you mean 'wave'"):
        registry.fetch("wavy", number=1)
    with pytest.raises(RegistryError, match="no version 3; its versions: 1"):
        registry.get("wave", 3)
    with pytest.raises(RegistryError, match="no alias 'best'; its versions: 1"):
        registry.fetch("wave", alias="best")


def test_the_only_style_need_not_be_named(project, tmp_path):
    register(train(tmp_path / "a"))
    assert registry.fetch(None, number=1).style == "wave"


def test_of_several_styles_one_must_be_named_or_lead_params_yaml(project, tmp_path, monkeypatch):
    register(train(tmp_path / "a"))
    register(train(tmp_path / "b", seed=1), style="indigo-wave")
    theirs = Path(registry.__file__).parents[1] / "params.yaml"
    shutil.copyfile(theirs, project / "params.yaml")
    assert registry.only_style() == "indigo-wave"
    text = theirs.read_text().replace("  indigo-wave: {", "  other: {")
    (project / "params.yaml").write_text(text)
    with pytest.raises(RegistryError, match="--style; registered are: indigo-wave, wave"):
        registry.only_style()


def test_a_style_whose_versions_were_all_deleted(project, tmp_path):
    register(train(tmp_path / "a"))
    store.connect().delete_model_version("fnst-wave", "1")
    assert registry.versions() == []
    with pytest.raises(RegistryError, match="its versions: none"):
        registry.versions("wave")


def test_a_version_that_fnst_did_not_make_is_refused(project):
    client = store.connect()
    client.create_registered_model("fnst-wave")
    client.create_model_version("fnst-wave", "file:///nowhere", None)
    with pytest.raises(RegistryError, match="was not registered by fnst"):
        registry.fetch("wave", number=1)


# --- healing --------------------------------------------------------------------------------------


def test_lost_files_are_said(project, tmp_path):
    register(train(tmp_path / "a"))
    shutil.rmtree(project / "mlartifacts")
    with pytest.raises(RegistryError, match="cannot be had from the store"):
        registry.fetch("wave", number=1)


def test_a_refilled_store_never_gives_stale_weights(project, empty_store, tmp_path, monkeypatch):
    register(train(tmp_path / "a"))
    assert registry.fetch("wave", number=1).folder.name == weights(tmp_path / "a")
    refilled = tmp_path / "refilled"
    refilled.mkdir()
    shutil.copyfile(empty_store, refilled / "mlflow.db")
    use(refilled, monkeypatch)
    register(train(tmp_path / "b", seed=1))
    shutil.rmtree(project)
    refilled.rename(project)
    use(project, monkeypatch)
    fetch = "from fnst import registry; print(registry.fetch('wave', number=1).folder.name)"
    done = subprocess.run([sys.executable, "-c", fetch], capture_output=True, text=True)
    assert done.stdout.strip() == weights(tmp_path / "b"), done.stderr


# --- the UI ---------------------------------------------------------------------------------------


def test_the_ui_refuses_a_port_that_is_taken(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RegistryError, match=f"127.0.0.1:{port} is not free .*--port"):
            registry.serve_ui("127.0.0.1", port)


def test_the_ui_comes_up_and_ctrl_c_ends_all_of_it(project):
    port = free_port()
    code = f"from fnst import registry; registry.serve_ui('127.0.0.1', {port})"
    ui = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(f"http://127.0.0.1:{port}/health")
    ui.send_signal(signal.SIGINT)
    said, errors = ui.communicate(timeout=20)
    assert ui.returncode == 0
    assert f"http://127.0.0.1:{port}/#/experiments/1/runs" in said
    assert "Traceback" not in errors
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


# --- a store behind a server ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory, empty_store):
    root = tmp_path_factory.mktemp("server")
    shutil.copyfile(empty_store, root / "mlflow.db")
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        # The server makes the experiment itself, and so keeps its files itself.
        for table in ("experiment_tags", "experiments"):
            database.execute(f"DELETE FROM {table} WHERE experiment_id != 0")
    port = free_port()
    with server(root, port, root / "mlflow.db") as process:
        yield f"http://127.0.0.1:{port}", process


def test_a_server_registers_and_hands_out(project, served, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[0])
    digest = weights(train(tmp_path / "a"))
    registry.judge(register(tmp_path / "a"), {})
    for wanted in ({"number": 1}, {"alias": "champion"}):
        model = registry.fetch("wave", **wanted)
        assert (model.number, model.folder.name) == (1, digest)
        checkpoint.load(model.folder)
    assert not (project / "mlartifacts").exists()


def test_a_server_has_a_ui_of_its_own(project, served, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served[0])
    assert registry.serve_ui("127.0.0.1", free_port()) == 0
    assert f"UI of its own: {served[0]}/#/experiments/" in capsys.readouterr().out


def test_a_server_that_goes_away_does_not_end_a_training(project, served, monkeypatch):
    """The last one here: it stops the server."""
    address, process = served
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracking.record("wave", run_id=None, params={}, tags={}) as run:
        stop(process)
        run.log(20, {"total": 1.0})
        run.flush()
        run.picture(torch.zeros(1, 3, 4, 4), key="sample", step=20)
        assert run._pause == tracking.FIRST_PAUSE
    with pytest.raises(RegistryError, match="does not answer"):
        registry.get("wave", 1)
