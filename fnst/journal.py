"""What a training keeps on disk while it runs, so that an interrupt loses seconds, not hours.

A folder with the state (weights, optimizer, step), the loss curve, the samples and the id of the
MLflow run. All of it is set aside while another training takes its place, and moved to its final
place when the training is done.
"""

import shutil
import time
from pathlib import Path

from fnst import files, training
from fnst.errors import TrainingError
from fnst.training import DivergedError, Learner, Progress

STATE, CURVE, SAMPLES, RUN = "state.safetensors", "loss.csv", "samples", "run.json"
GOOD = "good.safetensors"  # the last state whose losses were reported, and found to be right
CLOCK = "clock.json"
NOTED = "noted.txt"  # what was known elsewhere of this style when the training began

KEEP_SECONDS = 20.0  # of work that an interrupt may cost at most
ASIDE = 3  # trainings that wait, the newest ones; each takes about 40 MB
SETBACKS = 3  # returns to the last state, each with half the learning rate, before giving up


class Journal:
    """The folder of one training, identified by its fingerprint.

    Args:
        folder: made when the first thing is kept.
        fingerprint: changes with everything that changes the training's result.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.rows: list[dict[str, float]] = []
        self.step = self.setbacks = 0  # of the state that is kept
        self.good = 0  # step of the last state, of this process, that can be gone back to
        self.aside: Path | None = None  # where the state of another training was put
        self.seconds = 0.0  # spent on training until the last state was kept
        self._kept = self._kept_good = time.monotonic()

    @property
    def samples(self) -> Path:
        return self.folder / SAMPLES

    def resume(self, learner: Learner, *, noted: str | None = None) -> int:
        """Take up what was kept; the number of steps already done, 0 for a fresh start.

        A fresh start is kept at once: it is somewhere to go back to, and whatever else comes into
        the folder, as the id of a run does before the first step, is known to belong to it.

        Args:
            learner: what goes on.
            noted: what is known elsewhere of this style's last training. One that was finished is
                taken up, too, and finished once more, where that is what was known when it began;
                never if None.

        Raises:
            TrainingError: when the state is damaged.
        """
        is_unnoted = noted is not None and _read(self._finished / NOTED) == noted
        if is_unnoted and not self.folder.exists():
            self._finished.rename(self.folder)
            if self._take_up(STATE, learner) is None:  # it is of another kind
                self.folder.rename(self._finished)
        shutil.rmtree(self._finished, ignore_errors=True)
        step = self._take_up(STATE, learner)
        if step is None:
            self._change_places()
            step = self._take_up(STATE, learner)
        self.samples.mkdir(parents=True, exist_ok=True)
        for begun in self.folder.rglob(".*"):  # by a process that was killed while it wrote
            begun.unlink()
        if noted is not None and not (self.folder / NOTED).exists():
            files.write(self.folder / NOTED, noted.encode())
        if step is None:
            self.keep(learner, 0, good=True)
        return step or 0

    def follow(self, learner: Learner, step: int) -> None:
        """Take up what another process has kept, and change nothing.

        Raises:
            TrainingError: when that is not the state after this step of the same training.
        """
        found = self._take_up(STATE, learner)
        if found != step:
            raise TrainingError(
                f"{self.folder}: expected the state after step {step}, as the first process has "
                f"it, got {'none' if found is None else found}; all machines need the same folder, "
                "params.yaml and code."
            )

    def _take_up(self, name: str, learner: Learner) -> int | None:
        """The number of steps done in a state, which the learner has now; None without one."""
        found = training.load_state(self.folder / name, learner, fingerprint=self.fingerprint)
        if found is None:
            return None
        rows = files.read_numbers(self.folder / CURVE)
        # whole numbers, or six digits would be left of them
        self.rows = [{**r, "step": int(r["step"])} for r in rows if r["step"] <= found.step]
        self.step, self.setbacks = found.step, found.setbacks
        self.seconds = files.read_json(self.folder / CLOCK)["seconds"]
        return found.step

    def _change_places(self) -> None:
        """Set aside what another training left, and take back what this one had to leave."""
        other = training.fingerprint_of(self.folder / STATE)
        if other is not None:
            self.aside = self._aside(other)
            shutil.rmtree(self.aside, ignore_errors=True)
            self.folder.rename(self.aside)
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._aside(self.fingerprint).exists():
            self._aside(self.fingerprint).rename(self.folder)
        waiting = list(self.folder.parent.glob(f"{self.folder.name}.*/{STATE}"))
        for state in sorted(waiting, key=lambda state: state.stat().st_mtime)[:-ASIDE]:
            shutil.rmtree(state.parent)

    def _aside(self, fingerprint: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{fingerprint[:8]}")

    @property
    def caution(self) -> float:
        """What the learning rate is multiplied by: each setback halved it."""
        return float(0.5**self.setbacks)

    def go_back(self, learner: Learner, reason: DivergedError) -> int:
        """Return to the last state that was known to be good; the number of steps done there.

        Raises:
            TrainingError: when that was done three times already.
        """
        setbacks = self.setbacks + 1
        if setbacks > SETBACKS:
            raise TrainingError(
                f"{reason}; {SETBACKS} returns, each with half the learning rate, did not help. "
                "Try a smaller learning_rate, or precision: fp32."
            ) from reason
        seconds = self.seconds
        step = self._take_up(GOOD, learner) or 0
        self.setbacks, self.seconds = setbacks, seconds
        self.keep(learner, step, good=True)
        return step

    def is_due(self, *, good: bool) -> bool:
        """Whether so much work was done since the last ``keep`` that it should not be lost.

        Args:
            good: whether losses were reported just now.
        """
        kept = self._kept_good if good else self._kept
        return time.monotonic() - kept > KEEP_SECONDS

    def keep(self, learner: Learner, step: int, *, good: bool) -> None:
        """Write curve and state; the state after the curve, because it vouches for it.

        Nothing is written when weights or losses are no numbers: the next report will tell.

        Args:
            learner: whose state it is.
            step: how many it has made.
            good: whether losses were reported just now, and the state may be gone back to.
        """
        if not learner.is_sound():
            return
        files.write_rows(self.folder / CURVE, self.rows)
        files.write_json(self.folder / CLOCK, {"seconds": self.seconds})
        progress = Progress(step, self.setbacks)
        for name in (STATE, GOOD) if good else (STATE,):
            training.save_state(self.folder / name, learner, progress, fingerprint=self.fingerprint)
        self.step = step
        self._kept = time.monotonic()
        if good:
            self._kept_good, self.good = self._kept, step

    @property
    def run_id(self) -> str | None:
        """The MLflow run of this training, if it has begun one."""
        path = self.folder / RUN
        return str(files.read_json(path)["run_id"]) if path.exists() else None

    @run_id.setter
    def run_id(self, value: str) -> None:
        files.write_json(self.folder / RUN, {"run_id": value})

    def finish(self, target: Path) -> None:
        """Copy curve, samples and run id to ``target``, and put this folder away in one step.

        Whatever interrupts this leaves a folder that can be resumed and finished again. Until the
        next training, it can be so afterwards: DVC, too, may be interrupted before it has noted
        what was made here.
        """
        target.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target / SAMPLES, ignore_errors=True)
        shutil.copytree(self.samples, target / SAMPLES)
        for name in (CURVE, RUN):
            files.write(target / name, (self.folder / name).read_bytes())
        shutil.rmtree(self._finished, ignore_errors=True)
        self.folder.rename(self._finished)

    @property
    def _finished(self) -> Path:
        return self.folder.with_name(f".{self.folder.name}.done")


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
