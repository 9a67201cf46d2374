"""A training step as one CUDA graph: a GPU is done with a small step long before Python has launched the next.

A graph repeats the kernels of one step on the same memory, with one launch instead of some hundred. As
docs.pytorch.org/docs/stable/notes/cuda.html asks: steps on a side stream first, inputs that stay where they are, an
optimiser that keeps its count on the GPU (`capturable`), and nothing in the step that waits for the GPU.
"""

import os
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

OFF = "KDHELPERS_NO_GRAPHS"  # the environment variable that, set to anything, has every step run kernel by kernel
_WARM_UP = 3  # steps that count like any other, in which libraries and the optimiser allocate what they keep


def usable(device: torch.device) -> bool:
    """True on a GPU, unless switched off."""
    return device.type == "cuda" and not os.environ.get(OFF)


class GraphedStep:
    """`step(batch)`, with the same results: batches of `size` by a graph after the first few, others as they are.

    step: a function of an index tensor (size,) on a GPU that returns a tensor and changes what it refers to in place.
    """

    def __init__(self, step: Callable[[Tensor], Tensor], size: int):
        self.step, self.size, self.seen, self.graph = step, size, 0, None

    def __call__(self, batch: Tensor) -> Tensor:
        if len(batch) != self.size:
            return self.step(batch)
        self.seen += 1
        if self.seen <= _WARM_UP:
            return self._aside(batch)
        if self.seen == _WARM_UP + 1:
            self._capture(batch)
        if self.graph is None:
            return self.step(batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.result.clone()  # the next replay overwrites it

    def _aside(self, batch: Tensor) -> Tensor:
        stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(stream)
        with torch.cuda.stream(side):
            result = self.step(batch)
        stream.wait_stream(side)
        return result

    def _capture(self, batch: Tensor) -> None:
        """Record the step without running it; a graph needs memory of its own, so there may be no room for one."""
        self.batch, graph = batch.clone(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.result = self.step(self.batch)
            self.graph = graph
        except torch.OutOfMemoryError as error:  # any other error is one of the step, and is raised
            warnings.warn(f"training without CUDA graphs ({str(error).splitlines()[0]})", stacklevel=2)
