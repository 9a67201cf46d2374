"""Small networks and images that the tests share."""

import numpy as np
import pytest
import torch

from kdhelpers import networks, samples
from kdhelpers.images import Images
from kdhelpers.protocols import PROTOCOLS


@pytest.fixture(scope="session")
def source():
    return networks.load_source("untrained")[0]


@pytest.fixture(params=["official", "text"])
def protocol(request):
    """Both protocols, λ set where it would be calibrated."""
    from dataclasses import replace

    found = PROTOCOLS[request.param]
    return replace(found, lam=0.5 if found.lam is None else found.lam)


@pytest.fixture(scope="session")
def images():
    rng = np.random.default_rng(0)
    return Images(torch.from_numpy(rng.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)))


@pytest.fixture(scope="session")
def sample_data(tmp_path_factory):
    return samples.make(tmp_path_factory.mktemp("samples") / "data")
