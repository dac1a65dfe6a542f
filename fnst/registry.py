"""A style in the MLflow registry: its versions, its champion, and the files behind them.

One registered model per style, ``fnst-<style>``; its versions are its trainings. mlflow is imported
only where the store must be asked: ``fetch`` answers from the shelf when it can.
"""

import contextlib
import getpass
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from fnst import checkpoint, files, gate, store
from fnst.errors import RegistryError
from fnst.gate import Measured, Verdict
from fnst.params import nearest, project_root
from fnst.shelf import Model, Shelf

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "fnst-"
CHAMPION = "champion"
HASH = "weights_sha256"
GATE, FORCED = "gate", "forced"  # tags: the verdict, and who overrode it
LIMITS = "gate_limits"  # tag: under which limits the verdict was given
JUDGED_BY = "judged_by"  # tag: the same for versions whose numbers can be compared
JUDGE = "judge."  # prefix of the tags that say what that stands for
HELD_OUT = "held_out."  # prefix of the tags that hold the held-out numbers
HELD_OUT_METRIC = "held_out/"  # the same among a run's metrics
PHOTOGRAPHS = "results/photographs.csv"  # among a run's files: what each photograph scored
MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # the second for an alias
MOST = 1000  # of anything that is listed at once


@dataclass(frozen=True)
class Version:
    """One version of a registered style."""

    style: str
    number: int
    aliases: tuple[str, ...]
    created: datetime
    run_id: str
    tags: Mapping[str, str]
    card: str  # Markdown

    @property
    def metrics(self) -> dict[str, float]:
        """The held-out numbers it was registered with."""
        return {
            name.removeprefix(HELD_OUT): float(value)
            for name, value in self.tags.items()
            if name.startswith(HELD_OUT)
        }

    @property
    def verdict(self) -> Verdict | None:
        """What the gate said about it; None before it was asked."""
        written = self.tags.get(GATE)
        return gate.read(written) if written else None

    @property
    def refused(self) -> bool:
        """Whether only force makes it champion."""
        return self.verdict is not None and self.verdict.word == gate.REFUSED

    def verdict_under(self, limits: Mapping[str, float | None]) -> Verdict | None:
        """What the gate said under these limits; None where it was asked under others."""
        return self.verdict if self.tags.get(LIMITS) == _as_text(limits) else None

    @property
    def forced(self) -> str | None:
        """Who made it champion against the gate, when, and what the gate had said."""
        return self.tags.get(FORCED)


def register(
    folder: Path,
    *,
    style: str,
    run_id: str,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    card: str,
) -> Version:
    """Make the trained network of ``folder`` a version of its style, unless it is one already.

    Args:
        folder: a checkpoint, see ``checkpoint.save``.
        style: the name of the style.
        run_id: the run that the version belongs to.
        metrics: the held-out numbers.
        tags: lineage.
        card: the model card, Markdown.

    Raises:
        CheckpointError: when the folder holds no sound model.
        RegistryError: when the store does not answer.
    """
    trained = checkpoint.load(folder).card
    written = {
        **_as_tags(metrics),
        **tags,
        HASH: trained[HASH],
    }
    client = store.connect()
    with store.asked():
        known = _by_hash(client, style, trained[HASH])
        if known:
            return known
        _make_model(client, style)
        model_id = _log_model(folder, run_id, metrics, step=trained["training"].get("steps", 0))
        made = client.create_model_version(
            name=PREFIX + style,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags=written,
            description=card,
            model_id=model_id,
        )
        version = _get(client, style, int(made.version))
        _cross_reference(client, version, model_id)
    return version


def holds(version: Version, metrics: Mapping[str, float], judged_by: str) -> bool:
    """Whether these are the numbers that the version has."""
    told = {**_as_tags(metrics), JUDGED_BY: judged_by}
    return told.items() <= version.tags.items()


def _as_tags(metrics: Mapping[str, float]) -> dict[str, str]:
    return {f"{HELD_OUT}{name}": f"{value:.6g}" for name, value in metrics.items()}


def _as_text(limits: Mapping[str, float | None]) -> str:
    return json.dumps(dict(limits), sort_keys=True)


