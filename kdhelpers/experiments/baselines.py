"""Trivial baselines of a split: what a method must exceed to have found anything."""

import numpy as np
from sklearn.decomposition import PCA
from torch.nn.functional import interpolate

from kdhelpers.data.images import Images
from kdhelpers.data.split import Split
from kdhelpers.metrics import auroc

PCA_SIZE = 32  # pixels of a side; larger images are averaged down to it
PCA_VARIANCE = 0.95  # share of the variance that the components explain


def without_network(split: Split) -> dict[str, float | None]:
    """AUROC in per cent of two scores that need no network; None where one label is absent.

    mean_brightness: the mean of all pixels; brighter is more anomalous. pca: the squared error of an image's
    reconstruction from the principal components of the normal training images.
    """
    brightness = np.array([float(image.float().mean()) for image in split.test.pixels])
    scores = {"mean_brightness": brightness, "pca": _pca(split.train, split.test)}
    return {name: auroc(score, split.labels) for name, score in scores.items()}


def _pca(train: Images, test: Images) -> np.ndarray:
    x, y = _vectors(train), _vectors(test)
    solver = "covariance_eigh" if x.shape[0] > x.shape[1] else "full"
    pca = PCA(PCA_VARIANCE, svd_solver=solver).fit(x)
    return np.square(y - pca.inverse_transform(pca.transform(y))).sum(1)


def _vectors(images: Images) -> np.ndarray:
    """Images as float64 (n, channels · PCA_SIZE²) in [0, 1]."""
    chunks = [
        interpolate(chunk.float() / 255, (PCA_SIZE, PCA_SIZE), mode="area").flatten(1).cpu().double().numpy()
        for chunk in images.pixels.split(256)
    ]
    return np.concatenate(chunks)
