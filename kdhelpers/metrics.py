"""Metrics: AUROC, AP and F1 by scikit-learn, and exact AUPRO; in per cent unless stated otherwise."""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from kdhelpers.protocols import LAST_EPOCHS

TOP = 0.01  # share of a map's pixels, the highest ones, whose mean is the score "top"
AUPRO_LIMIT = 0.3  # the false-positive rate up to which the PRO curve is integrated
Arrays = Sequence[np.ndarray]  # (h, w) for each image; sizes may differ


def auroc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """AUROC in per cent, None where one label is absent; only labels 0 (normal) and 1 (anomalous) count."""
    known = labels <= 1
    if len(np.unique(labels[known])) < 2:
        return None
    return 100 * float(roc_auc_score(labels[known], scores[known]))


def detection(scores: np.ndarray, labels: np.ndarray, epochs: Sequence[int]) -> dict:
    """Image-level results in per cent; auroc, ap and f1_max are means over the last ten epochs (Sec. 4).

    scores: float (k, n), a row for each of `epochs`. labels: as in `auroc`. Returns {auroc, auroc_last, auroc_by_epoch,
    ap, f1_max}; auroc_by_epoch is a list of [epoch, AUROC] for all rows. All are None, with a `reason`, when there are
    no normal or no anomalous images.
    """
    if len(present := np.unique(labels[labels <= 1])) < 2:
        kind = "anomalous" if 0 in present else "normal"
        unlabeled = f"; {np.sum(labels > 1)} are unlabeled" if np.any(labels > 1) else ""
        names = ("auroc", "auroc_last", "auroc_by_epoch", "ap", "f1_max")
        return dict.fromkeys(names) | {"reason": f"there are no {kind} test images{unlabeled}"}
    scores, labels = scores[:, labels <= 1], labels[labels <= 1]
    by_epoch, last = [auroc(s, labels) for s in scores], scores[-LAST_EPOCHS:]
    return {
        "auroc": float(np.mean(by_epoch[-LAST_EPOCHS:])),
        "auroc_last": by_epoch[-1],
        "auroc_by_epoch": [[epoch, value] for epoch, value in zip(epochs, by_epoch, strict=True)],
        "ap": float(np.mean([100 * average_precision_score(labels, s) for s in last])),
        "f1_max": float(np.mean([100 * f1_max(s, labels) for s in last])),
    }


def f1_max(scores: np.ndarray, labels: np.ndarray) -> float:
    """The best F1 over all thresholds, in [0, 1]."""
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


def localization(maps: Arrays, masks: Arrays, labels: np.ndarray, *, soft: bool, counted: Arrays | None = None) -> dict:
    """Pixel-level results in per cent: {pixel_auroc, pixel_auroc_all, aupro}; None with a `reason` where undefined.

    maps, masks: float (h, w) of each image. `pixel_auroc` covers the anomalous images, as in the article;
    `pixel_auroc_all` covers all test images, as is usual elsewhere. soft: use masks as resized, in [0, 1], instead of
    thresholding them at 0.5. counted: bool (h, w) of each image, False where pixels count in nothing; None: all count.
    """
    counted = [np.ones(heat.shape, bool) for heat in maps] if counted is None else counted
    binary = [(mask >= 0.5) & c for mask, c in zip(masks, counted, strict=True)]
    anomalous = np.flatnonzero(labels == 1)
    if not any(binary[i].any() for i in anomalous):
        reason = "no mask has a pixel set" if len(anomalous) else "there are no anomalous images"
    elif all(binary[i][counted[i]].all() for i in anomalous):
        reason = "the masks leave out no pixel of the anomalous images"
    else:
        kept = (maps, masks if soft else binary)
        heat, weights = ([one[c] for one, c in zip(each, counted, strict=True)] for each in kept)
        return {
            "pixel_auroc": 100 * pixel_auroc([heat[i] for i in anomalous], [weights[i] for i in anomalous]),
            "pixel_auroc_all": 100 * pixel_auroc(heat, weights),
            "aupro": 100 * aupro(maps, binary, counted),
        }
    return dict.fromkeys(("pixel_auroc", "pixel_auroc_all", "aupro")) | {"reason": reason}


