"""Where the store is, and that it opens: fresh, moved, elsewhere, or not at all."""

import shutil
import socket
import sqlite3
import time
from pathlib import Path

import pytest
import registry_fixtures
from registry_fixtures import register, train, use, weights

from fnst import registry, store
from fnst.errors import RegistryError

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


def test_the_store_lies_in_the_project_wherever_fnst_is_called_from(project, monkeypatch):
    monkeypatch.chdir("/")
    assert store.address() == f"sqlite:///{project}/mlflow.db"
    assert store.connect().get_experiment_by_name("fnst")
    assert store.artifacts() == project / "mlartifacts"


def test_the_environment_wins_also_with_a_relative_path(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db?timeout=9")
    assert store.local_file() == tmp_path / "other.db"
    assert store.artifacts() == tmp_path / "mlartifacts"


def test_a_server_has_no_file(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store.local_file() is None


def test_the_ui_says_what_the_experiment_is(project):
    found = store.connect().get_experiment_by_name("fnst")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "one training" in found.tags["mlflow.note.content"]


def test_an_experiment_that_was_deleted_in_the_ui_comes_back(project):
    client = store.connect()
    client.delete_experiment(store.experiment_id(client))
    client = store.connect()
    assert client.get_experiment_by_name("fnst").lifecycle_stage == "active"


def test_two_processes_that_open_a_fresh_store_at_once_make_one(project):
    """The fixture has let two of them make it."""
    assert [e.name for e in store.connect().search_experiments()] == ["fnst", "Default"]


def test_a_store_that_was_only_begun_is_made_anew(project, monkeypatch):
    import alembic.command

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    (project / "mlflow.db").unlink()
    with monkeypatch.context() as broken:
        broken.setattr(alembic.command, "upgrade", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.connect()
    assert not (project / "mlflow.db").exists()
    assert store.connect().get_experiment_by_name("fnst")
    assert (project / "mlflow.db").exists()


def test_a_moved_project_takes_its_versions_along(project, tmp_path, monkeypatch):
    digest = weights(train(tmp_path / "a"))
    register(tmp_path / "a")
    moved = tmp_path / "100% moved_here"
    project.rename(moved)
    use(moved, monkeypatch)
    assert registry.fetch("wave", number=1).folder.name == digest
    rows = sqlite3.connect(moved / "mlflow.db").execute("SELECT artifact_uri FROM runs").fetchall()
    assert all(uri.startswith((moved / "mlartifacts").as_uri()) for (uri,) in rows)


def test_a_copied_project_leaves_the_original_alone(project, tmp_path, monkeypatch):
    register(train(tmp_path / "a"))
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)
    before = sorted((project / "mlartifacts").rglob("*"))
    use(copy, monkeypatch)
    register(train(tmp_path / "b", seed=1))
    assert sorted((project / "mlartifacts").rglob("*")) == before
    assert [v.number for v in registry.versions("wave")] == [2, 1]


def test_a_missing_folder_is_named(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    with pytest.raises(RegistryError, match="the folder /nowhere does not exist"):
        store.connect()


def test_a_server_that_hangs_is_given_up_and_its_password_kept(project, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        began = time.monotonic()
        with pytest.raises(
            RegistryError, match=f"http://127.0.0.1:{port} does not answer"
        ) as error:
            store.connect()
    assert time.monotonic() - began < 10
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_no_server_is_waited_for_longer_than_half_a_minute():
    tries = 1 + int(store.SETTINGS["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert tries * int(store.SETTINGS["MLFLOW_HTTP_REQUEST_TIMEOUT"]) < 25


def test_a_file_that_is_no_database_is_one_sentence(project):
    Path(project / "mlflow.db").write_text("not a database" * 100)
    with pytest.raises(RegistryError, match=r"mlflow\.db does not answer"):
        store.connect()
