"""The shelf answers without mlflow, and never with the wrong weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import registry_fixtures
import yaml
from registry_fixtures import register, train, weights

from fnst import checkpoint, registry, shelf, store
from fnst.errors import CheckpointError
from fnst.shelf import Model, Shelf

project, empty_store = registry_fixtures.project, registry_fixtures.empty_store
pytestmark = pytest.mark.filterwarnings("ignore:::mlflow")


@pytest.fixture
def fetched(project, tmp_path) -> Model:
    register(train(tmp_path / "a"))
    return registry.fetch("wave", number=1)


def test_what_was_fetched_once_is_known(fetched):
    assert Shelf().recall("wave@1") == fetched
    assert Shelf().recall("wave@2") is None


def test_the_second_time_mlflow_is_not_imported(fetched):
    code = (
        "import sys; from fnst import registry; registry.fetch('wave', number=1);"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torchvision', 'pandas')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_reading_the_store_keeps_what_is_known(fetched):
    registry.versions()
    registry.get("wave", 1)
    assert Shelf().recall("wave@1") == fetched


def test_a_moved_alias_is_noticed(fetched, tmp_path):
    registry.promote("wave", 1)
    assert registry.fetch("wave").number == 1
    register(train(tmp_path / "b", seed=1))
    registry.promote("wave", 2)
    assert registry.fetch("wave").number == 2


def test_a_write_that_still_lies_in_the_wal_is_noticed(fetched):
    store.local_file().with_name("mlflow.db-wal").write_bytes(b"new")
    assert Shelf().recall("wave@1") is None


def test_a_lost_store_is_noticed(fetched):
    store.local_file().unlink()
    assert Shelf().recall("wave@1") is None


def test_another_store_has_its_own_answers(fetched, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert Shelf().recall("wave@1") is None


def test_a_server_is_asked_for_aliases_but_not_for_numbers(project, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    desk = Shelf()
    folder = desk.keep(weights(train(tmp_path / "a")), tmp_path / "a")
    for question in ("wave@1", "wave@champion"):
        desk.remember(question, Model("wave", 1, folder))
    assert desk.recall("wave@1") == Model("wave", 1, folder)
    assert desk.recall("wave@champion") is None


def test_which_style_is_meant_when_none_is_named_is_asked_anew_after_a_change_of_params(
    project, tmp_path
):
    values = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
    for seed, style in enumerate(("one", "two")):
        registry.judge(register(train(tmp_path / style, seed, style), style=style), {})
    for first, second in (("one", "two"), ("two", "one")):
        values["styles"] = {first: {"image": "a"}, second: {"image": "a"}}
        (project / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        assert registry.fetch(None, number=1).style == first
        assert registry.fetch(None, number=1).style == first


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.CARD])
def test_a_damaged_shelf_is_fetched_again(fetched, name):
    (fetched.folder / name).unlink()
    if name == checkpoint.WEIGHTS:
        (fetched.folder / name).write_bytes(b"half")
    again = registry.fetch("wave", number=1)
    assert again == fetched
    checkpoint.load(again.folder)


def test_a_damaged_list_of_answers_is_asked_anew(fetched):
    Shelf().answers.write_text("{")
    assert Shelf().recall("wave@1") is None
    assert registry.fetch("wave", number=1) == fetched


def test_weights_other_than_those_registered_are_refused(project, tmp_path):
    with pytest.raises(CheckpointError, match="expected the weights 000000000000"):
        Shelf().keep("0" * 64, train(tmp_path / "a"))
    assert not Shelf().folder.exists()


def test_a_missing_file_is_said(project, tmp_path):
    digest = weights(train(tmp_path / "a"))
    (tmp_path / "a" / checkpoint.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="a file is missing"):
        Shelf().keep(digest, tmp_path / "a")
    assert list(Shelf().folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_way_out(project, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="set FNST_CACHE"):
        Shelf().keep(weights(train(tmp_path / "a")), tmp_path / "a")


def test_the_stamp_sees_a_file_that_took_anothers_place(project):
    before, file = shelf._stamp(), store.local_file()
    state = file.stat()
    Path(f"{file}.new").write_bytes(file.read_bytes())
    os.utime(f"{file}.new", ns=(state.st_atime_ns, state.st_mtime_ns))
    Path(f"{file}.new").replace(file)
    assert shelf._stamp() != before
