"""A whole training: until its first step, in memory, in telling how it goes, on several cores."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import yaml

from benchmarks import PEAK, ROOT, Result, UnavailableError
from fnst import files

STYLE = "indigo-wave"
COPIES = 4  # how much larger the larger set, and longer the longer training, is
STEPS = 20
ROUNDS = 3

# A stage of the pipeline, and then the memory that it took.
STAGE = f"""
import sys
from stages import train
sys.argv = ["train", "{STYLE}"]
train.main()
"""

# The same until its first step is made: seconds since the time that is given.
FIRST_STEP = f"""
import os, sys, time
began = float(sys.argv[1])
from benchmarks import timing
from fnst.training import Learner
from stages import train
step = Learner.step

def first(*given):
    step(*given)
    timing.wait()
    print(time.time() - began, flush=True)
    os._exit(0)

Learner.step = first
sys.argv = ["train", "{STYLE}"]
train.main()
"""

# What telling costs: the median of a report, of a state and of a sample, as the stage makes them.
TELLING = f"""
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from fnst import params, tracking
from fnst.journal import KEEP_SECONDS, Journal
from fnst.training import Losses
from stages import train

wanted = params.load()
plan = wanted.chosen.train
parts = train.assemble(wanted, "{STYLE}", train.inputs(wanted, "{STYLE}"))
journal = Journal(Path("told.partial"), "none")
journal.resume(parts.learner)
batches = parts.photos.batches(
    batch_size=plan.batch_size, crop=plan.crop, crop_scale=plan.crop_scale, seed=0
)
times = defaultdict(list)

def timed(name, work):
    began = time.perf_counter()
    work()
    times[name].append(time.perf_counter() - began)

losses = Losses(1.0, 1.0, 0.0, 0.0, 2.0)
with tracking.record("telling", run_id=None, params={{}}, tags={{}}) as tracked:
    teller = train.Teller(parts, journal, tracked, lambda step, note="": None)
    teller.begin(1000)
    teller.sampled = 10**9  # none is drawn meanwhile
    for number in range(1001, 1100):
        batch = next(batches)
        timed("step", lambda: parts.learner.step(batch, 0.001))
        timed("report", lambda: teller.report(number, losses))
    tracked.flush()
    every = round(KEEP_SECONDS / median(times["step"]) / plan.log_every)  # reports between states
    for number in range(7):
        teller.sampled = 10**9
        for report in range(every):
            teller.report(1100 + report, losses)
        timed("state", lambda: journal.keep(parts.learner, 1, good=True))
        timed("sending", tracked.flush)
        timed("sample", lambda: teller.report(parts.steps, losses))  # at the end comes a sample
        timed("sample's sending", tracked.flush)
