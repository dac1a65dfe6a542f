"""The training step: photographs a second, against the textbook and against the machine."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Result, textbook, timing
from fnst import build, features, fused, memory, params, training
from fnst.devices import device
from fnst.features import BLOCKS, VGG
from fnst.losses import PerceptualLoss, Weights

SIDE = 256  # pixels, as the main recipe crops
BATCH = 4
LARGER = (16, 32)
STYLE_SIDE = 256
RATE = 0.001
CONTENT = "relu3_1"
STYLE = {"relu1_1": 0.2, "relu2_1": 0.1, "relu3_1": 0.05, "relu4_1": 0.025, "relu5_1": 0.0125}
NETWORK = params.Network(width=32, blocks=5, downsampling="stride", upsampling="bilinear")
PLAIN = "-unfused"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Step = Callable[[Tensor], object]


class Ours(training.Learner):
    """fnst's step, called like the textbook's."""

    def __call__(self, photos: Tensor) -> None:
        """Make one step."""
        self.step(photos, RATE)


def measure() -> Iterator[Result]:
    """A step with VGG19, 256 pixels, batch 4: ours in both precisions, and the textbook's.

    The textbook's is pytorch/examples' way to the same loss (benchmarks/textbook.py): NCHW,
    float32, both passes through VGG to the deepest layer, nn.InstanceNorm2d, up-sampling (bilinear,
    as the recipes have it) and convolution, with PyTorch's own settings. Each has a process of its
    own, and these take turns; photographs are there already. A ratio is to the textbook's step of
    the same round, medians of three rounds (of twenty on a GPU); a limit is the share of the
    fastest 3x3 convolution of 256 channels that this machine computes in the same precision and
    round.

    `memory` is the peak of the process, or of the GPU's memory; its ratio is the textbook's to
    ours.
    """
    ways = {name: _process(name) for name in ("textbook", *DTYPES)}
    # imports at once, and then, one after the other, what libraries set up at their first calls
    for begun in [way.submit(timing.wait) for way in ways.values()]:
        begun.result()
    work = {name: way.submit(_warm).result() for name, way in ways.items()}["fp32"]
    rounds = [
        {name: way.submit(_seconds, BATCH).result() for name, way in ways.items()}
        | {f"peak-{name}": ways[name].submit(_peak_rate).result() for name in DTYPES}
        for _ in range(_rounds())
    ]
    memories = {name: way.submit(timing.peak_memory).result() for name, way in ways.items()}
    where = f"train-step/{device().type}"
    for name in ways:
        seconds = median(each[name] for each in rounds)
        if name == "textbook":
            yield Result(f"{where}/textbook/b{BATCH}", BATCH / seconds, "images/s")
            continue
        ratio = median(each["textbook"] / each[name] for each in rounds)
        share = median(work / each[name] / each[f"peak-{name}"] for each in rounds)
        yield Result(f"{where}/{name}/b{BATCH}", BATCH / seconds, "images/s", ratio, share)
    for name, peak in memories.items():
        saved = None if name == "textbook" else memories["textbook"] / peak
        yield Result(f"{where}/{name}/b{BATCH}/memory", peak / 1e6, "MB", saved)
    _end(ways)


def measure_batches() -> Iterator[Result]:
    """Larger batches, the textbook's step with memory kept as ours keeps it, and our plain one.

    Ours is in the precision that is chosen by default. The textbook's is of batch 4; by itself it
    gives its memory back to the system and takes it again at every step. On a GPU there is ours of
    batch 4 once more, with PyTorch's kernels in the place of fnst's. Medians of three.
    """
    default = _by_default()
    batches = {default: LARGER, "textbook-kept": (BATCH,)}
    if timing.on_gpu():
        batches |= {default: (BATCH, *LARGER), f"{default}{PLAIN}": (BATCH,)}
    ways = {name: _process(name) for name in batches}
    where = f"train-step/{device().type}"
    for name, way in ways.items():
        for batch in batches[name]:
            way.submit(_seconds, batch).result()
            seconds = median(way.submit(_seconds, batch).result() for _ in range(3))
            yield Result(f"{where}/{name}/b{batch}", batch / seconds, "images/s")
    _end(ways)


# --- what is measured -----------------------------------------------------------------------------


def photographs(count: int) -> Tensor:
    """Noise, where it has to be."""
    noise = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return noise.to(device())


def painting() -> Tensor:
    """Noise as well, of a painting's size."""
    noise = torch.rand(1, 3, STYLE_SIDE, STYLE_SIDE, generator=torch.Generator().manual_seed(1))
    return noise.to(device(), memory_format=torch.channels_last)


def made(name: str) -> Step:
    """A step by its name: `textbook`, or ours in `fp32` or `bf16`."""
    style = painting()
    torch.manual_seed(0)
    if name.startswith("textbook"):
        return textbook.Step(
            textbook.Network(NETWORK.upsampling).to(device()),
            random_vgg().to(device()),
            style.contiguous(),
            content_layer=CONTENT,
            style_layers=STYLE,
            learning_rate=RATE,
        )
    network = build.network(NETWORK, seed=0).to(device())
    loss = PerceptualLoss(
        random_vgg().in_precision(DTYPES[name]).to(device()),
        style,
        content_layer=CONTENT,
        style_layers=STYLE,
        weights=Weights(),
    )
    return Ours(network, loss, training.adam(network, RATE), DTYPES[name])


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


# --- in the process of one of them ---------------------------------------------------------------

_step: Step  # of this process


def _end(ways: Mapping[str, ProcessPoolExecutor]) -> None:
    with ThreadPoolExecutor() as together:  # each takes a second
        list(together.map(ProcessPoolExecutor.shutdown, ways.values()))


def _process(name: str) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _begin, (name,))


def _begin(name: str) -> None:
    global _step
    if name != "textbook":
        memory.hold()
    if name.endswith(PLAIN):
        fused.serves = lambda device, dtype: False
    _step = made(name.removesuffix(PLAIN))


def _warm() -> int:
    """Make the first steps; the floating-point operations of one, as PyTorch counts them."""
    photos = photographs(1)
    at_once, features.AT_ONCE = features.AT_ONCE, ()  # which the counter knows nothing of
    with FlopCounterMode(display=False) as counter:
        _step(photos)
    features.AT_ONCE = at_once
    if timing.on_gpu():
        for _ in range(5):  # a CUDA graph is recorded at the fourth
            _step(photographs(BATCH))
    return BATCH * int(counter.get_total_flops())


def _seconds(batch: int) -> float:
    """The time of a step with so many photographs, to the end of what a GPU does."""
    photos = photographs(batch)
    if timing.on_gpu() and batch != BATCH:
        _begin(_by_default())  # a graph is of one size
        for _ in range(5):
            _step(photos)
    return timing.timed(lambda: _step(photos))


def _peak_rate() -> float:
    """The machine's, in the precision of this process."""
    return timing.peak_rate(_step.dtype if isinstance(_step, Ours) else torch.float32)


def _rounds() -> int:
    return 20 if timing.on_gpu() else 3


def _by_default() -> str:
    dtype = training.choose_dtype("auto", device())
    return next(name for name, candidate in DTYPES.items() if candidate == dtype)
