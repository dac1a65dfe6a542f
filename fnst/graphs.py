"""A computation on a GPU, recorded once and then launched whole.

A step of a small batch is a thousand kernels, each of them shorter than it takes Python to start
it. As a CUDA graph they are started together.
"""

import warnings
from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

Batch = Float[Tensor, "b 3 h w"]
Work = Callable[[Batch], None]

# What libraries set up at their first calls cannot be recorded; PyTorch's own number for it.
WARM_UP = 3


@cache
def _stream(device: int) -> torch.cuda.Stream:
    """One for all that is recorded on a device: what is freed on one stream serves no other."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Graphed:
    """``work`` on batches; on a GPU, from the fourth on, those of its shape as one CUDA graph.

    The work must read and write nothing but the batch and tensors that stay where they are, and
    must not wait for the GPU. Where recording it fails, it goes on as before, with a warning.

    Args:
        work: what is to be done with a batch.
        agree: whether to go on with what was recorded, given whether it was: work that talks to
            other processes is recorded by all of them or by none.
    """

    def __init__(self, work: Work, agree: Callable[[bool], bool] = bool) -> None:
        self.work, self.agree = work, agree
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.batch: Batch | None = None

    def __call__(self, batch: Batch) -> None:
        """Do the work."""
        if batch.device.type != "cuda":
            self.work(batch)
            return
        with torch.cuda.device(batch.device):  # which may not be that of this thread
            if self.calls < WARM_UP:
                self.calls += 1
                self._aside(batch)
            else:
                self._replay(batch)

    def _aside(self, batch: Batch) -> None:
        """Work on another stream, as recording will: the default one cannot be recorded."""
        stream = _stream(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # An optimizer that can be recorded wonders why it is not.
            warnings.filterwarnings("ignore", ".*capturable=True", UserWarning)
            self.work(batch)
        torch.cuda.current_stream().wait_stream(stream)

    def _replay(self, batch: Batch) -> None:
        if self.batch is None:
            self.batch = batch.clone()
            graph = self._recorded(self.batch)
            self.graph = graph if self.agree(graph is not None) else None
        if self.graph is None or batch.shape != self.batch.shape:
            self.work(batch)
            return
        self.batch.copy_(batch)
        self.graph.replay()

    def _recorded(self, batch: Batch) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Only what this thread does is recorded: others may read pictures meanwhile.
            stream = _stream(torch.cuda.current_device())
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self.work(batch)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            warnings.warn(
                f"this step cannot be recorded ({reason}); it is computed kernel by kernel",
                stacklevel=2,
            )
            return None
        return graph
