"""Training steps as CUDA graphs: a GPU runs a small step much faster than Python launches its kernels.

A graph replays all kernels of a step on the same memory with a single launch. As required by
docs.pytorch.org/docs/stable/notes/cuda.html, the first steps run on a side stream, inputs have fixed addresses, the
optimiser counts its steps on the GPU (`capturable`), and nothing in the step waits for the GPU.
"""

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from kdhelpers.cache import out_of_memory

OFF = "KDHELPERS_NO_GRAPHS"  # set this environment variable to any text to run every step kernel by kernel
_WARM_UP = 3  # ordinary training steps, in which libraries and the optimiser allocate their persistent memory


def usable(device: torch.device) -> bool:
    """True on a GPU, unless the environment variable OFF is set."""
    return device.type == "cuda" and not os.environ.get(OFF)


class GraphedStep:
    """`step(batch)` with the same results: after a few steps, batches of `size` replay a graph; others run as usual.

    step: a function of an index tensor (size,) on a GPU; it returns a tensor and updates its state in place.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], size: int):
        self.step, self.size, self.seen, self.graph, self.side = step, size, 0, None, None

    def __call__(self, batch: Tensor) -> Tensor:
        if len(batch) != self.size:
            return self.step(batch)
        self.seen += 1
        self.side = self.side or torch.cuda.Stream(batch.device)  # one, since each stream keeps memory of its own
        if self.seen <= _WARM_UP:
            stream = torch.cuda.current_stream(batch.device)
            self.side.wait_stream(stream)
            with torch.cuda.stream(self.side):
                result = self.step(batch)
            stream.wait_stream(self.side)
            return result
        if self.seen == _WARM_UP + 1:
            self._capture(batch)
        if self.graph is None:
            return self.step(batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.result.clone()  # the next replay overwrites it

    def _capture(self, batch: Tensor) -> None:
        """Capture the step without running it; without room for the graph's own memory, warn and set no graph."""
        self.batch, graph = batch.clone(), torch.cuda.CUDAGraph()
        current = torch.cuda.stream(torch.cuda.current_stream(batch.device))  # also after a capture that failed
        try:
            with current, out_of_memory(), torch.cuda.graph(graph, stream=self.side):
                self.result = self.step(self.batch)
            self.graph = graph
        except torch.OutOfMemoryError as error:  # other errors are the step's own and propagate
            warnings.warn(f"training without CUDA graphs ({str(error).splitlines()[0]})", stacklevel=2)
