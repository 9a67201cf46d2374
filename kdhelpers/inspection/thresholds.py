"""The threshold, the score above which an image is bad: set on held-out good images for a chosen false-alarm rate."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

CONFIDENCE = 0.95
_MARGIN = 1e-5  # relative; scores vary by less between numbers of threads, and between PyTorch and ONNX


@dataclass(frozen=True)
class Threshold:
    """A threshold and the reliability of its false-alarm rate; str() describes both. Rates are shares in [0, 1]."""

    value: float  # an image is bad when its score exceeds it, in float32
    false_alarms: float | None  # the requested rate; None: the value was set by hand
    held_out: int  # number of good images it was set on
    above: int  # how many of them exceed it
    interval: tuple[float, float]  # of the rate among all good images, with a confidence of 95 %

    def __str__(self) -> str:
        low, high = self.interval
        asked = "set by hand" if self.false_alarms is None else f"{100 * self.false_alarms:.3g} % may"
        lines = [
            f"threshold {self.value:.6g}: {self.above} of {self.held_out} held-out good images exceed it, {asked}",
            f"with {100 * CONFIDENCE:.0f} % confidence, between {100 * low:.1f} % and {100 * high:.1f} % of all good "
            "images do (exact interval)",
        ]
        if self.false_alarms is not None and self.held_out < (least := needed(self.false_alarms)):
            few = f"too few held-out good images to be sure of {100 * self.false_alarms:.3g} %"
            lines.append(f"{few}: there are {self.held_out}, and {least} are needed, even if none of them exceeds it")
        return "\n".join(lines)


def choose(scores: np.ndarray, false_alarms: float) -> Threshold:
    """The smallest of these scores that at most a share of `false_alarms` of them exceeds, raised by `_MARGIN`.

    scores: float32 (n,), of one or more good images that the cloner did not learn. false_alarms: in (0, 1).

    The Clopper-Pearson interval is also valid for a threshold set on the same images: the rate above the (k + 1)-th
    highest of n scores is distributed as Beta(k + 1, n − k). Its upper quantile is the interval's upper end, and its
    lower quantile lies above the interval's lower end.
    """
    allowed = math.floor(false_alarms * len(scores) + 1e-9)  # 0.29 · 100 is 28.999999999999996
    value = np.sort(scores)[::-1][allowed]
    return at(scores, value + _MARGIN * abs(value), false_alarms)


def at(scores: np.ndarray, value: float, false_alarms: float | None = None) -> Threshold:
    """The threshold `value`, with its false-alarm rate on the scores, float32 (n,), of held-out good images."""
    above = int(np.sum(scores > np.float32(value)))  # fewer than allowed when scores tie
    interval = binomtest(above, len(scores)).proportion_ci(CONFIDENCE, method="exact")
    return Threshold(float(value), false_alarms, len(scores), above, (float(interval.low), float(interval.high)))


def needed(false_alarms: float) -> int:
    """The least number of good images that prove a rate of at most `false_alarms` when none exceeds the threshold.

    This is the smallest n with (1 − false_alarms)^n ≤ 1 − CONFIDENCE.
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-false_alarms) - 1e-9)
