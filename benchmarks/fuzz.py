"""The door for pictures, tried with thousands of files that mean harm or have come to harm."""

import io
import itertools
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import ROOT, Result, command, hostile
from benchmarks.command import Stylized

MUTANTS = 5000
COMMANDED = 3000  # of them; they are painted, as a folder, by a network of the usual kind
SEED = 20_240_229

# A file may take so long, and the process so much memory above what it has when it starts.
MOST_SECONDS = 60
MOST_MEMORY = 3 * 2**30

# Pictures above this are not painted: the door is tried, and a lying file can be large and right.
PAINTED_PIXELS = 1_000_000

PROGRAM = ["-m", "benchmarks.fuzz"]  # tries files in a process of its own

ENDINGS = (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp")

WHOLE, REFUSED, CRASH, HANG, WRONG = "whole", "refused", "crash", "hang", "wrong"


def measure() -> Iterator[Result]:
    """Thousands of changed files and the known tricks through reading, painting and writing.

    Every file must come out whole or be refused in one sentence, in a minute and in 3 GB of memory
    more than the program itself; anything else is counted as crash, hang or wrong. `command` is one
    `fnst stylize` on a folder of the tricks and 3,000 mutants; there, no file is timed alone.
    """
    tricks = len(hostile.tricks())
    for name, found in (
        ("tricks", survey("tricks", tricks)),
        ("mutants", survey(f"mutants {SEED}", MUTANTS)),
        ("command", survey_command({"tricks": tricks, f"mutants {SEED}": COMMANDED})),
    ):
        for kind in (WHOLE, REFUSED, CRASH, HANG, WRONG):
            yield Result(f"fuzz/{name}/{kind}", float(found.kinds[kind]), "files")
        if found.slowest:
            yield Result(f"fuzz/{name}/slowest", found.slowest, "s")
        yield Result(f"fuzz/{name}/memory", found.memory / 1e6, "MB above the program's")


@dataclass
class Survey:
    """What became of all files."""

    kinds: Counter[str]
    slowest: float = 0.0
    memory: float = 0.0
    worst: tuple[str, ...] = ()
    """What was neither whole nor refused, and how."""


def survey(files: str, count: int) -> Survey:
    """Try so many files in processes of their own; one that dies costs one file."""
    found, start = Survey(Counter()), 0
    while start < count:
        program = [sys.executable, *PROGRAM, files, str(start), str(count)]
        done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        for row in rows:
            _count(found, row)
        start += len(rows)
        if start < count:
            kind = HANG if done.returncode == -signal.SIGALRM else CRASH
            last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
            _count(found, {"name": f"number {start}", "kind": kind, "said": last[0]})
            start += 1
    return found


def survey_command(wanted: Mapping[str, int]) -> Survey:
    """Let `fnst stylize` paint a folder of so many files of each kind: what became of each."""
    with command.registered(width=4, blocks=1) as registry:
        plain, photos, results = (
            registry.scratch / name for name in ("a.jpg", "photos", "results")
        )
        plain.write_bytes(hostile.samples()["plain.jpg"])
        photos.mkdir()
        each = (itertools.islice(_files(files), count) for files, count in wanted.items())
        for index, (name, content) in enumerate(itertools.chain(*each)):
            (photos / f"{index}-{name}").write_bytes(content)
        names = sorted(path.name for path in photos.iterdir())
        where = ["--max-memory", "1GB", "--output", str(results), str(photos)]
        try:
            done = registry.stylize(where, timeout=MOST_SECONDS + len(names))
        except subprocess.TimeoutExpired:
            return Survey(Counter({HANG: 1}), worst=("the folder took a second for each file",))
        found = Survey(Counter(), memory=done.memory - registry.stylize([str(plain)]).memory)
        for row in _judged(names, results, done):
            _count(found, row)
    return found


def _judged(names: Sequence[str], results: Path, done: Stylized) -> Iterator[dict[str, Any]]:
    """Every photograph has to have a result that is whole, or a sentence of its own."""
    painted = {path.name.partition("-untrained-v1")[0]: path for path in results.rglob("*.*")}
    # libtiff, which another thread may be in, writes its own words between others'
    said = [line for line in done.said if "error: " in line]
    for name in names:
        target = painted.pop(Path(name).stem, None)
        sentences = [line for line in said if f"/{name}" in line]
        if target and not sentences:
            kind = WHOLE if _is_whole(target.read_bytes()) else WRONG
        else:
            kind = REFUSED if len(sentences) == 1 and not target else WRONG
        yield {"name": name, "kind": kind, "said": f"{sentences} and {target}"}
    for left in painted.values():
        yield {"name": left.name, "kind": WRONG, "said": "nobody asked for this file"}
    if done.status != 1 or "Traceback" in "".join(done.said):
        yield {"name": "the folder", "kind": CRASH, "said": f"exit {done.status}: {done.said[-1:]}"}


def _count(found: Survey, row: dict[str, Any]) -> None:
    found.kinds[row["kind"]] += 1
    found.slowest = max(found.slowest, row.get("seconds", 0.0))
    found.memory = max(found.memory, row.get("memory", 0.0))
    if row["kind"] not in (WHOLE, REFUSED):
        found.worst += (f"{row['name']}: {row['kind']}: {row['said']}",)


# --- in a process of its own ----------------------------------------------------------------------


def _files(which: str) -> Iterable[tuple[str, bytes]]:
    kind, _, seed = which.partition(" ")
    return hostile.tricks().items() if kind == "tricks" else hostile.mutants(int(seed))


def main(which: str, start: str, stop: str) -> None:
    """Try files, and print what became of each; whoever watches sees which one was the last."""
    import warnings

    import torch

    from fnst import memory
    from fnst.network import TransformerNetwork

    warnings.filterwarnings("ignore", module="PIL")  # as the command line does
    torch.set_num_threads(1)
    network = TransformerNetwork(width=4, blocks=1)
    files = itertools.islice(_files(which), int(start), int(stop))
    first = memory.peak()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_MEMORY,) * 2)
    with tempfile.TemporaryDirectory() as scratch:
        for index, (name, content) in enumerate(files, int(start)):
            signal.alarm(MOST_SECONDS)
            began = time.perf_counter()
            kind, said = _try(network, Path(scratch), name, content, ENDINGS[index % len(ENDINGS)])
            signal.alarm(0)
            row = {
                "name": name,
                "kind": kind,
                "said": said,
                "seconds": time.perf_counter() - began,
                "memory": memory.peak() - first,
            }
            print(json.dumps(row), flush=True)


def _try(network: Any, folder: Path, name: str, content: bytes, ending: str) -> tuple[str, str]:
    """Stylize one file; what became of it."""
    from fnst import overlap
    from fnst.batch import Job
    from fnst.images import Picture
    from fnst.stylize import stylize

    def paint(picture: Picture) -> Picture:
        small = picture.rgb.shape[2] * picture.rgb.shape[3] <= PAINTED_PIXELS
        return replace(picture, rgb=stylize(network, picture.rgb)) if small else picture

    photo, target = folder / name, folder / f"result{ending}"
    photo.write_bytes(content)
    try:
        [done] = overlap.run(paint, [Job(photo, target, ending)])
        left = [path.name for path in folder.iterdir() if path not in (photo, target)]
        if left:
            return WRONG, f"left {left}"
        if done.error:
            said = str(done.error)
            is_right = not target.exists() and "\n" not in said and len(said) < 400
            return (REFUSED if is_right else WRONG), said
        return (WHOLE, "") if _is_whole(target.read_bytes()) else (WRONG, "the result is damaged")
    except Exception as error:
        return WRONG, repr(error)[:200]
    finally:
        for path in folder.iterdir():
            path.unlink()


def _is_whole(content: bytes) -> bool:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
