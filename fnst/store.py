"""Which MLflow store this project uses, and the opening of it.

``MLFLOW_TRACKING_URI`` when it is set; otherwise sqlite in the project's own folder, wherever fnst
is called from. Asking for the address costs nothing; only ``connect`` imports mlflow.
"""

import contextlib
import json
import logging
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from fnst import files
from fnst.errors import RegistryError
from fnst.params import project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "fnst"

# What the UI shows of the experiment, and which columns its list of runs has where fnst opens it.
VIEW = "fnst"
COLUMNS = (
    *(f"attributes.`{name}`" for name in ("Created", "Duration", "Models")),
    *(f"metrics.`held_out/{name}`" for name in ("content", "style", "total", "relative_total")),
    *(f"params.`{name}`" for name in ("recipe", "style.strength", "train.steps")),
)
ABOUT = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "Fast neural style transfer: one run is one training of one style. "
    "Curves and sample pictures are under *Model metrics*, the before/after sheet under "
    "*Artifacts*; the registered versions are in the *Model registry*.",
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"selectedColumns": COLUMNS}),
}

SETTINGS = {
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that hangs is given up after two tries: about 20 seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "9",  # seconds
    "GIT_PYTHON_REFRESH": "quiet",
}


def address() -> str:
    """The URI of the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{database()}"


def database() -> Path:
    """The sqlite file that is used when nothing else is asked for."""
    return project_root() / "mlflow.db"


def local_file() -> Path | None:
    """The sqlite file behind ``address()``, or None when the store is elsewhere."""
    uri = address().partition("?")[0]
    path = uri.removeprefix("sqlite:///")
    return Path(path).absolute() if path != uri else None


def artifacts() -> Path:
    """Where a local store keeps the files of its runs and models."""
    return (local_file() or database()).parent / "mlartifacts"


def connect() -> "MlflowClient":
    """Open the store, making a fresh sqlite one when there is none, and point mlflow at it.

    Raises:
        RegistryError: when it does not answer.
    """
    _calm()
    import mlflow
    from mlflow import MlflowClient

    try:
        with _one_at_a_time():
            _make()
            mlflow.set_tracking_uri(address())
            mlflow.set_registry_uri(address())
            client = MlflowClient()
            _open_experiment(client)
            mlflow.set_experiment(EXPERIMENT)
    except RegistryError:
        raise
    except Exception as error:  # requests, sqlalchemy, alembic: each has a tree of its own
        raise RegistryError(
            f"The MLflow store at {_shown()} does not answer ({_reason(error)}); start it, or "
            "check MLFLOW_TRACKING_URI."
        ) from error
    return client


@contextmanager
def asked() -> Iterator[None]:
    """Turn what mlflow raises within the block into a RegistryError."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException | OSError):
            raise RegistryError(f"{told(error)}.") from error
        raise


def told(error: Exception) -> str:
    """What has gone wrong with the store, for people; without a password that its address has."""
    return f"The MLflow store at {_shown()}: {_reason(error)}"


def experiment_id(client: "MlflowClient") -> str:
    """The id of fnst's experiment; ``connect`` has made sure that there is one."""
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    return str(found.experiment_id)


def _make() -> None:
    """Make a sqlite store where there is none, whole or not at all.

    MLflow's migrations are no transaction: what a kill leaves of them is never opened again.
    """
    from mlflow import MlflowClient

    file = local_file()
    if file is None or file.exists():
        return
    # Windows removes no file that is open, as mlflow keeps it
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / file.name
        MlflowClient(f"sqlite:///{made}").search_experiments()
        files.write(file, made.read_bytes())


def _open_experiment(client: "MlflowClient") -> None:
    found = client.get_experiment_by_name(EXPERIMENT)
    home = artifacts().as_uri() if local_file() else None  # a server knows its own place
    if found is None:
        client.create_experiment(EXPERIMENT, artifact_location=home, tags=ABOUT)
    elif found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found and home and found.artifact_location != home:
        _follow(found.artifact_location, home)


def _follow(old: str, new: str) -> None:
    """Rewrite where files are: a project that was moved or copied takes its runs along.

    MLflow stores absolute paths, and has no call that changes them.
    """
    columns = (
        ("experiments", "artifact_location"),
        ("runs", "artifact_uri"),
        ("logged_models", "artifact_location"),
        ("model_versions", "storage_location"),
    )
    was = Path(unquote(urlsplit(old).path))
    file = local_file()
    if file is None or was.name != artifacts().name or (was.exists() and not artifacts().exists()):
        return  # not ours, or the files have stayed where they were
    with contextlib.closing(sqlite3.connect(file)) as database, database:
        for table, column in columns:
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes that set up one fresh sqlite store at the same moment would crash."""
    file = local_file()
    if file is None:
        yield
        return
    if not file.parent.is_dir():
        raise RegistryError(f"MLFLOW_TRACKING_URI: the folder {file.parent} does not exist.")
    with FileLock(f"{file}.lock"):
        yield


def _calm() -> None:
    """Keep mlflow's own chatter out of fnst's output, and its patience within reason."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger in ("alembic", "urllib3"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"mlflow\..*")


def _shown() -> str:
    return _without_password(address())


def _reason(error: Exception) -> str:
    return _without_password(" ".join(str(error).split()))[:160].rstrip(".")


def _without_password(text: str) -> str:
    login, at, _ = urlsplit(address()).netloc.rpartition("@")
    return text.replace(login + at, "")
