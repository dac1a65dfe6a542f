"""How long a user waits for one stylized photograph: whole processes, from start to exit."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks import Result, UnavailableError

ROOT = Path(__file__).parents[1]
SIDE = 512  # pixels
ROUNDS = 7

IMPORT_TORCH = "import torch"

# The least that any program with this network in torch has to do.
BARE = f"""
import sys
import torch
import safetensors.torch
from fnst.network import TransformerNetwork

network = TransformerNetwork()
network.load_state_dict(safetensors.torch.load_file(sys.argv[1]))
photo = torch.rand(1, 3, {SIDE}, {SIDE}).contiguous(memory_format=torch.channels_last)
with torch.inference_mode():
    network.eval()(photo)
"""


def measure() -> Iterator[Result]:
    """`fnst stylize --model-version 1` on a 512x512 photograph, as a whole process.

    The version was used before. The baseline is a whole process as well: it imports torch, builds
    the network, loads the weights and does one forward pass of that size (`bare`). Both are
    wall-clock medians of seven rounds, in which `import torch` alone takes its turn too. The
    target is a ratio above 0.67: no more than 1.5 times the baseline.
    """
    if missing := [name for name in ("mlflow", "typer") if find_spec(name) is None]:
        raise UnavailableError(
            "measures the command line with a registered version, which needs "
            f"{' and '.join(missing)}; install the whole project with `make setup`."
        )
    with tempfile.TemporaryDirectory(prefix="fnst-cold-start-") as scratch:
        yield from _measure(Path(scratch))


def _measure(scratch: Path) -> Iterator[Result]:
    environment = {
        **os.environ,
        "FNST_CACHE": str(scratch / "cache"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db",
    }
    script = "import sys; from benchmarks import cold_start; cold_start.register(sys.argv[1])"
    _seconds(["-c", script, str(scratch)], environment)
    stylize = ["-m", "fnst.cli", "stylize", "--overwrite", "--model-version", "1", "--device"]
    commands = {
        "ours": [*stylize, "cpu", str(scratch / "photo.jpg")],
        "bare": ["-c", BARE, str(scratch / "model" / "model.safetensors")],
        "torch": ["-c", IMPORT_TORCH],
    }
    for command in commands.values():  # now the version was used before, and files are in memory
        _seconds(command, environment)
    rounds = [
        {name: _seconds(command, environment) for name, command in commands.items()}
        for _ in range(ROUNDS)
    ]
    ours, bare, torch = (median(each[name] for each in rounds) for name in commands)
    ratio = median(each["bare"] / each["ours"] for each in rounds)
    yield Result(f"cold-start/{SIDE}", ours, "s", ratio)
    yield Result(f"cold-start/{SIDE}/bare", bare, "s")
    yield Result("cold-start/import-torch", torch, "s")


def _seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """How long one Python process takes."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[:3]} failed:\n{done.stderr}")
    return time.perf_counter() - began


def register(scratch: str) -> None:
    """Make a photograph, and a network of the default size that is version 1 of a style.

    Runs in a process of its own: what is measured must not find anything imported.
    """
    import torch

    from fnst import checkpoint, images, registry, tracking
    from fnst.network import TransformerNetwork

    torch.manual_seed(0)
    folder = Path(scratch)
    blurred = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 32), SIDE, mode="bilinear")
    images.save(images.Picture(blurred), folder / "photo.jpg")
    checkpoint.save(folder / "model", TransformerNetwork(), style="untrained", training={})
    with tracking.record("cold start", run_id=None, params={}, tags={}) as run:
        registry.register(
            folder / "model",
            style="untrained",
            run_id=run.id,
            metrics={"total": 1.0},
            tags={},
            card="",
        )