def measured_anew(
    version: Version,
    metrics: Mapping[str, float],
    judge: Mapping[str, str],
    card: str,
    *,
    step: int,
    has_run: bool = True,
) -> Version:
    """Give a version other numbers and another card; it is to be judged again.

    A champion keeps its verdict until then.

    Args:
        version: as ``find`` has it.
        metrics: the held-out numbers.
        judge: the tags ``JUDGED_BY`` and ``JUDGE``.
        card: the model card, Markdown.
        step: the training's last.
        has_run: whether the version's run is still there, to be told as well.

    Raises:
        RegistryError: when the store does not answer.
    """
    client = store.connect()
    name, number = PREFIX + version.style, str(version.number)
    with store.asked():
        if CHAMPION in version.aliases and version.verdict:
            card = _with_verdict(card, version.verdict, version.forced)
            if LIMITS in version.tags:  # without them, ``verdict_under`` knows of no verdict
                client.delete_model_version_tag(name, number, LIMITS)
        elif version.verdict:
            client.delete_model_version_tag(name, number, GATE)
        client.update_model_version(name, number, description=card)
        if has_run:
            for metric, value in metrics.items():
                key = f"{HELD_OUT_METRIC}{metric}"
                client.log_metric(version.run_id, key, value, step=step)
            _write_note(client, replace(version, card=card))
        # What ``holds`` looks at comes last: until it is there, all of this is done again.
        told = {**_as_tags(metrics), **judge}
        stale = {tag for tag in version.tags if tag.startswith((HELD_OUT, JUDGE))} - told.keys()
        for tag in stale:
            client.delete_model_version_tag(name, number, tag)
        for tag, text in told.items():
            client.set_model_version_tag(name, number, tag, text)
        return _get(client, version.style, version.number)


def _with_verdict(card: str, verdict: Verdict, forced: str | None) -> str:
    """A card whose last section says what the gate said, and who overrode it."""
    heading = "\n\n## Gate\n\n"
    told = [str(verdict), f"Made champion {forced}."] if forced else [str(verdict)]
    return card.partition(heading)[0].rstrip() + heading + "\n\n".join(told) + "\n"


def _write_verdict(client: "MlflowClient", version: Version, verdict: Verdict) -> None:
    """Write it into the card, and on the page of the run where that is still there."""
    from mlflow.exceptions import MlflowException

    card = _with_verdict(version.card, verdict, version.forced)
    client.update_model_version(PREFIX + version.style, str(version.number), description=card)
    with contextlib.suppress(MlflowException):
        _write_note(client, replace(version, card=card))


def _cross_reference(client: "MlflowClient", version: Version, model_id: str) -> None:
    """Let the UI's pages of run and model say which version they became."""
    became = [{"name": PREFIX + version.style, "version": str(version.number)}]
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(became)})
    client.update_run(version.run_id, name=f"{version.style} v{version.number}")
    _write_note(client, version)


def _write_note(client: "MlflowClient", version: Version) -> None:
    """Show the card, with the before/after sheet, on the UI's page of the run."""
    sheet = f"get-artifact?path=results%2Fsheet.jpg&run_uuid={version.run_id}"
    summary, _, rest = version.card.partition("\n\n")
    note = f"{summary}\n\n![before and after]({sheet})\n\n{rest}"
    client.set_tag(version.run_id, "mlflow.note.content", note)


def find(style: str, weights_sha256: str) -> Version | None:
    """The version with these weights, if the registry has one.

    Raises:
        RegistryError: when the store does not answer.
    """
    client = store.connect()
    with store.asked():
        return _by_hash(client, style, weights_sha256)


def _by_hash(client: "MlflowClient", style: str, digest: str) -> Version | None:
    found = client.search_model_versions(f"name = '{PREFIX}{style}' and tags.{HASH} = '{digest}'")
    newest = max((int(version.version) for version in found), default=None)
    return _get(client, style, newest) if newest else None