step, report, *kept = (median(times[name]) for name in ("step", "report", "state", "sending"))
sample = median(times["sample"]) + median(times["sample's sending"])
each = report / plan.log_every + sample / plan.sample_every + sum(kept) * step / KEEP_SECONDS
print(each / step)
"""

# One process of several, or the only one: the rate of steps at 128 pixels, batch 4 in all.
RATE = """
import os, sys, time
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # it is cores that are compared
import torch
rank, cores = int(os.environ.get("RANK", 0)), int(sys.argv[1])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[rank * cores : (rank + 1) * cores])
torch.set_num_threads(cores)
from benchmarks import train_step
from fnst import distributed, memory
memory.hold()
train_step.SIDE = 128
with distributed.joined():
    step = train_step.made("bf16")
    photos = train_step.photographs(4 // distributed.world())
    for _ in range(3):
        step(photos)
    distributed.any_of(True)  # all are here
    began = time.perf_counter()
    for _ in range(12):
        step(photos)
    if rank == 0:
        print(12 * 4 / (time.perf_counter() - began))
"""


def measure() -> Iterator[Result]:
    """The training stage, with the recipe of params.yaml, as a process of its own.

    `start-up` is from the command to the end of the first step: imports, params, loss network, the
    painting's moments, a new MLflow store, the step. `memory` is the peak of
    trainings of 20 steps; the ratio is the first to that with four times as many photographs, or
    four times as many steps: 1 is flat. `time` is what a step of these two lengths takes, from the
    first to the last, samples and all; a ratio of 1 is linear. `telling` is what reports to MLflow
    and the curve, samples and states take of a step, at the recipe's intervals. `scaling` is a step
    of batch 4 at 128 pixels in bfloat16, on one core, on two, and by two processes with a core each
    that share the batch; a ratio is to one core, medians of three rounds in turns. Needs what `dvc
    repro prepare` makes, and for `scaling` two cores.
    """
    with tempfile.TemporaryDirectory(prefix="fnst-training-") as scratch:
        folder = Path(scratch)
        _project(folder)
        yield Result("training/start-up", _start_up(folder), "s")
        once, short = _peak(folder, steps=STEPS), _step_seconds(folder)
        yield Result("training/memory/x1", once / 1e6, "MB")
        yield Result("training/time/x1", short, "s a step")
        longer, long = _peak(folder, steps=COPIES * STEPS), _step_seconds(folder)
        yield Result("training/memory/steps-x4", longer / 1e6, "MB", once / longer)
        yield Result("training/time/steps-x4", long, "s a step", short / long)
        _multiply(folder / "data" / "photos" / "train")
        larger = _peak(folder, steps=STEPS)
        yield Result("training/memory/photographs-x4", larger / 1e6, "MB", once / larger)
        yield Result("training/telling", 100 * float(_run(folder, TELLING)), "% of a step")
        yield from _scaling(folder)


# --- a project to train in ------------------------------------------------------------------------


def _project(folder: Path) -> None:
    """The project's params and prepared data, where a training may write."""
    if find_spec("mlflow") is None:
        raise UnavailableError("measures a stage, which needs mlflow; `make setup` installs all.")
    data = ROOT / "data"
    if not (data / "photos" / "train" / "set.json").exists():
        raise UnavailableError("data/photos is not there; `dvc repro prepare` makes it.")
    (folder / "data").mkdir()
    shutil.copytree(data / "photos", folder / "data" / "photos")
    (folder / "data" / "raw").symlink_to(data / "raw")
    shutil.copy(ROOT / "dvc.yaml", folder)


def _params(folder: Path, steps: int) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    recipe = values["recipes"][values["recipe"]]
    recipe["train"] |= {"steps": steps, "epochs": None}
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    shutil.rmtree(folder / "data" / "models", ignore_errors=True)


def _multiply(folder: Path) -> None:
    """Four times the photographs, as so many shards."""
    told = json.loads((folder / "set.json").read_text())
    (name,), (count,) = told["shards"], told["shards"].values()
    for copy in range(1, COPIES):
        shutil.copy(folder / name, folder / f"{copy:05}.npy")
        told["shards"][f"{copy:05}.npy"] = count
    told["photographs"] = COPIES * count
    (folder / "set.json").write_text(json.dumps(told))


def _run(folder: Path, program: str, *arguments: object, runner: tuple[str, ...] = ()) -> str:
    """The last line that a program of Python prints there."""
    script = folder / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, *runner, str(script), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FNST_ROOT": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"what was to be measured failed:\n{done.stderr}")
    return done.stdout.splitlines()[-1] if done.stdout else ""


def _start_up(folder: Path) -> float:
    times: list[float] = []
    for _ in range(ROUNDS):
        _params(folder, steps=STEPS)
        (folder / "mlflow.db").unlink(missing_ok=True)
        times.append(float(_run(folder, FIRST_STEP, time.time())))
    return median(times)


def _peak(folder: Path, steps: int) -> float:
    _params(folder, steps)
    return float(_run(folder, STAGE + PEAK))


def _step_seconds(folder: Path) -> float:
    """Of the training that was just made: its last step's time, shared by all."""
    end = files.read_numbers(folder / "data" / "models" / STYLE / "loss.csv")[-1]
    return end["seconds"] / end["step"]


# --- several processes ----------------------------------------------------------------------------


def _scaling(folder: Path) -> Iterator[Result]:
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        return
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    ways: dict[str, tuple[int, tuple[str, ...]]] = {
        "one-core": (1, ()),
        "two-cores": (2, ()),
        "two-processes": (1, together),
    }
    rounds = [
        {name: float(_run(folder, RATE, cores, runner=run)) for name, (cores, run) in ways.items()}
        for _ in range(ROUNDS)
    ]
    for name in ways:
        ratio = median(each[name] / each["one-core"] for each in rounds)
        rate = median(each[name] for each in rounds)
        shown = None if name == "one-core" else ratio
        yield Result(f"training/scaling/{name}", rate, "images/s", shown)
