"""The training step: photographs a second, against the textbook and against the machine."""

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Result, peak_memory, textbook
from fnst import build, memory, params, training
from fnst.features import BLOCKS, VGG
from fnst.losses import PerceptualLoss, Weights
from fnst.stylize import device

SIDE = 256  # pixels, as the main recipe crops
BATCH = 4
LARGER = (16, 32)
STYLE_SIDE = 512
RATE = 0.001
CONTENT = "relu3_1"
STYLE = {"relu1_1": 0.2, "relu2_1": 0.1, "relu3_1": 0.05, "relu4_1": 0.025, "relu5_1": 0.0125}
NETWORK = params.Network(width=32, blocks=5, downsampling="stride", upsampling="folded")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

MEMORY = """
import sys
from benchmarks import train_step
from fnst import memory
memory.hold()
name, batch = sys.argv[1], int(sys.argv[2])
step, photos = train_step.made(name), train_step.photographs(batch)
for _ in range(2):
    step(photos)
"""

Step = Callable[[Tensor], object]


def measure() -> Iterator[Result]:
    """A step with VGG19, 256 pixels, batch 4: ours in both precisions, and the textbook's.

    The textbook's is pytorch/examples' way to the same loss (benchmarks/textbook.py): NCHW,
    float32, both passes through VGG to the deepest layer, nn.InstanceNorm2d, up-sampling and
    convolution. Photographs are there already, and memory is kept from step to step for both. A
    ratio is to the textbook's step in the same rounds, medians of three (of twenty on a GPU); a
    limit is the share of the fastest 3x3 convolution of 256 channels that this machine computes in
    the same precision and rounds.

    `memory` is the peak of a whole process that makes two steps, or of the GPU's memory; its ratio
    is the textbook's to ours. Batches of 16 and 32 are measured in the precision that is chosen by
    default. On a GPU, the textbook also runs under TF32, and `epoch` is what 40,670 photographs
    take at ours.
    """
    memory.hold()
    photos = photographs(BATCH)
    steps = {name: made(name) for name in ("textbook", *DTYPES)}
    peaks = {name: _convolution(dtype) for name, dtype in DTYPES.items()}
    work = _flops(steps["fp32"], photos)
    for step in steps.values():
        _warm_up(lambda step=step: step(photos))  # type: ignore[misc]
    rounds = [
        {name: _seconds(lambda step=step: step(photos)) for name, step in steps.items()}  # type: ignore[misc]
        | {f"peak-{name}": 1 / peak() for name, peak in peaks.items()}
        for _ in range(_rounds())
    ]
    where = f"train-step/{device().type}"
    for name in steps:
        seconds = median(each[name] for each in rounds)
        ratio = median(each["textbook"] / each[name] for each in rounds)
        if name == "textbook":
            yield Result(f"{where}/textbook/b{BATCH}", BATCH / seconds, "images/s")
            continue
        share = work / seconds * median(each[f"peak-{name}"] for each in rounds)
        yield Result(f"{where}/{name}/b{BATCH}", BATCH / seconds, "images/s", ratio, share)
    yield from _memory(where)
    yield from _larger(where)


# --- what is measured -----------------------------------------------------------------------------


def photographs(count: int) -> Tensor:
    """Noise, where it has to be."""
    noise = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return noise.to(device())


def made(name: str) -> Step:
    """A step by its name: `textbook`, or ours in `fp32` or `bf16`."""
    style = torch.rand(1, 3, STYLE_SIDE, STYLE_SIDE, generator=torch.Generator().manual_seed(1))
    style = style.to(device())
    torch.manual_seed(0)
    if name == "textbook":
        return textbook.Step(
            textbook.Network().to(device()),
            random_vgg().to(device()),
            style,
            content_layer=CONTENT,
            style_layers=STYLE,
            learning_rate=RATE,
        )
    network = build.network(NETWORK, seed=0).to(device())
    loss = PerceptualLoss(
        random_vgg().in_precision(DTYPES[name]).to(device()),
        style.to(memory_format=torch.channels_last),
        content_layer=CONTENT,
        style_layers=STYLE,
        weights=Weights(),
    )
    learner = training.Learner(network, loss, training.adam(network, RATE), DTYPES[name])
    return lambda photos: learner.step(photos, RATE)


