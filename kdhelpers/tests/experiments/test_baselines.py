"""The trivial baselines, against cases whose answer is known and numpy's singular values."""

import numpy as np
import pytest
import torch

from kdhelpers.data import Split
from kdhelpers.data.images import Images
from kdhelpers.experiments import baselines


def split(train, test, labels):
    n = len(test)
    as_images = [Images(torch.from_numpy(np.asarray(x, np.uint8))) for x in (train, test)]
    return Split("x", "y", *as_images, np.asarray(labels, np.uint8), None, [""] * n, [""] * n, "")


def test_brightness_is_signed_and_pca_sees_what_training_images_have_not():
    stripes = np.zeros((30, 1, 32, 32))
    stripes[:, :, ::2] = np.random.default_rng(0).integers(50, 250, (30, 1, 1, 1))
    normal, across = stripes[20:], np.swapaxes(stripes[:10], 2, 3)
    labels = [0] * 10 + [1] * 10
    assert baselines.without_network(split(stripes[:20], [*normal, *across], labels))["pca"] == 100
    brighter = split(stripes[:20], [*(normal + 5), *(normal * 0)], labels)
    assert baselines.without_network(brighter)["mean_brightness"] == 0
    assert baselines.without_network(split(normal, normal, [0] * 10)) == {"mean_brightness": None, "pca": None}


@pytest.mark.parametrize("count, channels", [(12, 3), (40, 1)])
def test_pca_is_the_singular_value_decomposition(count, channels, monkeypatch):
    monkeypatch.setattr(baselines, "PCA_SIZE", 4)
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, channels, 8, 8)) for n in (count, 6))
    x, y = (im.reshape(len(im), channels, 4, 2, 4, 2).mean((3, 5)).reshape(len(im), -1) / 255 for im in (train, test))
    mean = x.mean(0)
    _, s, v = np.linalg.svd(x - mean, full_matrices=False)
    kept = v[: np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.95) + 1]
    left = (y - mean) - (y - mean) @ kept.T @ kept
    of = split(train, test, [0] * 6)
    assert np.allclose(baselines._pca(of.train, of.test), (left**2).sum(1), rtol=1e-6)
