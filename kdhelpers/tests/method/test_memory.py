"""What is done when a GPU has no memory left, with networks that say so."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from kdhelpers import cache, localization, losses, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.errors import InputError
from kdhelpers.experiments import config, runner, verification
from kdhelpers.protocols import PROTOCOLS


def small(network):
    """A copy of S or C on a device that has room for two images at once."""

    def guard(layer, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError

    network = deepcopy(network)
    network[0].register_forward_pre_hook(guard)
    return network


FULL = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("GET was unable to find an engine to execute this computation"),  # of cuDNN
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


@pytest.mark.parametrize("error", FULL, ids=["torch", "cuDNN", "cuBLAS"])
def test_chunks_are_halved_until_they_fit_and_none_is_lost(error):
    seen = []

    def function(index):
        if index.stop - index.start > 3:
            raise error
        seen.extend(range(index.start, index.stop))
        return len(seen)

    with pytest.warns(UserWarning, match="out of GPU memory: 2 images at a time"):
        assert cache.in_chunks(function, 11, 8)[-1] == 11
    assert seen == list(range(11))
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match=": 1 images"):
        cache.in_chunks(lambda index: function(slice(0, 4)), 11, 8)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="same dtype"):
        cache.in_chunks(lambda index: torch.zeros(index.stop) @ torch.zeros(index.stop).double(), 11, 8)


@pytest.mark.filterwarnings("ignore:out of GPU memory")
def test_smaller_chunks_give_the_same_numbers(source, images, monkeypatch):
    monkeypatch.setattr(localization, "SMOOTHGRAD_SAMPLES", 2)
    protocol = PROTOCOLS["official"]
    cloner = networks.make_cloner(protocol, seed=0)
    both = (small(source), small(cloner)), (source, cloner)
    found, expected = (losses.scores(SourceActivations(s, images), c, protocol) for s, c in both)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for method in ("gradients", "smoothgrad", "guided_backprop"):
        found, expected = (localization.attribution(method, s, c, images, protocol) for s, c in both)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def run(of_a_run):
    (run,) = config.resolve("04_mvtec", **of_a_run | {"CLASSES": ["bottle"]})
    return run


class Full(SourceActivations):
    """On a device with no room for what is kept."""

    asked = []
    room = ("none",)

    def __init__(self, source, images, *, cache="auto"):
        self.asked.append(cache)
        if cache not in self.room:
            raise torch.OutOfMemoryError
        super().__init__(source, images, cache=cache)


def test_without_room_nothing_is_kept_and_the_record_is_the_same(run, monkeypatch):
    expected = runner.run_experiments([run])
    run.record_path("bottle").unlink()
    monkeypatch.setattr(runner, "SourceActivations", Full)
    monkeypatch.setattr(Full, "asked", [])
    with pytest.warns(UserWarning, match="S's activations are (cached in main memory|computed again)") as said:
        found = runner.run_experiments([run])
    assert Full.asked == ["auto", "host", "none", "none"] and len(said) >= 2
    assert not verification.differences(*expected, *found)


@pytest.mark.filterwarnings("ignore:out of GPU memory")
def test_without_room_for_a_batch_it_says_so_in_a_line(run, monkeypatch):
    monkeypatch.setattr(runner, "SourceActivations", Full)
    monkeypatch.setattr(Full, "room", ())
    with pytest.raises(InputError, match="no room for a batch of 64 images of 32 px.*BATCH_SIZE"):
        runner.run_experiments([run])
    assert not list(run.results_dir.rglob("*.json"))
