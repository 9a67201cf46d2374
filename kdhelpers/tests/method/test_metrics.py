"""The metrics against slow definitions, and the trivial detectors against the same by hand."""

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from kdhelpers import metrics


def test_detection_is_the_mean_over_the_last_ten_epochs():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 20 + [1] * 30, np.uint8)
    scores = (rng.random((12, 50)) + 0.3 * labels).round(2)  # with ties
    found = metrics.detection(scores, labels, range(5, 17))
    by_pairs = [100 * np.mean([(a > n) + (a == n) / 2 for a in s[20:] for n in s[:20]]) for s in scores]
    assert np.allclose(found["auroc_by_epoch"], np.c_[range(5, 17), by_pairs])
    assert found["auroc"] == pytest.approx(np.mean(by_pairs[2:]))
    assert found["ap"] == pytest.approx(np.mean([100 * average_precision_score(labels, s) for s in scores[2:]]))
    assert found["f1_max"] == pytest.approx(np.mean([100 * metrics.f1_max(s, labels) for s in scores[2:]]))
    assert found["auroc_last"] == pytest.approx(by_pairs[-1])


def test_f1_max_over_every_threshold():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 60)
    scores = (rng.random(60) + 0.4 * labels).round(1)

    def f1(threshold):
        predicted = scores >= threshold
        true = np.sum(predicted & (labels == 1))
        return 2 * true / (predicted.sum() + labels.sum())

    assert metrics.f1_max(scores, labels) == pytest.approx(max(f1(t) for t in scores))


@pytest.mark.parametrize(
    "labels, auroc, reason",
    [
        ([0, 0, 0, 0, 0], None, "there are no anomalous test images"),
        ([1, 1, 1, 1, 1], None, "there are no normal test images"),
        ([0, 2, 0, 2, 2], None, "there are no anomalous test images; 3 are unlabeled"),
        ([0, 1, 0, 2, 2], 100, None),
    ],
)
def test_auroc_is_of_labeled_images_and_none_with_a_reason_where_undefined(labels, auroc, reason):
    found = metrics.detection(np.array([[0.1, 0.5, 0.4, 0.9, 0.0]]), np.array(labels), [1])
    assert (found["auroc"], found.get("reason")) == (auroc, reason)
    assert (found["auroc_by_epoch"] is None) == (auroc is None)


@pytest.mark.parametrize(
    "labels, first, reason",
    [
        ([0, 1], 2, "no mask has a pixel set"),
        ([1, 2], 1, "no mask has a pixel set"),
        ([0, 2], 1, "no anomalous images"),
        ([1, 1], 0, "leave out no pixel"),
    ],
)
def test_only_masks_of_anomalous_images_count(labels, first, reason):
    masks = np.zeros((2, 4, 4))
    masks[first:] = 1
    found = metrics.localization(np.random.rand(2, 4, 4), masks, np.array(labels), soft=True)
    assert found["pixel_auroc"] is None and reason in found["reason"]


def test_pixel_auroc_of_soft_masks_counts_pixels_in_parts():
    rng = np.random.default_rng(3)
    quarters = rng.integers(0, 5, (2, 8, 8))  # a pixel of weight k/4 is k anomalous and 4 − k normal pixels
    maps = rng.random((2, 8, 8)).round(1)
    labels = np.concatenate([[1] * k + [0] * (4 - k) for k in quarters.ravel()])
    expected = roc_auc_score(labels, np.repeat(maps.ravel(), 4))
    assert metrics.pixel_auroc(maps, (quarters / 4).astype(np.float32)) == pytest.approx(expected)


def test_localization_counts_anomalous_images_or_all():
    rng = np.random.default_rng(4)
    masks = np.zeros((4, 8, 8), np.float32)
    masks[2:, 2:5, 2:5] = 1
    maps = rng.random((4, 8, 8)) + 0.3 * masks
    soft = np.where(np.eye(8), 0.4, 0.6) * masks  # some pixels are less than half in the defect
    found, masks = metrics.localization(maps, soft, np.array([0, 0, 1, 1]), soft=False), soft >= 0.5
    assert found["pixel_auroc"] == pytest.approx(100 * roc_auc_score(masks[2:].ravel(), maps[2:].ravel()))
    assert found["pixel_auroc_all"] == pytest.approx(100 * roc_auc_score(masks.ravel(), maps.ravel()))


def slow_aupro(maps, masks, limit):
    """The definition, threshold by threshold; regions found by OpenCV."""
    regions = []
    for map_, mask in zip(maps, masks, strict=True):
        count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        regions += [map_[numbers == k] for k in range(1, count)]
    rate, overlap = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        rate.append(np.mean(maps[~masks] >= threshold))
        overlap.append(np.mean([np.mean(region >= threshold) for region in regions]))
    rate, overlap = np.array(rate), np.array(overlap)
    low, after = rate <= limit, np.argmax(rate > limit)
    share = (limit - rate[after - 1]) / (rate[after] - rate[after - 1])
    at_limit = overlap[after - 1] + share * (overlap[after] - overlap[after - 1])
    return np.trapezoid([*overlap[low], at_limit], [*rate[low], limit]) / limit


@pytest.mark.parametrize("seed", range(4))
def test_aupro_equals_its_slow_definition_with_ties(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((3, 12, 12)) > 0.85
    maps = (rng.random((3, 12, 12)) + 0.4 * masks).round(1 if seed % 2 else 8)
    assert metrics.aupro(maps, masks) == pytest.approx(slow_aupro(maps, masks, 0.3), abs=1e-12)


def test_aupro_at_its_ends():
    masks = np.zeros((1, 10, 10), bool)
    masks[0, :3, :3] = True
    masks[0, 6:, 6:] = True
    assert metrics.aupro(masks.astype(float), masks) == 1.0
    half = np.arange(10) < 5
    counted = np.broadcast_to(half, masks.shape)
    some = np.random.default_rng(1).random(masks.shape)
    assert metrics.aupro(some, masks & half, counted) == metrics.aupro(some[..., :5], masks[..., :5])
    assert metrics.aupro(1.0 - masks, masks) == 0.0
    assert metrics.aupro(np.zeros((1, 10, 10)), masks) == pytest.approx(0.15)  # one tie: the diagonal up to 0.3
