"""`fnst stylize` as a user calls it: whole processes, and a style that nobody trained."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks import ROOT, UnavailableError

STYLIZE = ("stylize", "--model-version", "1", "--device", "cpu")

# What `fnst` does, and in the last line how much memory it took.
PROGRAM = """
import atexit, sys
from fnst import memory
from fnst.cli import main
atexit.register(lambda: print(memory.peak(), file=sys.stderr))
main()
"""


@dataclass(frozen=True)
class Stylized:
    """What became of one `fnst stylize`.

    Attributes:
        status: with which it ended.
        said: lines of the standard error.
        seconds: from start to end.
        memory: the most bytes that it has had.
    """

    status: int
    said: Sequence[str]
    seconds: float
    memory: float


@dataclass(frozen=True)
class Registered:
    """A registry of its own, in which version 1 is of an untrained network.

    Attributes:
        scratch: a folder that goes with it.
        weights: the network's.
        environment: of processes that shall find this registry.
    """

    scratch: Path
    weights: Path
    environment: dict[str, str]

    def python(self, arguments: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments, whatever its exit status; ``how`` as for ``run``."""
        command = [sys.executable, *arguments]
        where = {"cwd": ROOT, "env": self.environment, "capture_output": True, "text": True}
        return subprocess.run(command, **where, **how)  # type: ignore[call-overload,no-any-return]

    def stylize(self, arguments: Sequence[str], timeout: float | None = None) -> Stylized:
        """Stylize with the version on the CPU.

        Raises:
            subprocess.TimeoutExpired: when it takes more seconds than that.
        """
        began = time.perf_counter()
        done = self.python(["-c", PROGRAM, *STYLIZE, *arguments], timeout=timeout)
        seconds = time.perf_counter() - began
        *said, peak = done.stderr.splitlines()
        return Stylized(done.returncode, said, seconds, float(peak))


@contextmanager
def registered(*, width: int = 32, blocks: int = 5) -> Iterator[Registered]:
    """Register a network of this size for as long as the block lasts.

    Raises:
        UnavailableError: when what the command line needs is not installed.
    """
    if missing := [name for name in ("mlflow", "typer") if find_spec(name) is None]:
        raise UnavailableError(
            "measures the command line with a registered version, which needs "
            f"{' and '.join(missing)}; install the whole project with `make setup`."
        )
    with tempfile.TemporaryDirectory(prefix="fnst-registry-") as place:
        scratch = Path(place)
        found = Registered(
            scratch,
            scratch / "model" / "model.safetensors",
            {
                **os.environ,
                "FNST_CACHE": str(scratch / "cache"),
                "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db",
            },
        )
        # In a process of its own: what is measured must not find anything imported.
        program = "import sys; from benchmarks import command; command.register(*sys.argv[1:])"
        done = found.python(["-c", program, place, str(width), str(blocks)])
        if done.returncode:
            raise RuntimeError(f"the registry could not be made:\n{done.stderr}")
        yield found


def register(scratch: str, width: str, blocks: str) -> None:
    """Make a network version 1 of a style, in the registry that the environment names."""
    import torch

    from fnst import checkpoint, registry, tracking
    from fnst.network import TransformerNetwork

    torch.manual_seed(0)
    folder = Path(scratch) / "model"
    network = TransformerNetwork(width=int(width), blocks=int(blocks))
    checkpoint.save(folder, network, style="untrained", training={})
    with tracking.record("untrained", run_id=None, params={}, tags={}) as run:
        registry.register(
            folder, style="untrained", run_id=run.id, metrics={"total": 1.0}, tags={}, card=""
        )
