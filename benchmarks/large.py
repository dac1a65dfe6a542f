"""Large pictures: seconds, memory and exactness, from 1 to 100 megapixels."""

import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import ROOT, Result, command
from benchmarks.command import Registered, Stylized

# Megapixels, and the sides of a photograph with so many.
PICTURES = {1: (1152, 864), 4: (2304, 1728), 16: (4608, 3456), 48: (8000, 6000), 100: (11600, 8640)}

# What the largest may take above the loaded program at the least; in float32 they would take more.
TIGHT = {48: 2 * 2**30, 100: 4 * 2**30}

SMALL = (64, 64)

# A whole pass takes half a kilobyte a pixel: nothing larger is compared with it.
COMPARED = (1, 4, 16)

PICTURE = """
import torch
from torch.nn import functional as F
from fnst.stylize import from_floats

def picture(width, height):
    # Patches of colour and fine noise, row by row: nothing here takes more than the picture.
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    for top in range(0, height, 64):
        count = min(64, height - top)
        patches = F.interpolate(torch.rand(1, 3, 3, width // 50), (count, width), mode="bilinear")
        noisy = patches * 0.8 + torch.rand(1, 3, count, width) * 0.2
        image[:, top : top + count] = from_floats(noisy, torch.uint8).permute(0, 2, 3, 1)
    return image.permute(0, 3, 1, 2)
"""

# In a process of its own, so that one picture's peak is not another's.
PROGRAM = f"""{PICTURE}
import json, sys, time
from fnst import memory, strips
from fnst.network import TransformerNetwork
from fnst.stylize import stylize as whole

width, height, limit, kind = *map(int, sys.argv[1:4]), sys.argv[4]
torch.manual_seed(0)
network = TransformerNetwork().eval()
whole(network, torch.rand(1, 3, 64, 64))  # loads what is loaded late
before = memory.peak()
image = picture(width, height)
if kind == "difference":
    image = image.float() / 255

began = time.perf_counter()
stylized = whole(network, image) if kind == "whole" else strips.stylize(
    network, image, max_memory=limit
)
found = {{"seconds": time.perf_counter() - began, "memory": memory.peak() - before}}
if kind == "difference":
    found = {{"difference": (stylized - whole(network, image)).abs().max().item() * 255}}
print(json.dumps(found))
"""

# The photograph for `fnst stylize`.
JPEG = f"""{PICTURE}
import sys
from pathlib import Path
from fnst import images

torch.manual_seed(0)
found = images.Picture(picture(*map(int, sys.argv[2:4])))
images.save(found, Path(sys.argv[1]))
"""


def measure() -> Iterator[Result]:
    """8-bit pictures of 1 to 100 megapixels by the default network on the CPU, in strips.

    Each has a process of its own. `memory` is its peak above what the loaded program took: input
    and output count. Ratios are to the whole pass, which ran in turns with it: of time and of
    memory. `difference` is the largest from the whole pass, of float pictures, in grey levels. What
    has a limit in its name was told to keep it. `command` is `fnst stylize` on a JPEG file, from
    start to exit, and the limit is what it may take above what it takes for a small picture.
    """
    for megapixels, (width, height) in PICTURES.items():
        where = f"large/{megapixels}MP"
        roomy = 400 * 10**6 + 100 * width * height  # enough for maps in float32
        found = _run(megapixels, roomy, "strips")
        if megapixels in COMPARED:
            whole = _run(megapixels, roomy, "whole")
            yield from _results(where, found, whole)
            exact = _run(megapixels, roomy + 24 * width * height, "difference")
            yield Result(f"{where}/difference", exact["difference"], "grey levels")
        else:
            yield from _results(where, found)
        if megapixels in TIGHT:
            limit = TIGHT[megapixels]
            found = _run(megapixels, limit, "strips")
            yield from _results(f"{where}/{limit // 2**30}GiB", found)
    with command.registered() as registry:
        _stylized(registry, SMALL, TIGHT[48])  # the first use of a version fetches it
        small = _stylized(registry, SMALL, TIGHT[48])
        for megapixels, limit in TIGHT.items():
            done = _stylized(registry, PICTURES[megapixels], limit)
            where = f"large/{megapixels}MP/{limit // 2**30}GiB/command"
            yield Result(f"{where}/time", done.seconds, "s")
            yield Result(f"{where}/memory", (done.memory - small.memory) / 1e6, "MB")


def _results(
    where: str, found: dict[str, float], whole: dict[str, float] | None = None
) -> Iterator[Result]:
    seconds = whole["seconds"] / found["seconds"] if whole else None
    memory = whole["memory"] / found["memory"] if whole else None
    yield Result(f"{where}/time", found["seconds"], "s", seconds)
    yield Result(f"{where}/memory", found["memory"] / 1e6, "MB", memory)


def _stylized(registry: Registered, size: tuple[int, int], limit: int) -> Stylized:
    """What `fnst stylize` takes; of the limit, a tenth is left for reading and writing."""
    photo, result = registry.scratch / "photo.jpg", registry.scratch / "stylized.jpg"
    _checked(registry.python(["-c", JPEG, str(photo), *map(str, size)]))
    options = ["--max-memory", str(limit * 9 // 10), "--overwrite", "--output", str(result)]
    done = registry.stylize([*options, str(photo)])
    if done.status:
        raise RuntimeError(f"what was to be measured failed:\n{done.said}")
    return done


def _run(megapixels: int, limit: int, kind: str) -> dict[str, float]:
    width, height = PICTURES[megapixels]
    program = [sys.executable, "-c", PROGRAM, *map(str, (width, height, limit)), kind]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    _checked(done)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _checked(done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode:
        raise RuntimeError(f"what was to be measured failed:\n{done.stderr}")
