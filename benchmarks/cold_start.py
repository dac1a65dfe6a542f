"""How long a user waits for one stylized photograph: whole processes, from start to exit."""

import time
from collections.abc import Iterator
from statistics import median

from benchmarks import Result, command
from benchmarks.command import Registered

SIDE = 512  # pixels
ROUNDS = 7

IMPORT_TORCH = "import torch"

PHOTO = f"""
import sys
from pathlib import Path
import torch
from fnst import images

blurred = torch.nn.functional.interpolate(torch.rand(1, 3, 32, 32), {SIDE}, mode="bilinear")
images.save(images.Picture(blurred), Path(sys.argv[1]))
"""

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
    """`fnst stylize --model-version 1 photo.jpg` with 512x512 pixels, as a whole process.

    The version was used before. The baseline is a whole process as well: it imports torch, builds
    the network, loads the weights and does one forward pass of that size (`bare`). Both are
    wall-clock medians of seven rounds, in which `import torch` alone takes its turn too. The
    target is a ratio above 0.67: no more than 1.5 times the baseline.
    """
    with command.registered() as registry:
        yield from _measure(registry)


def _measure(registry: Registered) -> Iterator[Result]:
    photo = registry.scratch / "photo.jpg"
    _seconds(registry, ["-c", PHOTO, str(photo)])
    commands = {
        "ours": ["-m", "fnst.cli", *command.STYLIZE, "--overwrite", str(photo)],
        "bare": ["-c", BARE, str(registry.weights)],
        "torch": ["-c", IMPORT_TORCH],
    }
    for arguments in commands.values():  # now the version was used before, and files are in memory
        _seconds(registry, arguments)
    rounds = [
        {name: _seconds(registry, arguments) for name, arguments in commands.items()}
        for _ in range(ROUNDS)
    ]
    ours, bare, torch = (median(each[name] for each in rounds) for name in commands)
    ratio = median(each["bare"] / each["ours"] for each in rounds)
    yield Result(f"cold-start/{SIDE}", ours, "s", ratio)
    yield Result(f"cold-start/{SIDE}/bare", bare, "s")
    yield Result("cold-start/import-torch", torch, "s")


def _seconds(registry: Registered, arguments: list[str]) -> float:
    """How long one Python process takes."""
    began = time.perf_counter()
    done = registry.python(arguments)
    if done.returncode:
        raise RuntimeError(f"{arguments[:3]} failed:\n{done.stderr}")
    return time.perf_counter() - began