def _make_model(client: "MlflowClient", style: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            PREFIX + style,
            description=f"Feed-forward style transfer to **{style}**, trained by fnst. Version N "
            f"stylizes a picture with `fnst stylize --style {style} --model-version N photo.jpg`.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _log_model(folder: Path, run_id: str, metrics: Mapping[str, float], *, step: int) -> str:
    """Log code, weights and card as a pyfunc model of the run; its id."""
    import mlflow
    from mlflow.models import Model

    package = Path(__file__).parent
    with tempfile.TemporaryDirectory() as scratch:
        code = Path(scratch) / package.name
        shutil.copytree(package, code, ignore=shutil.ignore_patterns("__pycache__"))
        # What mlflow.pyfunc.log_model calls; only here can the run be one that has ended.
        info = Model.log(
            artifact_path=None,
            name="stylizer",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            step=step,
            python_model=str(code / "serving.py"),
            code_paths=[str(code)],
            artifacts={n: str(folder / n) for n in (checkpoint.WEIGHTS, checkpoint.CARD)},
            pip_requirements=_requirements(),
        )
    mlflow.log_metrics(
        # of what is no number, a model's page would show a zero
        {f"{HELD_OUT_METRIC}{k}": v for k, v in metrics.items() if math.isfinite(v)},
        step=step,
        run_id=run_id,
        model_id=info.model_id,
    )
    return str(info.model_id)


def _requirements() -> list[str]:
    from importlib.metadata import version

    core = ["mlflow", "torch", "numpy", "pillow", "safetensors", "jaxtyping", "pyyaml"]
    return [f"{name}=={version(name).partition('+')[0]}" for name in core]


def promote(style: str, number: int, *, force: bool = False) -> Version:
    """Make a version its style's champion, the one that is used when none is named.

    Args:
        style: the name of the style.
        number: the version.
        force: do it although the gate refused the version, and write on it who did so.

    Raises:
        RegistryError: when the gate refused it, there is no such style or version, or the store
            does not answer.
    """
    client = store.connect()
    name = PREFIX + style
    with store.asked():
        version = _get(client, style, number)
        if version.refused and not force:
            raise RegistryError(
                f"{style} version {number} was {version.verdict}; "
                f"`fnst promote {number} --style {style} --force` makes it champion all the same."
            )
        if version.refused:
            # written first: an interrupt must not leave a champion that nobody forced
            moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
            told = f"by {_user()} on {moment}, although it was {version.verdict}"
            client.set_model_version_tag(name, str(number), FORCED, told)
        client.set_registered_model_alias(name, CHAMPION, str(number))
        version = _get(client, style, number)
        if version.verdict and version.refused:
            _write_verdict(client, version, version.verdict)
        return version


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}"


def judge(candidate: Version, limits: Mapping[str, float | None]) -> Verdict:
    """Make a version champion if the gate lets it pass, and write the verdict on it.

    A champion stays one. A version that passed under other limits is not made champion again:
    another took its place since, or somebody gave it away.

    Args:
        candidate: the version.
        limits: the most that a metric may be, see ``gate.judge``.

    Raises:
        RegistryError: when the store does not answer.
    """
    client = store.connect()
    name, number = PREFIX + candidate.style, str(candidate.number)
    with store.asked():
        champion = _champion(client, candidate.style)
        written = candidate.verdict
        if champion and champion.number == candidate.number:
            anew = LIMITS not in candidate.tags
            verdict = gate.judge_champion(candidate.metrics, limits, written, is_measured_anew=anew)
        else:
            verdict = gate.judge(
                _measured(client, candidate),
                _measured(client, champion) if champion else None,
                limits,
                is_first=not any(
                    GATE in other.tags and int(other.version) != candidate.number
                    for other in client.search_model_versions(f"name = '{name}'")
                ),
            )
        if verdict.passed and not (written and written.passed):
            client.set_registered_model_alias(name, CHAMPION, number)
        _write_verdict(client, candidate, verdict)
        client.set_model_version_tag(name, number, GATE, str(verdict))
        client.set_model_version_tag(name, number, LIMITS, _as_text(limits))
    return verdict


def _measured(client: "MlflowClient", version: Version) -> Measured:
    return Measured(
        version.number,
        version.tags.get(JUDGED_BY, ""),
        version.metrics,
        _totals(client, version.run_id),
        {
            tag.removeprefix(JUDGE): text
            for tag, text in version.tags.items()
            if tag.startswith(JUDGE)
        },
    )


