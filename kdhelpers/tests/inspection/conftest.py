"""An untrained detector and its file."""

import pytest

from kdhelpers import networks
from kdhelpers.data import weights
from kdhelpers.inspection import detector
from kdhelpers.protocols import protocol_for


@pytest.fixture(scope="session")
def whole():
    source, identity = weights.load_source("untrained")
    protocol = protocol_for("official", "folder")
    cloner = networks.make_cloner(protocol, 0).eval()
    record = {"dataset": "folder", "parameters": {"method": "gradients"}, "environment": {"source": "untrained"}}
    held_out = {"scores": list(map(float, range(20))), "maxima": list(map(float, range(20, 40)))}
    untrained = detector.Detector(source, cloner, protocol, 32, identity, record, held_out=held_out)
    return untrained.with_threshold(false_alarms=0.05)


@pytest.fixture
def made(whole, tmp_path):
    detector.save(whole, tmp_path / "detector.safetensors")
    return whole, tmp_path / "detector.safetensors"
