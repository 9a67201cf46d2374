"""The networks against torchvision's own, and what happens to wrong weights."""

import dataclasses
import os
import pickle
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from kdhelpers import networks
from kdhelpers.errors import InputError
from kdhelpers.protocols import PROTOCOLS

OFFICIAL, TEXT = PROTOCOLS["official"], PROTOCOLS["text"]


@pytest.fixture(scope="module")
def vgg():
    torch.manual_seed(1)
    return torchvision.models.vgg16(weights=None).eval()


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_cloner_has_as_many_parameters_as_the_article_s():
    assert count(networks.make_cloner(OFFICIAL, 0)) == 343_984
    assert count(networks.make_cloner(TEXT, 0)) == 343_728


def test_the_equal_cloner_is_as_large_as_the_source(source):
    equal = networks.make_cloner(dataclasses.replace(TEXT, width="equal", bias=True), 0)
    assert count(equal) == count(source)


def test_without_bias_by_default_and_batch_norm_only_where_no_pool_follows():
    layers = list(networks.make_cloner(OFFICIAL, 0))
    assert all(layer.bias is None for layer in layers if isinstance(layer, nn.Conv2d))
    for convolution, after in zip(layers, layers[1:], strict=False):
        if isinstance(convolution, nn.Conv2d):
            wide = convolution.out_channels > 16 or convolution is layers[3]  # before a pool
            assert isinstance(after, nn.MaxPool2d if wide else nn.BatchNorm2d)


@pytest.mark.parametrize("protocol", [OFFICIAL, TEXT])
def test_the_relu_after_the_pool_changes_nothing(protocol, images, article_s_order):
    cloner = networks.make_cloner(protocol, 0).double().eval()
    plain, pools, y = article_s_order(cloner), [], images.pixels[:].double() / 255
    for layer in plain:
        y = layer(y)
        if isinstance(layer, nn.MaxPool2d):
            pools.append(y.clone())
    found = networks.critical_points(cloner, images.pixels[:].double() / 255)
    for a, b in zip(found, pools[1:], strict=True):
        assert torch.equal(a, b)


def test_the_seed_decides_the_cloner():
    first, again, other = (networks.make_cloner(OFFICIAL, seed)[0].weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("features_only, dtype", [(False, torch.float32), (True, torch.float32), (True, torch.float16)])
def test_activations_equal_torchvision_s_features_exactly(vgg, tmp_path, features_only, dtype):
    state = vgg.state_dict()
    if features_only:
        state = {name: value.to(dtype) for name, value in state.items() if name.startswith("features.")}
    torch.save(state, tmp_path / "weights.pt")
    source, identity = networks.load_source(str(tmp_path / "weights.pt"))
    assert identity["name"] == "weights" and len(identity["sha256"]) == 64

    reference = torchvision.models.vgg16(weights=None).eval().to(memory_format=torch.channels_last)
    reference.load_state_dict({n: v.to(dtype).float() for n, v in vgg.state_dict().items()})
    x = torch.rand(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    pools, y = [], x
    for layer in reference.features:
        with torch.no_grad():
            y = layer(y)
        if isinstance(layer, nn.MaxPool2d):
            pools.append(y)
    found = networks.critical_points(source, x)
    assert len(found) == 4
    for a, b in zip(found, pools[1:], strict=True):
        assert torch.equal(a, b)
    assert torch.equal(found[-1], reference.features(x))


@pytest.mark.parametrize("cache", ["device", "host"])
@pytest.mark.parametrize("index", [torch.tensor([5, 0, 3]), torch.arange(7), slice(2, 5)])
def test_activations_kept_equal_activations_computed(source, images, cache, index):
    kept, computed = (networks.SourceActivations(source, images, cache=which) for which in (cache, "none"))
    assert kept.kept is not None and computed.kept is None
    for a, b in zip(kept[index], computed[index], strict=True):
        assert torch.equal(a, b)


def test_activations_are_kept_where_there_is_room(source, images, monkeypatch):
    def cache_with(free):
        monkeypatch.setattr(networks.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
        return networks.SourceActivations(source, images).cache

    needed = sum(a.nbytes for a in networks.critical_points(source, images[:]))
    assert cache_with(2 * needed) == "device" and cache_with(2 * needed - 1) == "none"


class Bomb:
    """A pickle that would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_in_a_weights_file_is_not_run(tmp_path):
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    torch.save({"features.0.weight": Bomb(tmp_path / "ran")}, tmp_path / "bomb2.pt")
    for name in ("bomb.pt", "bomb2.pt"):
        with pytest.raises(InputError, match=f"{name} is not a file of weights"):
            networks.load_source(str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


def test_wrong_weights_are_refused_by_name(tmp_path):
    good = {f"features.{name}": value for name, value in networks.load_source("untrained")[0].state_dict().items()}

    def refused(state, message):
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(InputError, match=message) as error:
            networks.load_source(str(tmp_path / "w.pt"))
        assert "\n" not in str(error.value) and "w.pt" in str(error.value)

    refused(good | {"features.0.weight": torch.zeros(64, 1, 3, 3)}, "0.weight is .64, 1, 3, 3., not .64, 3, 3, 3.")
    refused({name: value for name, value in good.items() if name != "features.28.bias"}, "'28.bias' is missing")
    refused(torchvision.models.resnet18(weights=None).state_dict(), "is not VGG-16")
    refused(good | {"features.0.bias": torch.full((64,), float("nan"))}, "not finite")
    refused([1, 2], "holds a list")
    (tmp_path / "w.pt").write_text("not weights")
    with pytest.raises(InputError, match="is not a file of weights"):
        networks.load_source(str(tmp_path / "w.pt"))
    with pytest.raises(InputError, match="neither imagenet, nor untrained, nor an existing weights file"):
        networks.load_source(str(tmp_path / "absent.pt"))
