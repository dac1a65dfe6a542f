"""Several processes, one training: what they have to say to each other, all of it torch's own.

``torchrun`` starts them, each with a share of every batch. In a process that was started alone,
which is the usual case, nothing here does anything.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

# What gloo says where another process has ended, and what a process ends with that was left so.
LEFT_ALONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
LEFT = 75  # a temporary failure, of sysexits.h

IS_OURS = "FNST_LAUNCHED"  # in the environment of processes that ``launch`` started


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(module: str, arguments: Sequence[str], *, processes: int) -> None:
    """Start so many processes of a module by torchrun, unless that has happened or is no use.

    Where it does anything it does not return: it exits when all of them have ended, with 0, with
    128 and the number of the signal that it got (130 after Ctrl-C), or as one of them did that
    failed, which has said why.
    """
    if processes < 2 or is_launched():
        return
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # torchrun's own words: the processes say what there is to say
    os.environ[IS_OURS] = "1"
    sys.stdout.flush()
    several = ["--standalone", f"--nproc-per-node={processes}", "-m", module, *arguments]
    try:
        run.main(several)
    except SignalException as caught:
        sys.exit(128 + caught.sigval)
    except ChildFailedError as error:
        sys.exit(_exit_code({failure.exitcode for failure in error.failures.values()}, processes))
    sys.exit(0)


def _exit_code(codes: set[int], processes: int) -> int:
    """The exit code of all, of those of some; where none of these has said why, that is said.

    A negative one is that of a signal; SIGTERM, and SIGKILL after half a minute, are what torchrun
    ends with whom others have left, and by SIGABRT, a lower one, libraries end who was left.
    """
    said = [code for code in codes if code > 0 and code != LEFT]
    if said:
        return said[0]
    ended_by = [-code for code in codes if code < 0 and code != -signal.SIGTERM]
    if ended_by:
        what = f"{signal.Signals(max(ended_by)).name} ended one of {processes} processes"
    else:
        what = f"the connection of {processes} processes was lost"
    print(
        f"error: {what}; the others were stopped. `dvc repro` goes on with what was kept.",
        file=sys.stderr,
    )
    return 128 + max(ended_by) if ended_by else LEFT


def processes_for(batch_size: int) -> int:
    """As many processes as this machine has GPUs, or fewer, so that they share a batch equally."""
    most = max(1, min(torch.cuda.device_count(), batch_size))
    return next(count for count in range(most, 0, -1) if batch_size % count == 0)


@contextmanager
def joined() -> Iterator[None]:
    """Meet the other processes for the length of the block; each takes a GPU of its own."""
    if not is_launched():
        yield
        return
    with_gpu = torch.cuda.is_available()
    if with_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        # Gradients travel by NCCL, everything that is on the CPU by gloo.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if with_gpu else "gloo")
        yield
    except SystemExit:  # after an interrupt, at which all of them stop
        distributed.destroy_process_group()
        raise
    except RuntimeError as error:
        if not any(words in str(error) for words in LEFT_ALONE):
            raise
        if IS_OURS not in os.environ and os.environ["LOCAL_RANK"] == "0":
            print(f"error: the connection to another process was lost ({error})", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LEFT)  # at once: threads of a group that lost one may abort while Python ends
    # After an error here the others wait for this process: it must end, for torchrun to end them.
    distributed.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient the mean over all processes: that of the whole batch.

    In one message, so that a CUDA graph can hold it. DistributedDataParallel would send parts of it
    while others are computed, which saves less, of these few megabytes, than a recorded step does.
    """
    if world() == 1:
        return
    gradients = [weights.grad for weights in parameters if weights.grad is not None]
    message = average(torch.cat([gradient.flatten() for gradient in gradients]))
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, part in zip(gradients, torch.split(message, sizes), strict=True):
        gradient.copy_(part.view(gradient.shape))


def average(values: Tensor) -> Tensor:
    """The mean over all processes, in all of them."""
    if world() > 1:
        distributed.all_reduce(values)
        values /= world()
    return values


def any_of(*here: bool) -> list[bool]:
    """Of each, whether it is so in at least one process."""
    if world() == 1:
        return list(here)
    flags = torch.tensor(here, dtype=torch.int32)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def all_of(here: bool) -> bool:
    """Whether it is so in every process."""
    return not any_of(not here)[0]


def of_first(number: int) -> int:
    """The first process's number, in all of them."""
    if world() == 1:
        return number
    told = torch.tensor(number)
    distributed.broadcast(told, src=0)
    return int(told.item())