def _totals(client: "MlflowClient", run_id: str) -> list[float]:
    """The total of each held-out photograph, from the run's table; none where that is lost.

    A store that does not answer is another matter: a verdict is written for good.
    """
    if not _has_file(client, run_id, PHOTOGRAPHS):
        return []
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(client.download_artifacts(run_id, PHOTOGRAPHS, scratch))
        rows = files.read_rows(table)
    try:
        # those of the first size, which the total is of
        return [float(r["total"]) for r in rows if r.get("size") == rows[0].get("size")]
    except (KeyError, ValueError):
        return []


def _has_file(client: "MlflowClient", run_id: str, path: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        found = client.list_artifacts(run_id, path.rpartition("/")[0])
    except MlflowException as error:
        if error.error_code in MISSING:  # the run itself
            return False
        raise
    return path in {each.path for each in found}


def _champion(client: "MlflowClient", style: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(PREFIX + style, CHAMPION)
    except MlflowException as error:
        if error.error_code in MISSING:
            return None
        raise
    return _version(client, style, found)


def _styles(client: "MlflowClient") -> list[str]:
    found = client.search_registered_models(f"name LIKE '{PREFIX}%'", max_results=MOST)
    return sorted(model.name.removeprefix(PREFIX) for model in found)


def only_style() -> str:
    """The style that is meant when none is named: the only one, or the first of params.yaml.

    Raises:
        RegistryError: when nothing is registered, it cannot be told which one is meant, or the
            store does not answer.
    """
    client = store.connect()
    with store.asked():
        return _only_style(client)


def versions(style: str | None = None) -> list[Version]:
    """All versions of a style, or of all styles, newest first within a style.

    Raises:
        RegistryError: when the named style has none, or the store does not answer.
    """
    client = store.connect()
    with store.asked():
        names = [style] if style else _styles(client)
        found = [v for name in names for v in _versions(client, name)]
        if style and not found:
            raise _unknown(client, style, "versions")
    return found


def _versions(client: "MlflowClient", style: str) -> list[Version]:
    numbers = _numbers(client, style)
    return [_get(client, style, number) for number in reversed(numbers)]


def _numbers(client: "MlflowClient", style: str) -> list[int]:
    found = client.search_model_versions(f"name = '{PREFIX}{style}'", max_results=MOST)
    return sorted(int(version.version) for version in found)


def get(style: str, number: int) -> Version:
    """One version.

    Raises:
        RegistryError: when there is no such style or version, and it says which exist; or when the
            store does not answer.
    """
    client = store.connect()
    with store.asked():
        return _get(client, style, number)


def _get(client: "MlflowClient", style: str, number: int) -> Version:
    from mlflow.exceptions import MlflowException

    try:
        # The search leaves aliases out; this call has them.
        return _version(client, style, client.get_model_version(PREFIX + style, str(number)))
    except MlflowException as error:
        if error.error_code in MISSING:
            raise _unknown(client, style, f"version {number}") from error
        raise


def _unknown(client: "MlflowClient", style: str, wanted: str) -> RegistryError:
    """What to say about a style, version or alias that is not there."""
    known = _styles(client)
    if not known:
        return RegistryError("No model is registered yet; `make run` (or `dvc repro`) makes one.")
    if style not in known:
        return RegistryError(f"There is no registered style {style!r}{nearest(style, known)}")
    numbers = ", ".join(map(str, _numbers(client, style))) or "none"
    return RegistryError(f"Style {style} has no {wanted}; its versions: {numbers}.")


def _version(client: "MlflowClient", style: str, found: "ModelVersion") -> Version:
    return Version(
        style=style,
        number=int(found.version),
        aliases=tuple(sorted(found.aliases or ())),
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
        run_id=found.run_id or "",
        tags=dict(found.tags or {}),
        card=found.description or "",
    )


# --- from a name to files -------------------------------------------------------------------------


def fetch(style: str | None, *, number: int | None = None, alias: str = CHAMPION) -> Model:
    """The files of a version: from the cache when it is known there, else from the store.

    Args:
        style: its name; None is the only registered style, or else the first of params.yaml.
        number: a version; None is the one that the alias points at.
        alias: used when no number is given.

    Raises:
        RegistryError: when there is no such style, version or alias, or the store does not answer.
    """
    shelf = Shelf()
    question = f"{style or _unnamed()}@{number or alias}"
    known = shelf.recall(question)
    if known:
        return known
    client = store.connect()
    with store.asked():
        name = style or _only_style(client)
        version = _get(client, name, number) if number else _by_alias(client, name, alias)
    with tempfile.TemporaryDirectory() as scratch:
        folder = shelf.keep(_hash(version), _files_of(client, version, scratch))
    model = Model(name, version.number, folder)
    shelf.remember(question, model)
    return model


def _unnamed() -> str:
    """Stands for the style that was not named, which depends on params.yaml."""
    try:
        return f"?{(project_root() / 'params.yaml').stat().st_mtime_ns}"
    except OSError:
        return "?"


def _only_style(client: "MlflowClient") -> str:
    names = _styles(client)
    if not names:
        raise _unknown(client, "", "")
    return names[0] if len(names) == 1 else _first_of_params(names)


def _first_of_params(names: list[str]) -> str:
    from fnst import params

    first = next(iter(params.load().styles), "")
    if first in names:
        return first
    raise RegistryError(f"Say which style with --style; registered are: {', '.join(names)}.")


def _by_alias(client: "MlflowClient", style: str, alias: str) -> Version:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_model_version_by_alias(PREFIX + style, alias)
    except MlflowException as error:
        if error.error_code in MISSING:
            raise _unknown(client, style, f"alias {alias!r}") from error
        raise
    return _version(client, style, found)


def _files_of(client: "MlflowClient", version: Version, scratch: str) -> Path:
    """The folder with the two files of a version; fetched from a server when they are not here."""
    import mlflow
    from mlflow.exceptions import MlflowException

    name = PREFIX + version.style
    try:
        here = _local(client.get_model_version_download_uri(name, str(version.number)))
        if here:
            return here / "artifacts"
        uri = f"models:/{name}/{version.number}/artifacts"
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=scratch))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"The files of {version.style} version {version.number} cannot be had from the store "
            f"({' '.join(str(error).split())[:120]}); `dvc repro` registers them again."
        ) from error


