"""Two processes that share every batch learn what one learns, and stop and go on as one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from fnst import distributed, files, journal
from fnst.stylize import stylize
from tests.test_train_stage import curve, learn, parts, with_photographs

ROOT = Path(__file__).parents[1]

ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}  # two processes on one GPU would not work

PROGRAM = """
import sys, time
from pathlib import Path
import torch
from fnst import distributed, journal
from tests import test_train_stage as alone
folder, name, steps, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with distributed.joined():
    made = alone.parts(folder, steps, batch_size=2, dtype=getattr(torch, sys.argv[5]))
    step, made_one = made.learner.step, folder / f"{name}.{distributed.rank()}.stepped"
    made.learner.step = lambda *given: (time.sleep(pause), step(*given), made_one.touch())
    alone.learn(folder, name, made)
"""


@pytest.fixture
def folder(tmp_path):
    return with_photographs(tmp_path)


def start(folder, name, *, steps=12, pause=0.0, dtype="float32"):
    return launched(folder, PROGRAM, folder, name, str(steps), str(pause), dtype)


def launched(folder, text, *arguments):
    """Two processes of a program."""
    program = folder / "program.py"
    program.write_text(text)
    runner = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ON_CPU
    return subprocess.Popen(
        [*runner, program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def drawn(folder, name, dtype=torch.float32):
    """What the network of that journal makes of a photograph: weights alone would not tell.

    Adam makes whole steps of the rounding errors of biases that an instance norm takes out again.
    """
    made = parts(folder, dtype=dtype)
    journal.Journal(folder / name, "a").resume(made.learner)
    return stylize(made.network, made.sample)


def test_two_processes_learn_what_one_learns(folder):
    """In float64: in float32, one rounding error that turns a ReLU grows from step to step."""
    alone = learn(folder, "alone.partial", parts(folder, 12, batch_size=2, dtype=torch.float64))
    together = start(folder, "together.partial", dtype="float64")
    said, _ = together.communicate(timeout=120)
    assert together.returncode == 0, said
    told = curve(journal.Journal(folder / "together.partial", "a"))
    assert [row["step"] for row in told] == [3, 6, 9, 12]
    for row, same in zip(told, curve(alone), strict=True):
        assert row == pytest.approx(same, rel=2e-6)  # six digits are kept
    pictures = [drawn(folder, f"{n}.partial", torch.float64) for n in ("together", "alone")]
    assert_close(*pictures, rtol=0, atol=1e-9)


def test_an_interrupt_stops_all_of_them_and_they_go_on_together(folder):
    whole = start(folder, "whole.partial", steps=40)
    stopped = start(folder, "stopped.partial", steps=40, pause=0.05)
    while len(list(folder.glob("stopped.partial.*.stepped"))) < 2:
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.05)
    os.killpg(stopped.pid, signal.SIGINT)
    said, _ = stopped.communicate(timeout=120)
    rows = files.read_numbers(folder / "stopped.partial" / journal.CURVE)
    assert not rows or rows[-1]["step"] < 40, said
    assert "RuntimeError" not in said

    again = start(folder, "stopped.partial", steps=40)
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    said, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    assert torch.equal(drawn(folder, "stopped.partial"), drawn(folder, "whole.partial"))
    stopped_rows, whole_rows = (
        curve(journal.Journal(folder / name, "a")) for name in ("stopped.partial", "whole.partial")
    )
    for row, same in zip(stopped_rows, whole_rows, strict=True):
        assert row == pytest.approx(same, rel=1e-6)


INTERRUPTED = """
import signal, sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from fnst import distributed, params, tracking
from stages import train
from tests import test_train_stage as alone

folder = train.DATA = Path(sys.argv[1])

class Untracked(alone.Nowhere):
    def fill(self, rows):
        pass

@contextmanager
def record(name, *, begun, **described):
    begun("a run")
    yield Untracked()

def assembled(wanted, name, given):
    made = alone.parts(folder, 40, batch_size=2)
    step, left = made.learner.step, [5]

    def interrupted(*given):
        step(*given)
        left[0] -= 1
        if not left[0] and distributed.rank():  # at one machine, and not that of the first process
            signal.raise_signal(signal.SIGINT)

    made.learner.step = interrupted
    return made

hashes = {"photographs_sha256": "0"}
train.inputs = lambda wanted, name: SimpleNamespace(hashes=lambda: hashes)
train.assemble, tracking.record = assembled, record
with distributed.joined():
    code = 0
    try:
        train._train("indigo-wave", params.load())
    except SystemExit as ended:
        code = ended.code
    (folder / f"{distributed.rank()}.ended").write_text(str(code))
