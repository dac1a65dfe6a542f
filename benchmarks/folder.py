"""A folder of photographs: how much of the time the network runs, and what overlapping saves."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks import Result
from fnst import overlap
from fnst.batch import Job
from fnst.devices import device
from fnst.images import Picture
from fnst.network import TransformerNetwork
from fnst.stylize import stylize

COUNT, SHAPE = 8, (540, 960)
ROUNDS = 3
KINDS = {"jpeg": ".jpg", "png": ".png"}


def measure() -> Iterator[Result]:
    """A folder through reading, painting and writing at once, against one after the other.

    Photographs of half a megapixel and a network of width 8, so that reading and writing take their
    share. The limit is the share of the time in which the network ran; the ratio is to a loop that
    does one step after the other, in turns with ours.
    """
    torch.manual_seed(0)
    network = TransformerNetwork(width=8, blocks=2).eval().to(device())

    def paint(picture: Picture) -> Picture:
        return replace(picture, rgb=stylize(network, picture.rgb))

    for name, ending in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            jobs = _jobs(Path(place), ending)
            _at_once(paint, jobs)  # the first calls allocate
            rounds = [(*_at_once(paint, jobs), _in_turn(paint, jobs)) for _ in range(ROUNDS)]
        seconds, shares, plain = zip(*rounds, strict=True)
        ratio = median(p / s for p, s in zip(plain, seconds, strict=True))
        rate = COUNT / median(seconds)
        yield Result(f"folder/{name}", rate, "photographs/s", ratio, median(shares))


def _at_once(paint: overlap.Painter, jobs: Sequence[Job]) -> tuple[float, float]:
    """Seconds for all, and the share of them in which the network ran."""
    watch = overlap.Stopwatch(paint)
    began = time.perf_counter()
    for done in overlap.run(watch, jobs):
        if done.error:
            raise done.error
    seconds = time.perf_counter() - began
    return seconds, watch.seconds / seconds


def _in_turn(paint: overlap.Painter, jobs: Sequence[Job]) -> float:
    """Seconds for all when nothing overlaps; the files are the same."""
    began = time.perf_counter()
    for job in jobs:
        for done in overlap.run(paint, [job]):
            if done.error:
                raise done.error
    return time.perf_counter() - began


def _jobs(place: Path, ending: str) -> list[Job]:
    """Soft noise, which is as hard to code as a photograph is."""
    h, w = SHAPE
    jobs = []
    for index in range(COUNT):
        small = np.random.default_rng(index).integers(0, 256, (h // 4, w // 4, 3), dtype=np.uint8)
        photo = place / f"{index}{ending}"
        Image.fromarray(small).resize((w, h), Image.Resampling.BICUBIC).save(photo)
        jobs.append(Job(photo, place / f"{index}-painted{ending}", ending))
    return jobs