def random_vgg() -> VGG:
    """A VGG19 whose activations keep their size from layer to layer; speed asks for no more."""
    torch.manual_seed(2)
    widths = [
        w for w, n in zip((64, 128, 256, 512, 512), BLOCKS["vgg19"], strict=True) for _ in range(n)
    ]
    pairs: list[tuple[Tensor, Tensor]] = []
    for inputs, outputs in zip([3, *widths], widths, strict=False):
        weight = torch.empty(outputs, inputs, 3, 3)
        nn.init.kaiming_normal_(weight)
        pairs.append((weight, torch.zeros(outputs)))
    return VGG((torch.eye(3).view(3, 3, 1, 1), torch.full((3,), -0.5)), pairs)


def _convolution(dtype: torch.dtype) -> Callable[[], float]:
    """How many floating-point operations a second the machine reaches in a convolution."""
    maps = torch.rand(8, 256, 64, 64).to(device(), dtype, memory_format=torch.channels_last)
    weight = torch.rand(256, 256, 3, 3).to(device(), dtype, memory_format=torch.channels_last)
    flops = 2 * 8 * 64 * 64 * 256 * 256 * 9

    def rate() -> float:
        with torch.no_grad():
            return flops / _seconds(lambda: F.conv2d(maps, weight, padding=1), repeats=5)

    _warm_up(lambda: F.conv2d(maps, weight, padding=1))
    return rate


def _flops(step: Step, photos: Tensor) -> int:
    """Floating-point operations of a step, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        step(photos)
    return int(counter.get_total_flops())


# --- how it is measured ---------------------------------------------------------------------------


def _on_gpu() -> bool:
    return device().type == "cuda"


def _rounds() -> int:
    return 20 if _on_gpu() else 3


def _warm_up(work: Callable[[], object]) -> None:
    for _ in range(5 if _on_gpu() else 1):  # a CUDA graph is recorded at the fourth
        work()


def _seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """The time of one of so many, to the end of what a GPU does."""
    repeats *= 10 if _on_gpu() else 1
    _wait()
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait()
    return (time.perf_counter() - began) / repeats


def _wait() -> None:
    if _on_gpu():
        torch.cuda.synchronize()


def _memory(where: str) -> Iterator[Result]:
    peaks = {name: _peak(name, BATCH) for name in ("textbook", *DTYPES)}
    for name, peak in peaks.items():
        ratio = None if name == "textbook" else peaks["textbook"] / peak
        yield Result(f"{where}/{name}/b{BATCH}/memory", peak / 1e6, "MB", ratio)


def _peak(name: str, batch: int) -> float:
    """Bytes: of the GPU where there is one, else of a process of its own."""
    if not _on_gpu():
        return peak_memory(MEMORY, name, batch)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step, photos = made(name), photographs(batch)
    _warm_up(lambda: step(photos))
    return float(torch.cuda.max_memory_allocated() - before)


def _larger(where: str) -> Iterator[Result]:
    dtype = training.choose_dtype("auto", device())
    name = next(name for name, candidate in DTYPES.items() if candidate == dtype)
    for batch in LARGER:
        step, photos = made(name), photographs(batch)
        _warm_up(lambda step=step, photos=photos: step(photos))  # type: ignore[misc]
        seconds = median(
            _seconds(lambda step=step, photos=photos: step(photos))  # type: ignore[misc]
            for _ in range(_rounds() // 3)
        )
        yield Result(f"{where}/{name}/b{batch}", batch / seconds, "images/s")


if __name__ == "__main__":
    sys.exit("python -m benchmarks train-step runs this")