"""


def test_the_first_process_alone_ends_as_one_that_was_interrupted(folder):
    """Where another does, its torchrun ends all, though the first one still has to write."""
    together = launched(folder, INTERRUPTED, folder)
    said, _ = together.communicate(timeout=120)
    assert together.returncode == 0, said
    assert [(folder / f"{rank}.ended").read_text() for rank in (0, 1)] == ["130", "0"]
    kept = folder / "models" / "indigo-wave.partial"
    assert "stopped after step 5; `dvc repro` goes on from there" in said
    assert files.read_json(kept / journal.RUN) == {"run_id": "a run"}


# --- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "batch_size", "expected"),
    [(0, 4, 1), (1, 4, 1), (2, 4, 2), (3, 4, 2), (8, 4, 4), (8, 1, 1), (4, 6, 3)],
)
def test_a_batch_is_shared_equally_by_as_many_gpus_as_it_can_be(
    monkeypatch, gpus, batch_size, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert distributed.processes_for(batch_size) == expected


LAUNCHED = """
import os, sys
from fnst import distributed
distributed.launch("tests.launched", ["wave"], processes=int(sys.argv[1]))
print("alone")
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stage_becomes_as_many_processes_as_there_are_to_be(tmp_path, processes):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "launched.py").write_text(
        "import os, sys\n"
        "told = [sys.argv[1], os.environ['RANK'], 'of', os.environ['WORLD_SIZE']]\n"
        "os.write(1, (' '.join(told) + os.linesep).encode())"  # at once, or the lines get mixed
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHED, str(processes)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    expected = ["alone"] if processes == 1 else ["wave 0 of 2", "wave 1 of 2"]
    assert sorted(done.stdout.splitlines()) == expected


ENDING = """
import os, signal, sys, time
from pathlib import Path
how, rank = sys.argv[1], os.environ["RANK"]
if how == "interrupted":
    caught = []
    signal.signal(signal.SIGINT, lambda *_: caught.append(1))
    Path(f"ready-{rank}").touch()
    while not caught:
        time.sleep(0.01)
    if rank == "0":
        os.write(1, b"stopped after step 5; `dvc repro` goes on from there.\\n")
    sys.exit(130 if rank == "0" else 0)

import stages
from fnst import distributed
from fnst.errors import TrainingError

def stage():
    with distributed.joined():
        if rank == "1":
            distributed.of_first(0)  # waits for what the first one never says
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise TrainingError("the painting is missing.")

stages.run(stage)
"""


def ending(tmp_path, how):
    """A launcher whose processes end in a way of their own."""
    (tmp_path / "ending.py").write_text(ENDING)
    program = (
        f"from fnst import distributed\ndistributed.launch('ending', [{how!r}], processes=2)\n"
    )
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("codes", "code", "said"),
    [
        ({1, distributed.LEFT}, 1, ""),
        ({1, -signal.SIGKILL, -signal.SIGTERM}, 1, ""),  # torchrun kills who hears no SIGTERM
        ({distributed.LEFT, -signal.SIGKILL}, 137, "error: SIGKILL ended one of 4 processes; "),
        ({-signal.SIGABRT, -signal.SIGKILL}, 137, "error: SIGKILL ended one of 4 processes; "),
        ({distributed.LEFT}, distributed.LEFT, "error: the connection of 4 processes was lost; "),
        ({-signal.SIGTERM}, distributed.LEFT, "error: the connection of 4 processes was lost; "),
    ],
)
def test_who_failed_first_decides_and_is_not_talked_over(capsys, codes, code, said):
    assert distributed._exit_code(codes, 4) == code
    assert capsys.readouterr().err.startswith(said)


def test_an_interrupt_of_several_ends_with_the_first_ones_sentence_alone(tmp_path):
    launcher = ending(tmp_path, "interrupted")
    while len(list(tmp_path.glob("ready-*"))) < 2:
        assert launcher.poll() is None, launcher.communicate()
        time.sleep(0.02)
    os.killpg(launcher.pid, signal.SIGINT)
    said, complained = launcher.communicate(timeout=120)
    assert launcher.returncode == 130
    assert said == "stopped after step 5; `dvc repro` goes on from there.\n"
    assert not complained


@pytest.mark.parametrize(
    ("how", "code", "expected"),
    [
        ("failed", 1, "error: the painting is missing.\n"),
        ("killed", 137, "error: SIGKILL ended one of 2 processes; the others were stopped. "),
    ],
)
def test_a_failure_of_one_of_several_is_one_sentence(tmp_path, how, code, expected):
    launcher = ending(tmp_path, how)
    said, complained = launcher.communicate(timeout=120)
    assert (launcher.returncode, said) == (code, "")
    assert complained.startswith(expected)
    assert complained.count("\n") == 1


def test_a_process_that_is_alone_has_nobody_to_ask():
    with distributed.joined():
        assert (distributed.rank(), distributed.world()) == (0, 1)
        values = torch.tensor([1.0, 2.0])
        assert distributed.average(values).tolist() == [1.0, 2.0]
        assert distributed.any_of(True, False) == [True, False]
        assert distributed.of_first(7) == 7
        network = torch.nn.Linear(1, 1)
        network(torch.ones(1, 1)).sum().backward()
        distributed.average_gradients(network.parameters())
        assert [weights.grad.item() for weights in network.parameters()] == [1, 1]
