"""The trivial detectors, against the same by hand."""

import numpy as np
import pytest
import torch

from kdhelpers import metrics
from kdhelpers.data import Split
from kdhelpers.data.images import Images


def split(train, test, labels):
    n = len(test)
    as_images = [Images(torch.from_numpy(np.asarray(x, np.uint8))) for x in (train, test)]
    return Split("x", "y", *as_images, np.asarray(labels, np.uint8), None, [""] * n, [""] * n, "")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_brightness_is_signed_and_pca_sees_what_training_images_have_not(rng):
    stripes = np.zeros((30, 1, 32, 32))
    stripes[:, :, ::2] = rng.integers(50, 250, (30, 1, 1, 1))
    across = np.swapaxes(stripes[:10], 2, 3)
    found = metrics.baselines(split(stripes[:20], [*stripes[20:], *across], [0] * 10 + [1] * 10))
    assert found["pca"] == 100
    darker = metrics.baselines(split(stripes[:20], [*(stripes[20:] + 5), *(stripes[20:] * 0)], [0] * 10 + [1] * 10))
    assert darker["mean_brightness"] == 0


@pytest.mark.parametrize("count, channels", [(12, 3), (40, 1)])
def test_pca_is_the_singular_value_decomposition(rng, count, channels, monkeypatch):
    monkeypatch.setattr(metrics, "PCA_SIZE", 4)
    train, test = (rng.integers(0, 256, (n, channels, 8, 8)) for n in (count, 6))
    x, y = (im.reshape(len(im), channels, 4, 2, 4, 2).mean((3, 5)).reshape(len(im), -1) / 255 for im in (train, test))
    mean = x.mean(0)
    _, s, v = np.linalg.svd(x - mean, full_matrices=False)
    kept = v[: np.searchsorted(np.cumsum(s**2) / np.sum(s**2), metrics.PCA_VARIANCE) + 1]
    left = (y - mean) - (y - mean) @ kept.T @ kept
    images = [Images(torch.from_numpy(im.astype(np.uint8))) for im in (train, test)]
    assert np.allclose(metrics._pca(*images), (left**2).sum(1), rtol=1e-6)


def test_without_anomalous_images_there_is_no_number(rng):
    images = rng.integers(0, 256, (4, 1, 32, 32))
    assert metrics.baselines(split(images, images, [0] * 4)) == {"mean_brightness": None, "pca": None}
