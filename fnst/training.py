"""The training loop, and the state that lets it go on after an interrupt.

References:
    [K14] Kingma, Ba. Adam: A Method for Stochastic Optimization. 2014. https://arxiv.org/abs/1412.6980
    [L16] Loshchilov, Hutter. SGDR: Stochastic Gradient Descent with Warm Restarts. 2016.
          https://arxiv.org/abs/1608.03983
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from fnst import distributed, files
from fnst.devices import has_bf16, keep_digits
from fnst.errors import TrainingError
from fnst.graphs import Graphed
from fnst.losses import PerceptualLoss, Terms

Batch = Float[Tensor, "b 3 h w"]  # sRGB in [0, 1]

# Chosen by us: no report was ever more than 1.2 times the lowest before it, no single photograph's
# loss twice that of another; a network that paints nothing any more comes to 6 times and beyond.
EXPLODED = 4.0  # times the lowest total that was reported, or that of the first step

LEVEL = 1 / 255  # what varies by less than a grey level is of one colour

UNREPORTED = "unreported"  # in a state's file: what its meter had summed up

Schedule = Callable[[int], float]  # step, from 1 -> learning rate


class DivergedError(TrainingError):
    """The loss is no longer a number, or many times what it was."""


@dataclass(frozen=True)
class Losses:
    """The weighted terms per image, averaged over the steps since the last report."""

    content: float
    style: float
    variation: float
    grid: float
    total: float


class Meter:
    """The weighted terms, summed up where they are computed until somebody asks for their mean.

    Attributes:
        sums: content, style, variation and grid, each the mean over a batch, and how many batches;
            of those photographs that anything is learnt from.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums: Float[Tensor, 5] = torch.zeros(5, device=device)

    def add(self, terms: Terms, counts: Float[Tensor, " b"]) -> None:
        """Take in a batch, each photograph as often as it counts."""
        each = (terms.content, terms.style, terms.variation, terms.grid)
        means = [(term * counts).mean() for term in each]
        self.sums += torch.stack([*means, counts.mean()]).detach()

    def read(self) -> Losses | None:
        """What ``mean`` says, and begin anew."""
        losses = self.mean()
        self.sums.zero_()
        return losses

    def mean(self) -> Losses | None:
        """The mean over the batches, of all processes, since ``read``; waits for the GPU.

        None when no photograph among them counted.
        """
        *sums, batches = distributed.average(self.sums.clone()).tolist()
        if not batches:
            return None
        return Losses(*(value / batches for value in (*sums, sum(sums))))


class Learner:
    """A network, the loss that teaches it, and how both make a step.

    Several processes each take their own part of a batch; the step is that of the whole.

    Args:
        network: what learns; its parameters are those of ``optimizer``.
        loss: scores stylized photos; on the same device.
        optimizer: see ``adam``.
        dtype: of convolutions; statistics, losses and the optimizer stay float32.

    Attributes:
        meter: the losses that were not reported yet.
        lowest: the lowest total that was reported, or that of the first step, which tells an
            explosion.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: PerceptualLoss,
        optimizer: Optimizer,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network, self.loss, self.optimizer, self.dtype = network, loss, optimizer, dtype
        self.device = next(network.parameters()).device
        self.meter = Meter(self.device)
        self.lowest = math.inf
        keep_digits()
        self.renew()

    def renew(self) -> None:
        """Forget how a step was recorded: the optimizer's tensors are others now.

        A recording with messages to other processes must be gone before their group ends: NCCL
        waits for that.
        """
        self._update = Graphed(self._learn, distributed.all_of)

    def step(self, photos: Batch, rate: float) -> None:
        """Learn from a batch, with this learning rate."""
        set_learning_rate(self.optimizer, rate)
        self._update(photos.to(self.device, memory_format=torch.channels_last, non_blocking=True))

    def _learn(self, photos: Batch) -> None:
        with self.precision():
            stylized = self.network(photos)
            terms = self.loss(stylized, photos)
        self.optimizer.zero_grad()
        counts = has_texture(photos)
        (terms.total * counts).mean().backward()
        distributed.average_gradients(self.network.parameters())
        self.optimizer.step()
        self.meter.add(terms, counts)

    def precision(self) -> torch.autocast:
        """For a ``with`` block, in which convolutions are those of the training."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def is_sound(self) -> bool:
        """Whether weights, their moments and losses are all numbers; waits for the GPU.

        Where the square of a gradient is infinite, Adam divides by it: weights stay numbers, and
        learn nothing any more.
        """
        remembered = [v for values in self.optimizer.state.values() for v in values.values()]
        moments = [value for value in remembered if isinstance(value, Tensor)]
        tensors = [self.meter.sums, *self.network.parameters(), *moments]
        return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def has_texture(photos: Batch) -> Float[Tensor, " b"]:
    """1 for each photograph that anything can be learnt from, 0 for one that is of one colour.

    Where nothing varies, every norm divides by the root of its epsilon: the gradients that pass ten
    of them, 300 times as large after each, are no numbers in the end, though the losses are: some
    hundred times those of other photographs. What is no number itself is not hidden.
    """
    return (~(photos.std((2, 3)).amax(1) <= LEVEL)).to(photos.dtype)


