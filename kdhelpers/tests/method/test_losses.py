"""Eq. 1, 3 and 4 against float64 by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdhelpers import cache, losses, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.protocols import PROTOCOLS


@pytest.fixture
def activations():
    rng = np.random.default_rng(0)
    shapes = [(3, 128, 8, 8), (3, 256, 4, 4), (3, 512, 2, 2), (3, 512, 1, 1)]
    return [[torch.from_numpy(rng.random(shape, dtype=np.float32)) for shape in shapes] for _ in "sc"]


def by_hand(a_s, a_c):
    """L_val and L_dir for each image, in float64, element by element as the article writes them."""
    l_val, l_dir = np.zeros(len(a_s[0])), np.zeros(len(a_s[0]))
    for s, c in zip(a_s, a_c, strict=True):
        for n in range(len(s)):
            u, v = (a[n].double().numpy().ravel() for a in (s, c))
            l_val[n] += sum((u - v) ** 2) / len(u)
            l_dir[n] += 1 - (u @ v) / (np.sqrt(u @ u) * np.sqrt(v @ v))
    return l_val, l_dir


def test_the_article_s_example_of_two_directions():
    # Sec. 3.1: a1 and a2 are equally far from a*, L_dir is 1 for a1 and 0 for a2.
    e = 0.7
    target, a1, a2 = (torch.tensor([v]) for v in ([0.0, e, 0.0], [0.0, 0.0, e], [0.0, (2**0.5 + 1) * e, 0.0]))
    assert losses.value_loss([target], [a1]).item() == pytest.approx(losses.value_loss([target], [a2]).item())
    assert losses.direction_loss([target], [a1]).item() == pytest.approx(1)
    assert losses.direction_loss([target], [a2]).item() == pytest.approx(0, abs=1e-6)
    assert losses.direction_loss([target], [0 * a1]).item() == 1  # a vector of zeros has no direction


@pytest.mark.parametrize(
    "name, changed, points, expected",
    [
        ("official", {}, 3, lambda v, d: d + 0.01 * v),
        ("text", {"lam": 0.3}, 4, lambda v, d: v + 0.3 * d),
        ("text", {"lam": 1.0, "terms": "val"}, 4, lambda v, d: v),
        ("text", {"lam": 1.0, "points": 2, "terms": "dir"}, 2, lambda v, d: d),
    ],
)
def test_the_score_takes_the_protocol_s_points_order_and_terms(activations, name, changed, points, expected):
    a_s, a_c = activations
    score = losses.score(a_s, a_c, replace(PROTOCOLS[name], **changed))
    np.testing.assert_allclose(score, expected(*by_hand(a_s[-points:], a_c[-points:])), rtol=1e-5)


def test_lambda_brings_both_terms_to_one_scale_in_several_chunks_too(source, images, monkeypatch):
    cloner = networks.make_cloner(PROTOCOLS["text"], seed=0)
    known = SourceActivations(source, images)
    with torch.no_grad():
        both = [networks.critical_points(network, images[:]) for network in (source, cloner.eval())]
    l_val, l_dir = by_hand(*both)
    lam = losses.calibrate(known, cloner, PROTOCOLS["text"])
    assert lam == pytest.approx(l_val.sum() / l_dir.sum(), rel=1e-4)
    monkeypatch.setattr(known, "by_chunks", lambda function: cache.in_chunks(function, len(known), 3))
    assert losses.calibrate(known, cloner, PROTOCOLS["text"]) == pytest.approx(lam, rel=1e-5)
    swapped = replace(PROTOCOLS["text"], order="dir + lambda * val")
    assert losses.calibrate(known, cloner, swapped) == pytest.approx(1 / lam, rel=1e-6)
