"""What fnst claims about speed, as commands: `python -m benchmarks` lists them.

A benchmark is a function that yields results. Everything it is compared with runs in turns with it,
in the same minutes on the same machine: so that a ratio means something where a time does not.
"""

import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class UnavailableError(Exception):
    """This machine lacks what a benchmark needs; ``str(error)`` says what, in one sentence."""


@cache
def machine() -> str:
    """The model of the CPU and how many of its cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"


PEAK = """
from fnst import memory
print(memory.peak())
"""


def peak_memory(program: str, *arguments: object) -> float:
    """The most bytes of memory that a process of its own takes to run a program of Python."""
    command = [sys.executable, "-c", program + PEAK, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"what was to be measured failed:\n{done.stderr}")
    return float(done.stdout)


@dataclass(frozen=True)
class Result:
    """One measured number."""

    name: str  # what, with its settings, such as train-step/bf16/vgg19/256/b4
    value: float
    unit: str
    ratio: float | None = None  # to a baseline interleaved in the same run; above 1 is better
    limit: float | None = None  # share of this machine's measured peak
    machine: str = field(default_factory=machine)
    torch: str = field(default_factory=lambda: version("torch"))

    def as_json(self) -> dict[str, Any]:
        """The result in JSON's types; every key is always there."""
        return asdict(self)