def train(
    learner: Learner,
    photos: Iterable[Batch],
    *,
    steps: int,
    start: int = 0,
    schedule: Schedule,
    report_every: int = 1,
) -> Iterator[tuple[int, Losses | None]]:
    """Make steps, and after each yield its number and, every so often, the losses.

    The caller decides what to do after each: log it, keep the state, or stop.

    Args:
        learner: what makes the steps; it remembers the lowest total.
        photos: batches, beginning with the one of step ``start + 1``.
        steps: the last step.
        start: steps already done.
        schedule: learning rate of each step.
        report_every: steps between two reports; reading losses off a GPU stalls it.

    Raises:
        DivergedError: at a report, when the loss, or a weight, is no longer a number, or the loss
            is more than four times the lowest, be it that of the first step.
    """
    learner.network.train()
    for step, batch in enumerate(islice(photos, steps - start), start=start + 1):
        learner.step(batch, schedule(step))
        if step == 1 and (untaught := learner.meter.mean()):
            learner.lowest = untaught.total
        if step % report_every and step != steps:
            yield step, None
            continue
        losses = learner.meter.read()
        if losses:
            _check(learner, losses.total, step)
            learner.lowest = min(learner.lowest, losses.total)
        yield step, losses


def adam(network: nn.Module, learning_rate: float) -> Adam:
    """Adam with its authors' constants ([K14]), all parameters updated in one kernel."""
    device = next(network.parameters()).device
    if device.type != "cuda":
        return Adam(network.parameters(), lr=learning_rate, fused=True)
    # A recorded step reads the rate where it lies.
    rate = torch.tensor(learning_rate, device=device)
    return Adam(network.parameters(), lr=rate, fused=True, capturable=True)


def warmup_cosine(learning_rate: float, *, warmup: int, steps: int) -> Schedule:
    """Rise linearly over ``warmup`` steps, then fall to zero along half a cosine ([L16], eq. 5)."""

    def schedule(step: int) -> float:
        if step <= warmup:
            return learning_rate * step / warmup
        done = (step - warmup) / max(1, steps - warmup)
        return learning_rate * (1 + math.cos(math.pi * min(1.0, done))) / 2

    return schedule


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter of the optimizer this learning rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def count_steps(photos: int, *, batch_size: int, steps: int | None, epochs: float | None) -> int:
    """Steps of a training: as given, or as many as the epochs take, at least one."""
    if steps is not None:
        return steps
    return max(1, round((epochs or 1) * photos / batch_size))


def choose_dtype(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> torch.dtype:
    """The dtype of convolutions: bfloat16 where it was asked for, or where hardware computes it."""
    fast = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int = 0
    setbacks: int = 0
    """How often it diverged and went back; each halved the learning rate."""


def save_state(path: Path, learner: Learner, progress: Progress, *, fingerprint: str) -> None:
    """Keep everything a later ``load_state`` needs to go on exactly here, in one whole file."""
    tensors = {f"network.{k}": v.contiguous() for k, v in learner.network.state_dict().items()}
    for index, values in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v.contiguous() for k, v in values.items()}
    tensors[UNREPORTED] = learner.meter.sums
    told = {**asdict(progress), "lowest": learner.lowest, "fingerprint": fingerprint}
    files.write(path, safetensors.torch.save(tensors, {"fnst": json.dumps(told)}))


def load_state(path: Path, learner: Learner, *, fingerprint: str) -> Progress | None:
    """Take up a state that ``save_state`` kept; how far that training was.

    None, with nothing changed, when there is no state, or when it belongs to a training with
    other parameters, photographs or style, which must not be continued with these.

    Args:
        path: the state's file.
        learner: takes weights, moments, the losses that were not reported yet, and the lowest.
        fingerprint: identifies the training; compared with the one that was saved.

    Raises:
        TrainingError: when the file is damaged, or cannot be read.
    """
    if not path.exists():
        return None
    with _opened(path) as file:
        saved = json.loads(file.metadata()["fnst"])
        if saved.pop("fingerprint") != fingerprint:
            return None
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        unreported, lowest = tensors.pop(UNREPORTED), float(saved.pop("lowest"))
    learner.network.load_state_dict(_below(tensors, "network."))
    state: dict[int, dict[str, Tensor]] = {}
    parameters = list(learner.network.parameters())
    for name, value in _below(tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = _laid_out_as(value, parameters[int(index)])
    learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
    learner.meter.sums.copy_(unreported)
    learner.lowest = lowest
    learner.renew()
    return Progress(**saved)


def fingerprint_of(path: Path) -> str | None:
    """Which training a state belongs to; None when there is no state.

    Raises:
        TrainingError: when the file is damaged, or cannot be read.
    """
    if not path.exists():
        return None
    with _opened(path) as file:
        return str(json.loads(file.metadata()["fnst"])["fingerprint"])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A state's file, which is damaged where the block does not find in it what it looks for."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            yield file
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be read ({error}), so this training cannot go on."
        ) from error
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged, so this training cannot go on; delete it to begin anew."
        ) from error


def _laid_out_as(value: Tensor, parameter: Tensor) -> Tensor:
    """Give a moment the memory layout of its parameter: the fused kernel pairs them by position."""
    if value.shape != parameter.shape:
        return value  # the step counter
    return torch.empty_like(parameter, device=value.device).copy_(value).detach()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _check(learner: Learner, total: float, step: int) -> None:
    """Raise DivergedError unless the state after this step is worth keeping."""
    if not math.isfinite(total):
        raise DivergedError(f"the loss was {total} at step {step}: expected a number")
    if total > EXPLODED * learner.lowest:
        raise DivergedError(
            f"the loss was {total:.3g} at step {step}, after {learner.lowest:.3g} before"
        )
    # the loss tells of the weights before the step, and not what the step made of them
    if not learner.is_sound():
        raise DivergedError(
            f"a weight, or a moment of its gradients, is no longer a number after step {step}"
        )
