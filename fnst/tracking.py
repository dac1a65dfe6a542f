"""A training as a run in MLflow: parameters, curves, sample pictures, data, lineage."""

import contextlib
import logging
import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from fnst import store
from fnst.params import project_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

Image = Float[torch.Tensor, "1 3 h w"]  # sRGB in [0, 1]

# Seconds between two tries after a failure; they double, because each try at a server that hangs
# holds up the training by 20.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0

MOST = 996  # points in a call: the API takes a thousand, and these are whole rows of six


@dataclass
class Run:
    """One run that is being written; what it is told is kept back until it is sent.

    MLflow forgets nothing: a point that a training takes back, because it diverged, or comes to
    once more, because it was killed, would stay in the curve. So ``send`` is for what will not
    change any more, and ``flush`` for the end.
    """

    id: str
    client: "MlflowClient"
    _rows: list[tuple[int, int, Mapping[str, float]]] = field(default_factory=list)
    _pictures: list[tuple[Any, str, int]] = field(default_factory=list)
    _pause: float = 0.0
    _tried: float = -math.inf
    _is_warned: bool = False

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each named curve."""
        self._rows.append((int(time.time() * 1000), step, dict(values)))

    def fill(self, rows: Sequence[Mapping[str, float | int]]) -> None:
        """Add what the run lacks of a training's curve: after a kill, or with another store, much.

        Args:
            rows: step, seconds, and the values that ``log`` was given, among them the total.
        """
        with self.forgiven():
            has = {point.step for point in self.client.get_metric_history(self.id, "total")}
            for row in rows:
                values = {key: row[key] for key in row if key not in ("step", "seconds")}
                if row["step"] not in has:
                    self.log(int(row["step"]), values)

    def picture(self, image: Image, *, key: str, step: int) -> None:
        """Add a picture to the run's image grid."""
        pixels = image[0].permute(1, 2, 0).mul(255).round().clamp(0, 255).to(torch.uint8)
        self._pictures.append((np.ascontiguousarray(pixels.cpu()), key, step))

    def pictured(self, key: str) -> set[int]:
        """The steps of which the run has a picture under this key.

        Raises:
            RegistryError: when the store does not answer.
        """
        with store.asked():
            files = self.client.list_artifacts(self.id, "images")
        # What log_image calls the second of its two files, the one that the grid shows; MLflow has
        # used both signs.
        name = re.compile(rf"images/{re.escape(key)}[+%]step[+%](\d+)[+%].*[+%]compressed\.")
        return {int(found[1]) for file in files if (found := name.match(file.path))}

    def forget(self, step: int) -> None:
        """Leave out what comes after this step, of what is kept back."""
        self._rows = [row for row in self._rows if row[1] <= step]
        self._pictures = [picture for picture in self._pictures if picture[2] <= step]

    def send(self, step: int) -> None:
        """Send what is of this step or before; while the server is away, try now and then."""
        if time.monotonic() - self._tried >= self._pause:
            self._send(float(step))

    def flush(self) -> None:
        """Send all of it; what is not taken stays kept back."""
        self._send(math.inf)

    def _send(self, last: float) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(name, value, moment, step)
            for moment, step, values in self._rows
            for name, value in values.items()
            if step <= last
        ]
        sent = False
        with self.forgiven():
            for first in range(0, len(points), MOST):
                self.client.log_batch(self.id, metrics=points[first : first + MOST])
            self._rows = [row for row in self._rows if row[1] > last]
            while self._pictures and self._pictures[0][2] <= last:
                pixels, key, step = self._pictures[0]
                self.client.log_image(self.id, pixels, key=key, step=step)
                del self._pictures[0]
            sent = True
        self._pause = 0.0 if sent else min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._tried = time.monotonic()

    def file(self, path: Path, folder: str | None = None) -> None:
        """Attach a file to the run.

        Raises:
            RegistryError: when the store does not take it.
        """
        with store.asked():
            self.client.log_artifact(self.id, str(path), folder)

    @contextlib.contextmanager
    def forgiven(self) -> Iterator[None]:
        """A store that goes away while the block lasts costs what it should have kept, no more."""
        try:
            yield
        except Exception as error:  # where artifacts lie, each place has errors of its own
            if not self._is_warned:
                log.warning("%s; going on, and trying again now and then.", store.told(error))
            self._is_warned = True


