"""Trivial detectors on the same split, without any network: what every result should be compared with."""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from torch.nn.functional import interpolate

SIZE = 32  # pixels; larger images are averaged down to it, for PCA
TITLES = {"mean_brightness": "mean brightness alone", "pca": "PCA of the pixels"}
VARIANCE = 0.95  # PCA keeps the components that explain this share


def trivial(split) -> dict[str, float | None]:
    """AUROC in per cent of two scores of a `data.Split`; None where only one kind of test image is there.

    mean_brightness: the mean over all pixels, brighter counting as more anomalous; below 50, darker ones are the
    anomalies. pca: the squared error of reconstructing an image's pixels from the principal components of the normal
    training images.
    """
    scores = {"mean_brightness": _mean_brightness(split.test), "pca": _pca(split.train, split.test)}
    known = split.labels <= 1
    if len(np.unique(split.labels[known])) < 2:
        return dict.fromkeys(scores)
    return {name: 100 * float(roc_auc_score(split.labels[known], score[known])) for name, score in scores.items()}


def either_way(name: str, value: float | None) -> float | None:
    """A value of `trivial` as it is compared: of brightness, whichever of brighter and darker separates better."""
    return max(value, 100 - value) if value is not None and name == "mean_brightness" else value


def _mean_brightness(images) -> np.ndarray:
    return np.array([float(image.float().mean()) for image in images.pixels])


def _pca(train, test) -> np.ndarray:
    x, y = _vectors(train), _vectors(test)
    solver = "covariance_eigh" if x.shape[0] > x.shape[1] else "full"
    pca = PCA(VARIANCE, svd_solver=solver).fit(x)
    return np.square(y - pca.inverse_transform(pca.transform(y))).sum(1)


def _vectors(images) -> np.ndarray:
    """Images as float64 (n, channels · SIZE²) in [0, 1]."""
    chunks = [
        interpolate(chunk.float() / 255, (SIZE, SIZE), mode="area").flatten(1).cpu().double().numpy()
        for chunk in images.pixels.split(256)
    ]
    return np.concatenate(chunks)