def _hash(version: Version) -> str:
    digest = version.tags.get(HASH, "")
    if not digest:
        raise RegistryError(
            f"{version.style} version {version.number} was not registered by fnst: it has no tag "
            f"{HASH}; choose another version."
        )
    return digest


def _local(uri: str) -> Path | None:
    """The folder that a URI means, if it is on this disk."""
    parts = urlsplit(uri)
    path = Path(unquote(parts.path))
    return path if parts.scheme in ("", "file") and path.is_dir() else None


# --- the UI ---------------------------------------------------------------------------------------


def serve_ui(host: str, port: int) -> int:
    """Serve MLflow's UI on the store until it is stopped; its exit code.

    A store behind a server has a UI of its own, so that only its address is printed.

    Raises:
        RegistryError: when the port is taken, or the store does not answer.
    """
    if store.local_file():  # else the port is the server's, and taken by it
        _check_free(host, port)
    client = store.connect()
    page = f"/#/experiments/{store.experiment_id(client)}/runs"
    view = f"?workflowType=machine_learning&viewStateShareKey={store.VIEW}"
    if store.local_file() is None:
        print(f"The store has a UI of its own: {store.address().rstrip('/')}{page}{view}")
        return 0
    print(f"In a few seconds: http://{host}:{port}{page}{view}   (Ctrl-C stops it)", flush=True)
    command = [
        *(sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)),
        # One worker and no job runners: up in a few seconds instead of half a minute.
        *("--workers", "1", "--uvicorn-opts", "--log-level warning"),
        *("--backend-store-uri", store.address(), "--registry-store-uri", store.address()),
        *("--default-artifact-root", store.artifacts().as_uri()),
    ]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    return _until_stopped(command, os.environ | settings)


def _until_stopped(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a server that starts processes of its own; none of them outlives this one."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # Ctrl-C reaches only us: the server prints a traceback at an interrupt, but not at SIGTERM.
    with subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def _check_free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise RegistryError(
                f"{host}:{port} is not free ({error.strerror}); choose another --port."
            ) from error