def localization_of(maps: dict[str, np.ndarray], split, protocol) -> dict[str, dict]:
    """Pixel-level results of each named set of maps of a split's test images, with the protocol's choice of masks.

    Images that have no mask and are not known to be normal are excluded.
    """
    known = (split.labels == 0) | split.masks.any(axis=(1, 2))
    masks, labels = split.masks[known], split.labels[known]
    return {name: localization(m[known], masks, labels, soft=protocol.soft_masks) for name, m in maps.items()}


def strongest(heat: np.ndarray, score_by: str) -> float:
    """Score an image by its map (h, w): its "maximum", or the mean of its "top" 1 %. Not in the article."""
    return float(np.sort(heat, axis=None)[-strongest_count(heat.size, score_by) :].mean())


def strongest_count(pixels: int, score_by: str) -> int:
    """How many of a map's pixels, the highest ones, `strongest` averages."""
    return 1 if score_by == "maximum" else max(1, round(TOP * pixels))


def detection_by_maps(maps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """AUROC in per cent with images scored by `strongest`: {auroc_maximum, auroc_top}; {} where one label is absent."""
    scores = {by: np.array([strongest(heat, by) for heat in maps]) for by in ("maximum", "top")}
    found = {f"auroc_{by}": auroc(score, labels) for by, score in scores.items()}
    return {} if None in found.values() else found


def pixel_auroc(maps: Arrays, masks: Arrays) -> float:
    """Area under the ROC curve of pixels, in [0, 1]; a pixel with mask m has weight m as anomalous, 1 − m as normal.

    maps, masks: (h, w) of each image. With masks of 0 and 1, this is scikit-learn's `roc_auc_score`.
    """
    score, weight = np.concatenate(maps, axis=None), np.concatenate(masks, axis=None, dtype=np.float64)
    anomalous, normal = weight > 0, weight < 1
    return float(
        roc_auc_score(
            np.repeat([1, 0], [anomalous.sum(), normal.sum()]),
            np.concatenate([score[anomalous], score[normal]]),
            sample_weight=np.concatenate([weight[anomalous], 1 - weight[normal]]),
        )
    )


def aupro(maps: Arrays, masks: Arrays, counted: Arrays | None = None) -> float:
    """Area under per-region overlap against false-positive rate up to AUPRO_LIMIT, divided by it; in [0, 1].

    maps, masks: float and bool (h, w) of each image, with at least one region and one normal pixel. Overlap: mean over
    all 8-connected regions of all masks. False-positive rate: over all pixels outside them. Exact: one sort, with tied
    pixels taken together, and linear interpolation. counted: as in `localization`; no mask has other pixels.
    """
    inside = slice(None) if counted is None else np.concatenate(counted, axis=None)
    gains, regions = [], 0  # what a pixel above the threshold adds to the sum of the regions' overlaps
    for mask in masks:
        numbers, count = label(mask, structure=np.ones((3, 3)))
        gains.append(np.where(mask, 1 / np.bincount(numbers.ravel())[numbers], 0))
        regions += count
    score = np.concatenate(maps, axis=None)[inside]
    order = np.argsort(-score, kind="stable")
    score = score[order]
    last_of_tie = np.append(score[1:] != score[:-1], True)
    gained = np.concatenate(gains, axis=None)[inside][order]
    overlap = np.append(0, np.cumsum(gained)[last_of_tie] / regions)
    normal = ~np.concatenate(masks, axis=None)[inside][order]
    rate = np.append(0, np.cumsum(normal)[last_of_tie] / normal.sum())
    low = rate <= AUPRO_LIMIT
    rate_cut = np.append(rate[low], AUPRO_LIMIT)
    overlap_cut = np.append(overlap[low], np.interp(AUPRO_LIMIT, rate, overlap))
    return min(1.0, float(np.trapezoid(overlap_cut, rate_cut)) / AUPRO_LIMIT)
