"""Stylizing: milliseconds a picture, against the textbook, other runtimes and the machine."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ROOT, Result, textbook, timing
from fnst import checkpoint, export
from fnst.checkpoint import Checkpoint
from fnst.devices import device, keep_digits
from fnst.engine import Engine
from fnst.network import TransformerNetwork
from fnst.stylize import stylize

SIZES = {"256": (256, 256), "512": (512, 512), "1080p": (1080, 1920), "4K": (2160, 3840)}
ROUNDS = {"256": 5, "512": 5, "1080p": 3, "4K": 1}

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Ways by their names: the package that each needs besides fnst, and whether it knows GPUs.
WAYS = {
    "textbook": ("torch", True),
    "fp32": ("torch", True),
    "bf16": ("torch", True),
    "openvino-fp32": ("openvino", False),
    "openvino-bf16": ("openvino", False),
    "onnxruntime-fp32": ("onnxruntime", False),
}

# What torch's interpolate calls the filters of fnst's up-sampling.
DOUBLINGS = {"folded": "nearest", "bilinear": "bilinear"}

T = TypeVar("T")
Paint = Callable[[Tensor], Tensor]


def measure() -> Iterator[Result]:
    """A photograph through a trained network: ours in both precisions, the textbook's, and others.

    The textbook's is the network as pytorch/examples builds it (benchmarks/textbook.py): NCHW,
    float32, nn.InstanceNorm2d, up-sampling and convolution, with PyTorch's own settings. OpenVINO
    and ONNX Runtime, where they are installed, run the file that `fnst export` writes. Every pass
    has a process of its own, and these take turns; the second pass in a process is timed. A ratio
    is to the textbook's time of the same round, medians of five rounds, of three at 1080p and of
    one at 4K; a limit is the share of the fastest 3x3 convolution of 256 channels that this machine
    computes in the same precision, counting the multiplications of the folded network (ours in fp32
    does a quarter of those in residual blocks).

    `memory` is the peak of the process above what it had before the picture, or of the GPU's
    memory; its ratio is the textbook's to ours. `difference` is the largest from the textbook's
    picture, in grey levels, and `ssim` the structural similarity with it.
    """
    names = [
        name
        for name, (package, knows_gpus) in WAYS.items()
        if find_spec(package) and (knows_gpus or not timing.on_gpu())
    ]
    peaks = {name: _apart(partial(timing.peak_rate, dtype)) for name, dtype in DTYPES.items()}
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            rounds = [
                {name: _apart(partial(_pass, name, size, Path(scratch))) for name in names}
                for _ in range(ROUNDS[size])
            ]
            yield from _results(size, rounds, peaks)


def _results(
    size: str, rounds: list[dict[str, "Pass"]], peaks: dict[str, float]
) -> Iterator[Result]:
    work, theirs = _flops(size), rounds[0]["textbook"]
    for name, found in rounds[0].items():
        where = f"stylize/{device().type}/{size}/{name}"
        seconds = median(each[name].seconds for each in rounds)
        if name == "textbook":
            yield Result(where, 1000 * seconds, "ms")
            yield Result(f"{where}/memory", found.memory / 1e6, "MB")
            continue
        ratio = median(each["textbook"].seconds / each[name].seconds for each in rounds)
        share = work / seconds / peaks[name.rpartition("-")[2]]
        yield Result(where, 1000 * seconds, "ms", ratio, share)
        yield Result(f"{where}/memory", found.memory / 1e6, "MB", theirs.memory / found.memory)
        yield Result(f"{where}/difference", found.difference, "levels")
        yield Result(f"{where}/ssim", found.ssim, "")


def _apart(work: Callable[[], T]) -> T:
    """Do the work in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work).result()


# --- what is measured -----------------------------------------------------------------------------


def trained() -> Checkpoint:
    """The first style in data/models, or one that learnt nothing."""
    for card in sorted((ROOT / "data" / "models").glob("*/model.json")):
        return checkpoint.load(card.parent)
    print("note: data/models is empty (`dvc repro` fills it); random weights", file=sys.stderr)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint.save(Path(scratch), TransformerNetwork(), style="none", training={})
        return checkpoint.load(Path(scratch))


def photograph(size: str) -> Tensor:
    """An astronaut, stretched."""
    from skimage import data

    photo = torch.from_numpy(data.astronaut())  # type: ignore[no-untyped-call]
    photo = photo.permute(2, 0, 1)[None].float() / 255
    return F.interpolate(photo, SIZES[size], mode="bicubic", antialias=True).clamp(0, 1)


def made(name: str) -> Paint:
    """A way by its name, ready to paint."""
    style = trained()
    runtime, _, precision = name.rpartition("-")
    if runtime == "openvino":
        return _openvino(style, precision)
    if runtime == "onnxruntime":
        return _onnxruntime(style)
    if name == "textbook":
        network = textbook.Network(DOUBLINGS[str(style.card["network"]["upsampling"])])
        network.load_state_dict(style.network.state_dict())
        return partial(stylize, network.to(device()))  # type: ignore[arg-type]
    return Engine(style.network, device=device(), precision=name)  # type: ignore[arg-type]


def _openvino(style: Checkpoint, precision: str) -> Paint:
    import openvino

    core = openvino.Core()
    model = core.read_model(_exported(style))
    wanted = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(model, "CPU", wanted).create_infer_request()
    return lambda photo: torch.from_numpy(request.infer([photo.numpy()], share_inputs=True)[0])


def _onnxruntime(style: Checkpoint) -> Paint:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        _exported(style), options, providers=["CPUExecutionProvider"]
    )
    return lambda photo: torch.from_numpy(session.run(None, {"photo": photo.numpy()})[0])


def _exported(style: Checkpoint) -> bytes:
    return bytes(export.graph(style, pixels="float", layout="nchw").SerializeToString())


def _flops(size: str) -> int:
    """Floating-point operations of a pass, as PyTorch counts them."""
    h, w = SIZES[size]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        TransformerNetwork()(torch.zeros(1, 3, 64, 64))
    return int(counter.get_total_flops()) * h * w // 64**2


# --- in the process of one of them ---------------------------------------------------------------


@dataclass(frozen=True)
class Pass:
    """What one pass took, and how far its picture is from the textbook's."""

    seconds: float
    memory: float  # bytes
    difference: float  # grey levels
    ssim: float


def _pass(name: str, size: str, scratch: Path) -> Pass:
    paint, photo = made(name), photograph(size)
    photo = photo.to(device())
    before = 0.0 if timing.on_gpu() else timing.peak_memory()
    for _ in range(5 if timing.on_gpu() else 1):  # a CUDA graph is recorded at the fourth
        paint(photo)
    seconds = timing.timed(lambda: paint(photo))
    memory = timing.peak_memory() - before
    keep_digits()  # of the textbook's picture, too, which the others are compared with
    painted = paint(photo).cpu().numpy()[0].transpose(1, 2, 0)
    theirs = scratch / f"{size}.npy"
    if name == "textbook":
        np.save(theirs, painted)
    return Pass(seconds, memory, *_compared(painted, np.load(theirs)))


def _compared(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    from skimage.metrics import structural_similarity

    similar = structural_similarity(  # type: ignore[no-untyped-call]
        ours, theirs, channel_axis=2, data_range=1.0
    )
    return float(np.abs(ours - theirs).max() * 255), float(similar)
