"""The networks against torchvision's own; wrong weights are in test_bad_input."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torchvision

from kdhelpers import cache, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.protocols import PROTOCOLS
from kdhelpers.tests.conftest import pools

OFFICIAL, TEXT = PROTOCOLS["official"], PROTOCOLS["text"]


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(1)
    return torchvision.models.vgg16(weights=None).eval()


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_cloner_has_as_many_parameters_as_the_article_s_and_the_equal_one_as_the_source(source):
    assert count(networks.make_cloner(OFFICIAL, 0)) == 343_984
    assert count(networks.make_cloner(TEXT, 0)) == 343_728  # without bias and BatchNorm
    equal = networks.make_cloner(dataclasses.replace(TEXT, width="equal", bias=True), 0)
    assert count(equal) == count(source)


def test_the_seed_decides_the_cloner():
    first, again, other = (networks.make_cloner(OFFICIAL, seed)[0].weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("features_only, dtype", [(False, torch.float32), (True, torch.float16)])
def test_activations_equal_torchvision_s_features_exactly(vgg, tmp_path, features_only, dtype):
    state = vgg.state_dict()
    if features_only:
        state = {name: value.to(dtype) for name, value in state.items() if name.startswith("features.")}
    torch.save(state, tmp_path / "weights.pt")
    source, identity = weights.load_source(str(tmp_path / "weights.pt"))
    assert identity["name"] == "weights" and len(identity["sha256"]) == 64

    reference = torchvision.models.vgg16(weights=None).eval().to(memory_format=torch.channels_last)
    reference.load_state_dict({n: v.to(dtype).float() for n, v in vgg.state_dict().items()})
    x = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found, expected = networks.critical_points(source, x), pools(reference.features, x)
    assert len(found) == 4 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("index", [torch.tensor([5, 0, 3]), slice(2, 5)])
def test_activations_kept_equal_activations_computed(source, images, place, index):
    kept, computed = (SourceActivations(source, images, cache=which) for which in (place, "none"))
    assert kept.cached is not None and computed.cached is None
    for a, b in zip(kept[index], computed[index], strict=True):
        assert torch.equal(a, b)


def test_activations_are_kept_where_there_is_room(source, images, monkeypatch):
    def cache_with(free):
        monkeypatch.setattr(cache.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        return SourceActivations(source, images).cache

    needed = sum(a.nbytes for a in networks.critical_points(source, images[:]))
    assert cache_with(2 * needed) == "device" and cache_with(2 * needed - 1) == "none"
