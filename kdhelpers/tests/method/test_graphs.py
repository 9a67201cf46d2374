"""A step by a CUDA graph: when, for which batches, and that on a CPU there is none."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from kdhelpers import graphs


class Pretended:
    """A graph that runs the step again; `error`: of its capture."""

    step, error, replays = None, None, 0

    @contextmanager
    def capture(self, **_):
        yield
        if self.error:
            raise self.error

    def replay(self):
        Pretended.replays += 1
        self.step.result.copy_(self.step.step(self.step.batch))


@pytest.fixture
def gpu(monkeypatch):
    side = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in {
        "CUDAGraph": Pretended,
        "graph": Pretended.capture,
        "Stream": lambda device: side,
        "current_stream": lambda device: side,
        "stream": lambda one: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(Pretended, "replays", 0)


FULL = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]  # of torch, of CUDA


@pytest.mark.parametrize("error", [None, *FULL])
@pytest.mark.filterwarnings("ignore:training without CUDA graphs .CUDA (error. )?out of memory")
def test_full_batches_go_through_the_graph_and_none_is_lost(gpu, monkeypatch, error):
    monkeypatch.setattr(Pretended, "error", error)
    step = graphs.GraphedStep(lambda batch: 10.0 * batch[:2], 4)
    monkeypatch.setattr(Pretended, "step", step)
    batches = [torch.arange(i, i + (3 if i in (2, 7) else 4)) for i in range(9)]
    found = [step(batch) for batch in batches]
    assert torch.equal(torch.stack(found), torch.stack([10.0 * batch[:2] for batch in batches]))
    assert Pretended.replays == (0 if error else 4)  # seven full ones, three of which warm up


def test_on_a_cpu_or_switched_off_there_is_no_graph(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.delenv(graphs.OFF, raising=False)
    assert graphs.usable(cuda) and not graphs.usable(torch.device("cpu"))
    monkeypatch.setenv(graphs.OFF, "1")
    assert not graphs.usable(cuda)
