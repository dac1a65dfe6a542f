"""The stage that fetches, as DVC runs it: in a process of its own."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import registry_fixtures
import yaml
from registry_fixtures import register, train

from benchmarks.server import serving
from fnst import checkpoint, download
from fnst.errors import RegistryError
from stages import fetch

ROOT = Path(__file__).parents[1]
BODY = random.Random(0).randbytes(500_000)


@pytest.fixture
def site():
    with serving(files={"/a.jpg": BODY}) as served:
        yield served


registered, empty_store = registry_fixtures.project, registry_fixtures.empty_store


@pytest.fixture
def project(site, tmp_path):
    """A folder with a recipe whose first photograph lies on the server."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    address = f"{site.url}/a.jpg#sha256={hashlib.sha256(BODY).hexdigest()}"
    params["recipes"][params["recipe"]]["photos"]["train"] = [address]
    params["styles"] = {"any": {"image": address}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def test_what_came_before_a_shutdown_is_still_believed_after_it(site, project, monkeypatch):
    site.stalls = [100_000]
    place = {"FNST_ROOT": str(project), "PYTHONPATH": str(ROOT), "FNST_CACHE": str(project / "c")}
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.fetch"],
        cwd=project,
        env={name: value for name, value in os.environ.items() if name != "FNST_MIRROR"} | place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    late = time.monotonic() + 20  # only so that a test that fails comes to an end
    while _kept(project) < 100_000 and time.monotonic() < late:
        time.sleep(0.005)
    process.terminate()
    assert process.wait() == 128 + signal.SIGINT
    monkeypatch.setattr(download, "BOOT_ID", project / "none")  # as if it had started anew
    assert _kept(project) == 100_000 == site.sent


def _kept(project):
    parts = project.glob("data/raw/photos/*/a.jpg.part")
    return sum(download.held(part) for part in parts)


# --- what a training begins with ------------------------------------------------------------------


def start():
    return Path("data/raw/init")


def test_the_base_comes_with_fnst(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch.lay_start("base")
    assert checkpoint.load(start()).card == checkpoint.load(checkpoint.BASE).card


def test_scratch_leaves_nothing_of_what_was_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetch.lay_start("base")
    fetch.lay_start("scratch")
    assert list(start().iterdir()) == []


@pytest.mark.filterwarnings("ignore:::mlflow")
def test_a_registered_version_is_laid_ready_by_its_number(registered, tmp_path):
    first = train(tmp_path / "a")
    register(first)
    register(train(tmp_path / "b", seed=1))
    fetch.lay_start("wave@1")
    assert checkpoint.load(start()).card == checkpoint.load(first).card
    with pytest.raises(RegistryError, match="no version 3; its versions: 1, 2"):
        fetch.lay_start("wave@3")
