"""A project with an empty sqlite store of its own, and tiny checkpoints to register.

Making a store takes seconds of migrations, so one is made for all tests and copied for each.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from fnst import checkpoint, registry, tracking
from fnst.network import TransformerNetwork

METRICS = {"content": 0.5, "style": 1.0, "total": 1.5, "relative_total": 0.25, "photographs": 2}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated mlflow.db without runs, made by two processes at the same time.

    The workers of one test run share it.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    file = base / "empty" / "mlflow.db"
    file.parent.mkdir(exist_ok=True)
    with FileLock(f"{file}.made"):
        if not file.exists():
            code = "from fnst import store; store.connect()"
            settings = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{file}"}
            makers = [subprocess.Popen([sys.executable, "-c", code], env=settings) for _ in "ab"]
            assert [maker.wait() for maker in makers] == [0, 0]
    return file


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a project of its own, in a path with a space, called from elsewhere."""
    root = tmp_path / "my project"
    root.mkdir()
    shutil.copyfile(empty_store, root / "mlflow.db")
    use(root, monkeypatch)
    monkeypatch.setenv("FNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return root


def use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in another project; mlflow leaves the store it has opened in the environment."""
    monkeypatch.setenv("FNST_ROOT", str(root))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.setenv(name, "")  # or pytest would not take it out again afterwards
        monkeypatch.delenv(name)


def train(folder: Path, seed: int = 0, style: str = "wave") -> Path:
    """A checkpoint of a network that was never trained; other seeds, other weights."""
    torch.manual_seed(seed)
    network = TransformerNetwork(width=4, blocks=1)
    checkpoint.save(folder, network, style=style, training={"steps": 20})
    return folder


def begin(table: str | None = None) -> str:
    """An ended run, for a version to belong to, with the scores of its photographs; its id."""
    with tracking.record("wave tiny", run_id=None, params={"a": 1}, tags={"style": "wave"}) as run:
        run.log(10, {"total": 2.0})
        run.log(20, {"total": 1.0})
        if table:
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch) / "photographs.csv"
                file.write_text(table)
                run.file(file, "results")
    return run.id


def register(
    folder: Path,
    *,
    style: str = "wave",
    total: float = 1.5,
    judged_by: str = "x",
    table: str | None = None,
    **metrics: float,
) -> registry.Version:
    return registry.register(
        folder,
        style=style,
        run_id=begin(table),
        metrics={**METRICS, "total": total, **metrics},
        tags={"judged_by": judged_by, "git.commit": "abc"},
        card="Held-out total 1.5\n\nmore",
    )


def weights(folder: Path) -> str:
    return str(checkpoint.read_card(folder)["weights_sha256"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(root: Path, port: int, database: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real `mlflow server` on loopback, which keeps and hands out the artifacts itself."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{database}", "--serve-artifacts"),
            *("--artifacts-destination", str(root / "kept")),
        ],
        cwd=root,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def wait_for(url: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
