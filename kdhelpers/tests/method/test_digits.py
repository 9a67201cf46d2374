"""On real digits of scikit-learn: a trained cloner beats chance and an untrained one, ImageNet weights random ones.

The digits come with scikit-learn, so that this needs no download; the source is VGG-16, untrained where its ImageNet
weights are absent.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from kdhelpers import losses, networks, paths, training
from kdhelpers.cache import SourceActivations
from kdhelpers.data import weights
from kdhelpers.data.images import Images, resize_arrays
from kdhelpers.protocols import PROTOCOLS

IMAGENET = next(filter(Path.is_file, [weights.imagenet_path(), paths.DATA_DIR / "vgg16_imagenet.pt"]), None)


@cache
def auroc(source: str, epochs: int) -> float:
    """Of the second half of digits 0 to 4, 3 being learned from the first half; in [0, 1]."""
    x, y = load_digits(return_X_y=True)
    pixels = resize_arrays((x.reshape(-1, 8, 8) * 255 / 16).round().astype(np.uint8), 32)
    first = np.arange(len(y)) % 2 == 0
    tested = ~first & (y < 5)
    network, _ = weights.load_source(source)
    train, test = (
        SourceActivations(network, Images(pixels[torch.tensor(which)])) for which in (first & (y == 3), tested)
    )
    cloner = networks.make_cloner(PROTOCOLS["official"], seed=0)
    if epochs:
        training.fit(train, cloner, PROTOCOLS["official"], epochs=epochs, batch_size=16, seed=0)
    return roc_auc_score(y[tested] != 3, losses.scores(test, cloner, PROTOCOLS["official"]))


def test_a_trained_cloner_beats_chance_and_an_untrained_cloner():
    assert auroc("untrained", 10) > max(0.9, auroc("untrained", 0) + 0.1)


@pytest.mark.skipif(IMAGENET is None, reason="VGG-16's ImageNet weights are absent")
def test_an_imagenet_source_beats_an_untrained_one():
    assert auroc(str(IMAGENET), 10) > max(0.98, auroc("untrained", 10))