@contextlib.contextmanager
def record(
    name: str,
    *,
    run_id: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    datasets: Sequence["Dataset"] = (),
    begun: Callable[[str], None] = lambda run_id: None,
) -> Iterator[Run]:
    """Write a run while the block lasts, with the machine's own metrics beside ours.

    Args:
        name: what the run is called in the UI, until a version gives it its own name.
        run_id: an earlier run to go on with; a new one is made when the store has none of that id.
        params: name -> value, as the UI's table shows them.
        tags: lineage, see ``lineage``.
        datasets: what was learnt from.
        begun: is told the run's id before anything else is done, so that a stop meanwhile leaves
            a run that can be gone on with.

    Raises:
        RegistryError: when the store does not answer at the start; later it may go away.
    """
    client = store.connect()
    import mlflow

    with store.asked():
        mlflow.set_system_metrics_sampling_interval(5)  # type: ignore[no-untyped-call]
        run = _begin(client, name, run_id, params, tags)
    begun(run.id)
    with store.asked():
        mlflow.start_run(run_id=run.id, log_system_metrics=True)
        for dataset in datasets:  # what the run has already is not added again
            mlflow.log_input(*dataset.as_input())
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (SystemExit, KeyboardInterrupt):  # stopped by its user, to be resumed
        status = "KILLED"
        raise
    finally:
        run.flush()
        if run._rows or run._pictures:
            log.warning(
                "%d points of the curves and %d pictures are not in MLflow; `dvc repro` adds them.",
                len(run._rows),
                len(run._pictures),
            )
        with run.forgiven():
            mlflow.end_run(status)


@contextlib.contextmanager
def amend(
    name: str, *, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Run]:
    """Add to a run that has ended; its times stay. A store that lost it gets it made again.

    One whose end its store was not there to hear of ends now.

    Raises:
        RegistryError: when the store does not answer.
    """
    client = store.connect()
    with store.asked():
        run = _begin(client, name, run_id, params, tags)
    try:
        yield run
    finally:
        run.flush()
        with run.forgiven():
            if client.get_run(run.id).info.status == "RUNNING":
                client.set_terminated(run.id)


def _begin(
    client: "MlflowClient",
    name: str,
    run_id: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Run:
    """The run of that id, or a new one that says what it is."""
    from mlflow.entities import Param
    from mlflow.tracking.context.registry import resolve_tags

    if run_id and exists(client, run_id):
        return Run(run_id, client)
    source = {"mlflow.source.name": os.environ.get("DVC_STAGE", name)}
    made = client.create_run(
        store.experiment_id(client), tags=resolve_tags({**source, **tags}), run_name=name
    )
    values = [Param(key, str(value)) for key, value in params.items()]
    for first in range(0, len(values), 100):  # the API takes no more at once
        client.log_batch(made.info.run_id, params=values[first : first + 100])
    return Run(made.info.run_id, client)


def exists(client: "MlflowClient", run_id: str) -> bool:
    """Whether the store has a run of that id that was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


@dataclass(frozen=True)
class Dataset:
    """A packed photo set as MLflow lists it."""

    name: str
    folder: Path
    size: int  # side of its squares, pixels
    digest: str  # SHA-256 of the set
    context: str  # training or evaluation

    def as_input(self) -> tuple[Any, str]:
        """What ``mlflow.log_input`` takes."""
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.types import Schema, TensorSpec

        shape = (-1, self.size, self.size, 3)
        schema = Schema([TensorSpec(np.dtype(np.uint8), shape, "photographs")])
        source = resolve_dataset_source(str(self.folder))
        meta = MetaDataset(source, self.name, self.digest[:36], schema)  # type: ignore[abstract]
        return meta, self.context


def lineage() -> dict[str, str]:
    """Where this run comes from: git commit, whether code or params differ from it, DVC's names."""
    tags = {
        "dvc.stage": os.environ.get("DVC_STAGE", ""),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "git.commit": _git("rev-parse", "HEAD"),
        # What the pipeline itself writes into git, its lock and metrics, does not count.
        "git.dirty": _dirty(),
    }
    return {key: value for key, value in tags.items() if value}


def _dirty() -> str:
    if not _git("rev-parse", "HEAD"):
        return ""
    changed = _git("status", "--porcelain", "--", ".", ":!dvc.lock", ":!data/results")
    return str(bool(changed)).lower()


def _git(*arguments: str) -> str:
    if not (project_root() / ".git").exists():
        return ""  # a repository further up is not this project's
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=project_root(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters under dotted names, as the UI's table wants them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
