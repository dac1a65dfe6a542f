"""The user's shelf of fetched weights, and which names meant them: no mlflow needed to stylize.

A version's weights never change, but a lost or edited store may give its number to others. So
answers from a local sqlite file hold only as long as that file is untouched; a server's answers
hold for numbers, and its aliases are asked for anew.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from fnst import checkpoint, files, store
from fnst.errors import CheckpointError


@dataclass(frozen=True)
class Model:
    """A version's files on this disk, ready for ``checkpoint.load``."""

    style: str
    number: int
    folder: Path


class Shelf:
    """Folders of weights, named by their hash, and the answers of the store in use.

    ``FNST_CACHE`` moves it out of the user's cache folder.
    """

    def __init__(self) -> None:
        home = os.environ.get("FNST_CACHE") or platformdirs.user_cache_dir("fnst")
        self.folder = Path(home) / "models"
        name = hashlib.sha256(store.address().encode()).hexdigest()[:16]
        self.answers = self.folder / f"{name}.json"

    def recall(self, question: str) -> Model | None:
        """The model that answers ``style@version``, if it was asked before and still holds.

        A style that was not named is asked as one that begins with a question mark.
        """
        answer = self._known().get(question)
        style, _, version = question.rpartition("@")
        is_fixed = version.isdigit() and not style.startswith("?")
        if answer is None or not (is_fixed or store.local_file()):
            return None
        folder = self.folder / answer["weights"]
        return Model(answer["style"], answer["number"], folder) if _is_whole(folder) else None

    def remember(self, question: str, model: Model) -> None:
        """Keep an answer for the next time; a cache that cannot be written is no reason to fail."""
        answer = {"style": model.style, "number": model.number, "weights": model.folder.name}
        with contextlib.suppress(OSError):
            answers = {**self._known(), question: answer}
            files.write_json(self.answers, {"store": _stamp(), "answers": answers})

    def keep(self, digest: str, source: Path) -> Path:
        """Copy the model in ``source`` to the shelf, checked; the folder it is in now.

        Args:
            digest: SHA-256 that its weights must have.
            source: a checkpoint's folder.

        Raises:
            CheckpointError: when the files are missing, damaged, foreign, or other weights, or the
                shelf cannot be written.
        """
        card = checkpoint.read_card(source)
        if card["weights_sha256"] != digest:
            raise CheckpointError(
                f"{source}: expected the weights {digest[:12]}... that were registered, "
                f"got {card['weights_sha256'][:12]}...; run `dvc repro` to register them again."
            )
        target = self.folder / digest
        if not _is_whole(target):
            shutil.rmtree(target, ignore_errors=True)
            self._copy(source, target)
        return target

    def _copy(self, source: Path, target: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".", dir=self.folder))
        except OSError as error:
            raise CheckpointError(
                f"The cache {self.folder} cannot be written ({error.strerror}); set FNST_CACHE to "
                "a folder that can."
            ) from error
        try:
            for name in (checkpoint.WEIGHTS, checkpoint.CARD):
                shutil.copyfile(source / name, scratch / name)
            checkpoint.load(scratch)
            with contextlib.suppress(FileExistsError):  # another process was faster
                scratch.rename(target)
        except FileNotFoundError as error:
            raise CheckpointError(f"{source} holds no model: a file is missing.") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _known(self) -> dict[str, Any]:
        """All answers that still hold."""
        try:
            known = files.read_json(self.answers)
            return dict(known["answers"]) if known["store"] == _stamp() else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _is_whole(folder: Path) -> bool:
    """Whether a folder of the shelf holds the weights that its name promises."""
    try:
        return (folder / checkpoint.CARD).exists() and (
            files.sha256(folder / checkpoint.WEIGHTS) == folder.name
        )
    except OSError:
        return False


def _stamp() -> list[list[int]]:
    """Changes whenever the local sqlite file does; empty for a store that is elsewhere."""
    file = store.local_file()
    parts = [file, file.with_name(f"{file.name}-wal")] if file else []
    states = [part.stat() for part in parts if part.exists()]
    return [[state.st_ino, state.st_size, state.st_mtime_ns] for state in states]
